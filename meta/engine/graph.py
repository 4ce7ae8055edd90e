"""Recorded programs captured as CUDA graphs: hundreds of small kernels in one launch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from meta.context import FIXED, Context
from meta.engine.native.ir import Unsupported
from meta.engine.replay import Program
from meta.episode import Episode, from_leaves, input_names, leaves, signature
from meta.params import Params

WARM_UP = 3  # runs before the capture, in which libraries choose their kernels and take their workspaces


class _Graph(NamedTuple):
    """A captured program, the tensors it reads, and those it writes at every replay."""

    graph: Any
    params: Params
    episodes: Episode
    numbers: tuple[Tensor, ...]
    outputs: Any


class Captured:
    """CUDA graphs of programs, one per purpose and shapes."""

    def __init__(self) -> None:
        """Makes an empty collection."""
        self._graphs: dict[Any, _Graph] = {}

    def run(
        self, what: Any, function: Callable[..., Any], params: Params, episodes: Episode, context: Context = FIXED
    ) -> Any:
        """Returns ``function(params, episodes, context)``, captured at its first call for these shapes.

        Args:
            what: hashable label of the computation; calls with equal labels must compute the same function.
            function: (θ, episodes, context) -> tensors, without side effects.
            params: θ, on a CUDA device.
            episodes: a batch of tasks on the same device, [T, ...].
            context: whose numbers are inputs of the program.

        Raises:
            Unsupported: if the tensors are not on a CUDA device.
        """
        device = next(iter(params.values())).device
        if device.type != "cuda":
            raise Unsupported(f"engine graph expects tensors on a CUDA device, received some on {device.type}")
        key = (what, context.key, signature(episodes))
        if key not in self._graphs:
            self._graphs[key] = _capture(function, params, episodes, context)
        graph = self._graphs[key]
        for name, value in params.items():
            graph.params[name].copy_(value)
        for place, leaf in zip(leaves(graph.episodes), leaves(episodes), strict=True):
            place.copy_(leaf)
        for place, number in zip(graph.numbers, context.numbers.values(), strict=True):
            place.copy_(number)
        graph.graph.replay()
        # The next replay writes into the same tensors.
        return tree_map(lambda output: output.clone() if isinstance(output, Tensor) else output, graph.outputs)


def _capture(function: Callable[..., Any], params: Params, episodes: Episode, context: Context) -> _Graph:
    params = {name: value.clone() for name, value in params.items()}
    episodes = from_leaves([leaf.clone() for leaf in leaves(episodes)], input_names(episodes))
    context = context.replaced([number.clone() for number in context.numbers.values()])
    program = Program(function, params, episodes, context)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            program(params, episodes, context)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = program(params, episodes, context)
    return _Graph(graph, params, episodes, tuple(context.numbers.values()), outputs)

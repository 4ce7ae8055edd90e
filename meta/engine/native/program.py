"""One recorded function of θ and an episode, compiled and run over the tasks of a batch."""

import ctypes
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from importlib import resources
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, decomposition_table
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from meta.engine.native.emit import source
from meta.engine.native.ir import Input, Unsupported
from meta.engine.native.lower import KINDS, lower
from meta.engine.native.operations import Closed
from meta.engine.native.schedule import Output, Plan
from meta.engine.native.toolchain import Library, load
from meta.engine.simplify import RECORDER, require_repeatable, simplify
from meta.episode import Episode, from_leaves, leaves, unstack
from meta.params import Params

REALS = {torch.float32: "float", torch.float64: "double"}
HEADERS = ("kernels.h", "pooling.h")
aten = torch.ops.aten


class _Translated(NamedTuple):
    """A function of one task, planned: its source, the shapes of its outputs, and how they hang together.

    ``memory`` is what it computes in, in bytes, the kernels' own scratch not counted.
    """

    source: str
    memory: int
    shapes: list[tuple[tuple[int, ...], bool, tuple[int, ...]]]
    outputs: Any


def translated(function: Callable[..., Any], params: Params, episodes: Episode, *, adds: bool) -> _Translated:
    """Record a function of one task, plan it, and write it in C++.

    Args:
        function: (θ, episode of one task) -> tensors; with ``adds`` a pair, of which the first part is added up.
        params: θ, for its shapes.
        episodes: a batch, for the shapes of one task.
        adds: whether there is such a part.

    Raises:
        Unsupported: if the function holds an operation that has no translation.
    """
    dtype = next(iter(params.values())).dtype
    if dtype not in REALS:
        raise Unsupported(f"parameters of type {dtype}")
    example = unstack(episodes)
    graph, structure = _record(function, params, example)
    inputs = _inputs([*params.values()], shared=True) + _inputs(leaves(example), shared=False)
    values = lower(graph, inputs, dtype)
    totals = [False] * len(values)
    if adds:
        numbers = tree_unflatten(list(range(len(values))), structure)
        for number in tree_flatten(numbers[0])[0]:
            totals[number] = True
    outputs = [
        Output(value.shape, "real", source=value, total=total, number=number, shared=False)
        for number, (value, total) in enumerate(zip(values, totals, strict=True))
    ]
    plan = Plan(outputs, dtype.itemsize)
    headers = (resources.files("meta.engine.native").joinpath(name).read_text(encoding="utf-8") for name in HEADERS)
    text = "\n".join([*headers, source(plan, inputs, REALS[dtype])])
    memory = plan.shared_bytes + plan.arena_bytes
    return _Translated(text, memory, [(one.shape, one.total, plan.output_strides(one)) for one in outputs], structure)


class Program:
    """A function of θ and one task, computed for every task of a batch.

    The part of the outputs that is added up comes as sums over the tasks, the others with a leading task dimension.
    Memory is one arena for each thread, whatever the number of tasks. Tasks are cut into as many runs as there are
    threads; each run adds up from its first task on, and the runs' sums are added in order.
    """

    def __init__(
        self, function: Callable[..., Any], params: Params, episodes: Episode, *, adds: bool, threads: int = 1
    ) -> None:
        """Translate and compile; see :func:`translated`.

        Raises:
            Unsupported: if there is no translation, or no compiler.
        """
        self._names = tuple(params)
        self._threads = threads
        text, _, self._shapes, self._outputs = translated(function, params, episodes, adds=adds)
        self._library: Library = load(text)
        self._shared = _memory(self._library.shared_bytes)
        self._arenas = [_memory(self._library.arena_bytes) for _ in range(threads)]

    def fork(self) -> "Program":
        """The same program with memory of its own, so that another thread may run it at the same time."""
        twin = copy(self)
        twin._shared = _memory(self._library.shared_bytes)
        twin._arenas = [_memory(self._library.arena_bytes) for _ in range(self._threads)]
        return twin

    def __call__(self, params: Params, episodes: Episode) -> Any:
        """The outputs for a batch."""
        theta = [params[name].contiguous() for name in self._names]
        given = [leaf.contiguous() for leaf in leaves(episodes)]
        count = len(episodes.description)
        runs = min(self._threads, count)
        each = {
            number: theta[0].new_empty((count, *shape))
            for number, (shape, total, _) in enumerate(self._shapes)
            if not total
        }
        parts = [
            [each[n] if n in each else theta[0].new_empty(prod(shape)) for n, (shape, _, _) in enumerate(self._shapes)]
            for _ in range(runs)
        ]
        where, episode, shared = _pointers(theta), _pointers(given), self._shared.data_ptr()
        self._library.prepare(where, shared)

        def run(number: int) -> None:
            first, last = count * number // runs, count * (number + 1) // runs
            arena, outputs = self._arenas[number].data_ptr(), _pointers(parts[number])
            self._library.run(where, episode, shared, arena, outputs, first, last)

        if runs == 1:
            run(0)
        else:
            with ThreadPoolExecutor(runs) as pool:
                list(pool.map(run, range(runs)))
        found = []
        # In order of the runs, whichever ended first: bits depend on the number of threads alone.
        for number, (shape, total, steps) in enumerate(self._shapes):
            result = parts[0][number]
            if total:
                for part in parts[1:]:
                    result += part[number]
                result = result.as_strided(shape, steps)
            found.append(result)
        return tree_unflatten(found, self._outputs)


def _memory(size: int) -> Tensor:
    """Bytes that torch allocated, aligned to 64."""
    return torch.empty(max(size, 64), dtype=torch.uint8)


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _inputs(tensors: Sequence[Tensor], *, shared: bool) -> list[Input]:
    found = []
    for number, tensor in enumerate(tensors):
        if tensor.dtype not in KINDS:
            raise Unsupported(f"inputs of type {tensor.dtype}")
        found.append(Input(tuple(tensor.shape), KINDS[tensor.dtype], number=number, shared=shared))
    return found


def _record(function: Callable[..., Any], params: Params, episode: Episode) -> tuple[GraphModule, Any]:
    """Record a function of one task in operators that have a translation; the program, and its outputs' structure."""
    outputs: Any = None

    def flat(*tensors: Tensor) -> list[Tensor]:
        nonlocal outputs
        given = dict(zip(params, tensors[: len(params)], strict=True))
        with Closed():
            found, outputs = tree_flatten(function(given, from_leaves(tensors[len(params) :])))
        return found

    # Fake tensors have shapes and no numbers: recording computes nothing and takes no memory for results.
    recorder = make_fx(flat, decomposition_table=_decompositions(), tracing_mode="fake", _allow_non_fake_inputs=True)
    with RECORDER:
        program = recorder(*params.values(), *leaves(episode))
    require_repeatable(program)
    return simplify(program), outputs


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """How operators without a translation are put together from others. To collect them takes torch some time."""
    table = dict(core_aten_decompositions())
    for operator in (aten._log_softmax.default, aten._log_softmax_backward_data.default, aten.addmm.default):
        table[operator] = decomposition_table[operator]
    return table

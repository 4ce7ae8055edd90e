"""Execution of an algorithm over a batch of tasks: several strategies behind one function.

Every strategy computes the same sums: the gradient of Σ_i L_i(θ) over the T tasks of a shard, and per-task
metrics.

``vmap``
    One vectorised program over the task dimension (``torch.func``). The reference.
``trace``
    The same program recorded once as a flat list of tensor operations and replayed, without the transforms'
    own cost at every call. The operations are those of ``vmap`` in the same order, so are the bits.
``loop``
    One task after another, each by replaying the recorded program of one task. Convolutions stay ordinary ones, where
    vectorising over tasks with weights of their own makes grouped ones; only one task's intermediates are kept.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from meta.algorithms import Algorithm, Metrics
from meta.episode import Episode, from_leaves, leaves, unstack
from meta.params import Params
from meta.simplify import simplify


class MetaGradient(NamedTuple):
    """The sum of the tasks' meta-gradients and their metrics, each [T]."""

    gradient: Params
    metrics: Metrics


class Engine(NamedTuple):
    """The two batch functions of an algorithm under one strategy.

    Attributes:
        name: the strategy.
        meta_gradient: (θ, episodes [T, ...]) -> MetaGradient.
        scores: (θ, episodes [T, ...], numbers of inner steps) -> query scores [T, K].
    """

    name: str
    meta_gradient: Callable[[Params, Episode], MetaGradient]
    scores: Callable[[Params, Episode, tuple[int, ...]], Tensor]


def vmapped(algorithm: Algorithm) -> Engine:
    """Vectorise over tasks with ``torch.func.vmap`` at every call.

    Each task's derivative is taken first and vectorised then. The other way round, a derivative through a
    vectorised program, is wrong with layer and batch norms: ``vmap`` computes their backward pass from a mean
    and a deviation that torch does not differentiate again (github.com/pytorch/functorch/issues/534).
    """
    one_gradient = grad(algorithm.meta_loss, has_aux=True)

    def meta_gradient(params: Params, episodes: Episode) -> MetaGradient:
        gradients, metrics = vmap(one_gradient, in_dims=(None, 0))(params, episodes)
        return MetaGradient({name: value.sum(dim=0) for name, value in gradients.items()}, metrics)

    def scores(params: Params, episodes: Episode, steps: tuple[int, ...]) -> Tensor:
        def one(params: Params, episode: Episode) -> Tensor:
            return algorithm.scores(params, episode, steps)

        result: Tensor = vmap(one, in_dims=(None, 0))(params, episodes)
        return result

    return Engine("vmap", meta_gradient, scores)


def traced(algorithm: Algorithm) -> Engine:
    """Record the vectorised program once per input shape and replay it."""
    reference = vmapped(algorithm)
    recorded = _Recorded()

    def meta_gradient(params: Params, episodes: Episode) -> MetaGradient:
        return MetaGradient(*recorded.run("gradient", reference.meta_gradient, params, episodes))

    def scores(params: Params, episodes: Episode, steps: tuple[int, ...]) -> Tensor:
        def fixed(params: Params, episodes: Episode) -> Tensor:
            return reference.scores(params, episodes, steps)

        result: Tensor = recorded.run(steps, fixed, params, episodes)
        return result

    return Engine("trace", meta_gradient, scores)


def looped(algorithm: Algorithm) -> Engine:
    """Record one task's program once per input shape and replay it task after task, adding up from the first on."""
    one_gradient = grad(algorithm.meta_loss, has_aux=True)
    recorded = _Recorded()

    def meta_gradient(params: Params, episodes: Episode) -> MetaGradient:
        total: Params = {}
        rows: list[Metrics] = []
        for task in range(len(episodes.description)):
            gradient, metrics = recorded.run("gradient", one_gradient, params, unstack(episodes, task))
            rows.append(metrics)
            total = {name: total[name].add_(part) if total else part.clone() for name, part in gradient.items()}
        return MetaGradient(total, {name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def scores(params: Params, episodes: Episode, steps: tuple[int, ...]) -> Tensor:
        def one(params: Params, episode: Episode) -> Tensor:
            return algorithm.scores(params, episode, steps)

        tasks = range(len(episodes.description))
        return torch.stack([recorded.run(steps, one, params, unstack(episodes, task)) for task in tasks])

    return Engine("loop", meta_gradient, scores)


class _Recorded:
    """Recorded programs by what they compute and the shapes they were recorded for."""

    def __init__(self) -> None:
        self._programs: dict[Any, _Program] = {}

    def run(self, what: Any, function: Callable[..., Any], params: Params, episodes: Episode) -> Any:
        """``function(params, episodes)``, recorded at its first call for these shapes."""
        key = (what, *((leaf.shape, leaf.dtype) for leaf in leaves(episodes)))
        if key not in self._programs:
            self._programs[key] = _Program(function, params, episodes)
        return self._programs[key](params, episodes)


class _Program:
    """One recorded program: a function of flat lists of tensors, so that replaying walks no nested containers."""

    def __init__(self, function: Callable[..., Any], params: Params, episodes: Episode) -> None:
        """Record ``function(params, episodes)`` for tensors of these shapes."""
        self._names = tuple(params)
        self._outputs: Any = None

        def flat(*tensors: Tensor) -> list[Tensor]:
            count = len(self._names)
            given = dict(zip(self._names, tensors[:count], strict=True))
            outputs, self._outputs = tree_flatten(function(given, from_leaves(tensors[count:])))
            return outputs

        self._run = simplify(make_fx(flat)(*self._flat(params, episodes))).forward

    def _flat(self, params: Params, episodes: Episode) -> list[Tensor]:
        return [*(params[name] for name in self._names), *leaves(episodes)]

    def __call__(self, params: Params, episodes: Episode) -> Any:
        """Replay the program."""
        with torch.inference_mode():  # the derivative is part of the program; nothing else is to be recorded
            return tree_unflatten(self._run(*self._flat(params, episodes)), self._outputs)


STRATEGIES: dict[str, Callable[[Algorithm], Engine]] = {"vmap": vmapped, "trace": traced, "loop": looped}
# Above so many support and query images a task, grouped convolutions cost more than one call per task: 10 images
# (5-way 1-shot, 1 query) ran 1.3 times faster under trace, 50 (5-shot, 5 queries) 1.2 times faster under loop.
CONVOLUTION_BATCH = 16


def choose(params: Params, episode: Episode, device: torch.device) -> str:
    """The strategy that measured best for such a model and such tasks.

    The rule looks at nothing that is measured in the run, so equal configurations run equal programs.

    Args:
        params: θ, for the shapes of its weights.
        episode: one training task, for its sizes.
        device: where it will run. Only processors have been measured; one task alone would leave a GPU idle.
    """
    if device.type != "cpu":
        return "trace"
    convolves = any(value.dim() == 4 for value in params.values())
    images = len(episode.support.inputs) + len(episode.query.inputs)
    return "loop" if convolves and images > CONVOLUTION_BATCH else "trace"


def build(name: str, algorithm: Algorithm) -> Engine:
    """The engine of a strategy in :data:`STRATEGIES`."""
    return STRATEGIES[name](algorithm)

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
``native``
    One task after another by a program in C++ made for the model and the shapes at hand, compiled once by the machine's
    compiler and kept on disk; see :mod:`meta.native`. Threads take tasks of their own. Processors only.
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
from meta.native.strategy import Native
from meta.params import Params
from meta.simplify import direct, simplify


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


Strategy = Callable[[Algorithm, int], Engine]


def vmapped(algorithm: Algorithm, threads: int = 1) -> Engine:
    """Vectorise over tasks with ``torch.func.vmap`` at every call.

    Each task's derivative is taken first and vectorised then. The other way round, a derivative through a
    vectorised program, is wrong with layer and batch norms: ``vmap`` computes their backward pass from a mean
    and a deviation that torch does not differentiate again (github.com/pytorch/functorch/issues/534).
    """
    del threads  # torch's own
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


def traced(algorithm: Algorithm, threads: int = 1) -> Engine:
    """Record the vectorised program once per input shape and replay it."""
    del threads
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


def looped(algorithm: Algorithm, threads: int = 1) -> Engine:
    """Record one task's program once per input shape and replay it task after task, adding up from the first on."""
    del threads
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


def native(algorithm: Algorithm, threads: int = 1) -> Engine:
    """Compile one task's program once per shape of a task and run it task after task, on ``threads`` threads."""
    programs = Native(algorithm, threads)

    def meta_gradient(params: Params, episodes: Episode) -> MetaGradient:
        return MetaGradient(*programs.gradient(params, episodes))

    return Engine("native", meta_gradient, programs.scores)


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

        self._run = direct(simplify(make_fx(flat)(*self._flat(params, episodes)))).forward

    def _flat(self, params: Params, episodes: Episode) -> list[Tensor]:
        return [*(params[name] for name in self._names), *leaves(episodes)]

    def __call__(self, params: Params, episodes: Episode) -> Any:
        """Replay the program."""
        with torch.inference_mode():  # the derivative is part of the program; nothing else is to be recorded
            return tree_unflatten(self._run(*self._flat(params, episodes)), self._outputs)


STRATEGIES: dict[str, Strategy] = {"vmap": vmapped, "trace": traced, "loop": looped, "native": native}


def build(name: str, algorithm: Algorithm, *, threads: int = 1) -> Engine:
    """The engine of a strategy in :data:`STRATEGIES`.

    Args:
        name: the strategy.
        algorithm: what is computed.
        threads: how many tasks may be computed at a time, where the strategy does not leave that to torch.
    """
    return STRATEGIES[name](algorithm, threads)

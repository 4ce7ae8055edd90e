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
``eager``
    One task after another, computed anew each time, for models that cannot be recorded. The slowest.
``native``
    One task after another by a program in C++ made for the model and the shapes at hand, compiled once by the machine's
    compiler and kept on disk; see :mod:`meta.engine.native`. Threads take tasks of their own. Processors only.
``graph``
    The program of ``trace``, captured once as a CUDA graph: a replay is one launch. NVIDIA devices only.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.func import vmap

from meta.algorithms import Algorithm, Metrics, gradient_of
from meta.context import FIXED, Context
from meta.engine.graph import Captured
from meta.engine.native.strategy import Native
from meta.engine.replay import Recorded
from meta.episode import Episode, from_leaves, input_names, leaves, signature, split, unstack
from meta.params import Params


class MetaGradient(NamedTuple):
    """The result of one shard.

    Attributes:
        gradient: the sum of the tasks' meta-gradients, by parameter.
        metrics: each task's metrics by name, each [T].
    """

    gradient: Params
    metrics: Metrics


class MetaGradients(Protocol):
    """The summed meta-gradient of a batch of tasks."""

    def __call__(self, params: Params, episodes: Episode, context: Context = FIXED) -> MetaGradient:
        """Returns the sum of the tasks' meta-gradients, and their metrics.

        Args:
            params: θ.
            episodes: a batch of tasks, [T, ...].
            context: the scheduled numbers.
        """
        ...


class Scores(Protocol):
    """The query scores of a batch of tasks."""

    def __call__(self, params: Params, episodes: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        """Returns the scores [T, K] after each number of inner steps.

        Args:
            params: θ.
            episodes: a batch of tasks, [T, ...].
            steps: K increasing numbers of inner steps.
            context: the scheduled numbers.
        """
        ...


class Engine(NamedTuple):
    """The two batch functions of an algorithm under one strategy.

    Attributes:
        name: the strategy.
        meta_gradient: (θ, episodes [T, ...], context) -> MetaGradient.
        scores: (θ, episodes [T, ...], numbers of inner steps, context) -> query scores [T, K].
    """

    name: str
    meta_gradient: MetaGradients
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The resources of the machine that an engine may use.

    Attributes:
        threads: tasks computed at a time, where the strategy does not leave threads to torch.
        memory: bytes for the tensors between inputs and results; strategies that can compute fewer tasks at a time to
            stay within it do so. None: no limit.
    """

    threads: int = 1
    memory: int | None = None


Strategy = Callable[[Algorithm, Limits], Engine]


NONE = Limits()


def _over_tasks(
    function: Callable[[Params, Episode, Context], Any], params: Params, episodes: Episode, context: Context
) -> Any:
    """Returns ``function(params, episode, context)`` for every task of a batch, vectorised."""
    parts, names = leaves(episodes), input_names(episodes)

    def one(params: Params, *parts: Tensor) -> Any:
        return function(params, from_leaves(parts, names), context)

    return vmap(one, in_dims=(None, *[0] * len(parts)))(params, *parts)


def vmapped(algorithm: Algorithm, limits: Limits = NONE) -> Engine:
    """Returns the engine that vectorises over tasks with ``torch.func.vmap`` at every call.

    Each task's derivative is taken first and vectorised then. The other way round, a derivative through a
    vectorised program, is wrong with layer and batch norms: ``vmap`` computes their backward pass from a mean
    and a deviation that torch does not differentiate again (github.com/pytorch/functorch/issues/534).

    Args:
        algorithm: the algorithm to execute.
        limits: not used.
    """
    del limits
    one_gradient = gradient_of(algorithm)

    def meta_gradient(params: Params, episodes: Episode, context: Context = FIXED) -> MetaGradient:
        gradients, metrics = _over_tasks(one_gradient, params, episodes, context)
        return MetaGradient({name: value.sum(dim=0) for name, value in gradients.items()}, metrics)

    def scores(params: Params, episodes: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        def one(params: Params, episode: Episode, context: Context) -> Tensor:
            return algorithm.scores(params, episode, steps, context)

        result: Tensor = _over_tasks(one, params, episodes, context)
        return result

    return Engine("vmap", meta_gradient, scores)


def traced(algorithm: Algorithm, limits: Limits = NONE) -> Engine:
    """Returns the engine that records the vectorised program once per input shape and replays it.

    If the program would need more than ``limits.memory``, it is recorded for fewer tasks and replayed for consecutive
    parts of the batch; the parts' sums are added in order.

    Args:
        algorithm: the algorithm to execute.
        limits: ``memory`` is used.
    """
    reference = vmapped(algorithm)
    recorded = Recorded()
    most: dict[Any, int] = {}

    def meta_gradient(params: Params, episodes: Episode, context: Context = FIXED) -> MetaGradient:
        shape = context.key, signature(episodes)
        if limits.memory is None:
            most[shape] = len(episodes.description)
        elif shape not in most:
            most[shape] = recorded.tasks("gradient", reference.meta_gradient, params, episodes, limits.memory, context)
        parts = [
            MetaGradient(*recorded.run("gradient", reference.meta_gradient, params, part, context))
            for part in split(episodes, most[shape])
        ]
        if len(parts) == 1:
            return parts[0]
        return MetaGradient(
            {name: functools.reduce(torch.add, [part.gradient[name] for part in parts]) for name in params},
            {name: torch.cat([part.metrics[name] for part in parts]) for name in parts[0].metrics},
        )

    return Engine("trace", meta_gradient, _scores(reference, recorded))


def looped(algorithm: Algorithm, limits: Limits = NONE) -> Engine:
    """Returns the engine that records one task's program once per input shape and replays it task by task.

    The tasks' gradients are added in order, from the first on.

    Args:
        algorithm: the algorithm to execute.
        limits: not used.
    """
    del limits
    one_gradient = gradient_of(algorithm)
    recorded = Recorded()

    def meta_gradient(params: Params, episodes: Episode, context: Context = FIXED) -> MetaGradient:
        total: Params = {}
        rows: list[Metrics] = []
        for task in range(len(episodes.description)):
            gradient, metrics = recorded.run("gradient", one_gradient, params, unstack(episodes, task), context)
            rows.append(metrics)
            total = {name: total[name].add_(part) if total else part.clone() for name, part in gradient.items()}
        return MetaGradient(total, {name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def scores(params: Params, episodes: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        def one(params: Params, episode: Episode, context: Context) -> Tensor:
            return algorithm.scores(params, episode, steps, context)

        tasks = range(len(episodes.description))
        return torch.stack([recorded.run(steps, one, params, unstack(episodes, task), context) for task in tasks])

    return Engine("loop", meta_gradient, scores)


def eager(algorithm: Algorithm, limits: Limits = NONE) -> Engine:
    """Returns the engine that computes task by task without recording.

    It runs models whose operations depend on the values of their inputs.

    Args:
        algorithm: the algorithm to execute.
        limits: not used.
    """
    del limits
    one_gradient = gradient_of(algorithm)

    def meta_gradient(params: Params, episodes: Episode, context: Context = FIXED) -> MetaGradient:
        total: Params = {}
        rows: list[Metrics] = []
        for task in range(len(episodes.description)):
            gradient, metrics = one_gradient(params, unstack(episodes, task), context)
            rows.append(metrics)
            total = {name: total[name] + part if total else part for name, part in gradient.items()}
        return MetaGradient(total, {name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    def scores(params: Params, episodes: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        tasks = range(len(episodes.description))
        return torch.stack([algorithm.scores(params, unstack(episodes, task), steps, context) for task in tasks])

    return Engine("eager", meta_gradient, scores)


def native(algorithm: Algorithm, limits: Limits = NONE) -> Engine:
    """Returns the engine that compiles one task's program once per shape.

    Args:
        algorithm: the algorithm to execute.
        limits: ``threads`` tasks are computed at a time.
    """
    programs = Native(algorithm, limits.threads)

    def meta_gradient(params: Params, episodes: Episode, context: Context = FIXED) -> MetaGradient:
        return MetaGradient(*programs.gradient(params, episodes, context))

    return Engine("native", meta_gradient, programs.scores)


def graphed(algorithm: Algorithm, limits: Limits = NONE) -> Engine:
    """Returns the engine that captures the vectorised program once per input shape as a CUDA graph and replays it.

    Args:
        algorithm: the algorithm to execute.
        limits: not used.
    """
    del limits
    reference = vmapped(algorithm)
    captured = Captured()

    def meta_gradient(params: Params, episodes: Episode, context: Context = FIXED) -> MetaGradient:
        return MetaGradient(*captured.run("gradient", reference.meta_gradient, params, episodes, context))

    return Engine("graph", meta_gradient, _scores(reference, captured))


def _scores(reference: Engine, programs: Recorded | Captured) -> Scores:
    """Returns the scores function of an engine: one program for each tuple of numbers of inner steps."""

    def scores(params: Params, episodes: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        def fixed(params: Params, episodes: Episode, context: Context) -> Tensor:
            return reference.scores(params, episodes, steps, context)

        result: Tensor = programs.run(steps, fixed, params, episodes, context)
        return result

    return scores


STRATEGIES: dict[str, Strategy] = {
    "vmap": vmapped,
    "trace": traced,
    "loop": looped,
    "eager": eager,
    "native": native,
    "graph": graphed,
}


def build(name: str, algorithm: Algorithm, limits: Limits = NONE) -> Engine:
    """Returns the engine of a strategy.

    Args:
        name: a key of :data:`STRATEGIES`.
        algorithm: the algorithm to execute.
        limits: threads and memory that the engine may use.
    """
    return STRATEGIES[name](algorithm, limits)

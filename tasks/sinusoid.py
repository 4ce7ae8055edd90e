"""Sinusoid regression, the paper's first experiment (Finn et al. 2017, 5.1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from meta.episode import Episode, Examples, unstack
from tasks.family import FamilySpec, Split, TaskKey, uniforms

MOST_POINTS = 10_000
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """Curves y = a sin(x - b) with amplitude a and phase b drawn per task, inputs x drawn per point.

    The three splits are independent draws from the same distribution. Curve, support points and query points
    are drawn from separate streams: a test with 5 points and one with 20 have the same curves and the same query
    points.

    Attributes:
        shot: support points K, 1 to 10,000.
        query: query points in training.
        eval_shot: support points in validation and test; ``None``: as in training.
        eval_query: query points in validation and test; ``None``: as in training.
        amplitude: range of a.
        phase: range of b, in radians.
        inputs: range of x, in radians.

    >>> episode = Sinusoid(shot=5).draw(TaskKey(0, "test", 3))
    >>> tuple(episode.support.inputs.shape), tuple(episode.query.targets.shape)
    ((5, 1), (10, 1))
    """

    shot: int = 10
    query: int = 10
    eval_shot: int | None = None
    eval_query: int | None = None
    amplitude: Interval = (0.1, 5.0)
    phase: Interval = (0.0, math.pi)
    inputs: Interval = (-5.0, 5.0)

    def __post_init__(self) -> None:
        """Checks sizes and ranges."""
        for name in ("shot", "query", "eval_shot", "eval_query"):
            points = getattr(self, name)
            if points is not None and not 1 <= points <= MOST_POINTS:
                raise ValueError(f"{name}: a sinusoid gives 1 to {MOST_POINTS} points per task, received {points}")
        for name in ("amplitude", "phase", "inputs"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name}: expected a range [low, high] with low ≤ high, received [{low}, {high}]")

    @property
    def spec(self) -> FamilySpec:
        """One input, one output; a task is described by amplitude and phase."""
        return FamilySpec(input_shape=(1,), outputs=1, objective="mse", description=2)

    def draw(self, key: TaskKey) -> Episode:
        """Returns support and query points [B, 1] of one task, and (a, b) as the description [2]; float64."""
        return unstack(self.draw_range(key.seed, key.split, range(key.index, key.index + 1)))

    def draw_range(self, seed: int, split: Split, tasks: range) -> Episode:
        """Returns the episodes of T consecutive tasks, points [T, B, 1], descriptions [T, 2]; float64.

        Args:
            seed: seed of the run.
            split: the tasks' split.
            tasks: consecutive numbers of tasks.
        """
        curves = self._curves(seed, split, tasks)
        amplitude, phase = curves[:, 0, None, None], curves[:, 1, None, None]
        shot, query = self.shot, self.query
        if split != "train":
            shot, query = self.eval_shot or shot, self.eval_query or query

        def examples(purpose: str, points: int) -> Examples:
            x = _between(self.inputs, uniforms(seed, split, tasks, purpose, points))[..., None]
            return Examples(torch.from_numpy(x), torch.from_numpy(amplitude * np.sin(x - phase)))

        return Episode(examples("support", shot), examples("query", query), torch.from_numpy(curves))

    def function(self, key: TaskKey) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
        """Returns the task's true curve, x -> a sin(x - b), for figures."""
        amplitude, phase = self._curves(key.seed, key.split, range(key.index, key.index + 1))[0]
        return lambda x: amplitude * np.sin(x - phase)

    def _curves(self, seed: int, split: Split, tasks: range) -> NDArray[np.float64]:
        """Amplitude and phase of each task, [T, 2]."""
        numbers = uniforms(seed, split, tasks, "task", 2)
        return np.stack([_between(self.amplitude, numbers[:, 0]), _between(self.phase, numbers[:, 1])], axis=1)


def _between(interval: Interval, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = interval
    return low + (high - low) * numbers

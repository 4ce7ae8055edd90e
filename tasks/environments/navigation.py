"""Navigation in the plane: the smallest problem of Finn et al. 2017 (5.3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.environments.contract import EnvironmentSpec, Lockstep, Numbers, Step
from tasks.environments.rows import Rows, counts
from tasks.family import TaskKey


@dataclass(frozen=True, kw_only=True)
class Navigation:
    """A point in the plane that has to reach its task's goal, which it does not observe.

    Every trajectory starts at the origin. An action is a displacement: x ← x + clip(scale · a, ±limit). The reward is
    minus the distance to the goal after the move, or minus its square. A trajectory terminates where the point comes
    within ``radius`` of the goal and is truncated after ``horizon`` steps. Only the goal is random, uniform in a
    square; it is the task's description.

    The paper writes of squared distances; the authors' program takes the distance, counts the point as arrived once
    both coordinates are within 0.01, and maps a policy's action of 1 to a displacement of 0.1 (``scale: 0.1`` here).

    Attributes:
        goal: range of either coordinate of the goal.
        limit: longest displacement along either axis.
        scale: displacement per unit of action, before the limit.
        radius: Euclidean distance at which the goal counts as reached.
        reward: ``distance`` or ``squared``.
        horizon: most steps H of a trajectory.
        trajectories: trajectories N per task and inner step.

    >>> family = Navigation(trajectories=1)
    >>> lockstep = family.start([TaskKey(0, "train", 7)], inner_step=0)
    >>> lockstep.reset()
    array([[[0., 0.]]])
    >>> lockstep.step(np.array([[[0.05, 3.0]]])).observations
    array([[[0.05, 0.1 ]]])
    """

    goal: tuple[float, float] = (-0.5, 0.5)
    limit: float = 0.1
    scale: float = 1.0
    radius: float = 0.01
    reward: Literal["distance", "squared"] = "distance"
    horizon: int = 100
    trajectories: int = 20

    def __post_init__(self) -> None:
        """Checks sizes and ranges."""
        counts(horizon=self.horizon, trajectories=self.trajectories)
        low, high = self.goal
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"goal: expected a range [low, high] with low ≤ high, received [{low}, {high}]")
        for name in ("limit", "scale", "radius"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: expected a finite number above zero, received {value}")
        if self.reward not in ("distance", "squared"):
            raise ValueError(f"reward: expected 'distance' or 'squared', received '{self.reward}'")

    @property
    def spec(self) -> EnvironmentSpec:
        """Observations are two coordinates, actions two displacements."""
        return EnvironmentSpec(
            input_shape=(2,), outputs=2, description=2, horizon=self.horizon, trajectories=self.trajectories
        )

    def describe(self, keys: Sequence[TaskKey]) -> Numbers:
        """Returns the goals, float64 [T, 2]."""
        low, high = self.goal
        numbers = np.stack([key.rng("task").random(2) for key in keys]) if keys else np.zeros((0, 2))
        return low + (high - low) * numbers

    def start(self, keys: Sequence[TaskKey], inner_step: int) -> Lockstep:
        """Returns N points per task at the origin.

        Args:
            keys: the T tasks.
            inner_step: not used.
        """
        return _Points(self, self.describe(keys), Rows(keys, inner_step, self.trajectories))


class _Points:
    """T × N points, each drawn to the goal of its task."""

    def __init__(self, family: Navigation, goals: Numbers, rows: Rows) -> None:
        self._family, self._goals, self._rows = family, goals[:, None], rows

    def reset(self) -> Numbers:
        return self._rows.begin(np.zeros((*self._rows.ended.shape, 2)))

    def step(self, actions: Numbers) -> Step:
        family, rows = self._family, self._rows
        moves = np.clip(family.scale * rows.vectors(actions, 2), -family.limit, family.limit)
        positions = rows.observations + moves
        away = positions - self._goals
        squared = away[..., 0] * away[..., 0] + away[..., 1] * away[..., 1]
        distance = np.sqrt(squared)
        terminated = distance < family.radius
        truncated = ~terminated & (rows.taken >= family.horizon)
        return rows.conclude(positions, -(distance if family.reward == "distance" else squared), terminated, truncated)

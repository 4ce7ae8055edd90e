"""The bookkeeping of T tasks × N trajectories that step together: which have ended, and whose fault an error is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.environments.contract import Flags, Numbers, RolloutError, Step
from tasks.family import TaskKey


class Rows:
    """What every :class:`Lockstep` has to remember besides the states of its environments.

    Attributes:
        keys: the T tasks.
        inner_step: which batch of rollouts this is.
        taken: number of the environment step that is being taken, or was last; 0 is the reset.
        ended: [T, N], the trajectories that are over.
        observations: [T, N, O], the last observation of each.
    """

    def __init__(self, keys: Sequence[TaskKey], inner_step: int, trajectories: int) -> None:
        self.keys, self.inner_step, self.trajectories = tuple(keys), inner_step, trajectories
        self.taken = 0
        self.ended: Flags = np.zeros((len(self.keys), trajectories), dtype=np.bool_)
        self.observations: Numbers = np.zeros((len(self.keys), trajectories, 0))

    def begin(self, observations: Numbers) -> Numbers:
        """Note the first observations, [T, N, O], and hand out a copy."""
        self.taken = 0
        self.ended = np.zeros_like(self.ended)
        self.observations = observations
        return observations.copy()

    def conclude(self, observations: Numbers, rewards: Numbers, terminated: Flags, truncated: Flags) -> Step:
        """One step's answer, in which trajectories that had ended before stand still."""
        before, going = self.ended, ~self.ended
        observations = np.where(before[..., None], self.observations, observations)
        step = Step(observations.copy(), np.where(before, 0.0, rewards), terminated & going, truncated & going)
        self.observations, self.ended = observations, before | step.terminated | step.truncated
        return step

    def vectors(self, actions: Numbers, size: int) -> Numbers:
        """The next step's actions as [T, N, A] finite numbers, with zeros for the trajectories that have ended.

        Raises:
            RolloutError: naming the first trajectory whose action is none.
        """
        actions = self._next(actions, (*self.ended.shape, size))
        finite = np.asarray(np.isfinite(actions).all(axis=-1))
        self.require(finite, "finite actions", actions, POLICY)
        return np.where(self.ended[..., None], 0.0, actions)

    def numbers(self, actions: Numbers, count: int) -> NDArray[np.int64]:
        """The next step's actions as [T, N] whole numbers below ``count``, 0 for the trajectories that have ended.

        Raises:
            RolloutError: naming the first trajectory whose action is none.
        """
        actions = self._next(actions, self.ended.shape)
        allowed = (actions >= 0) & (actions < count) & (actions == np.floor(actions))
        self.require(allowed, f"actions from 0 to {count - 1}", actions, POLICY)
        return np.where(self.ended, 0, actions).astype(np.int64)

    def require(self, kept: Flags, expected: str, values: Numbers, remedy: str) -> None:
        """Raise for the first trajectory still running whose flag in ``kept`` [T, N] is False, showing its value."""
        broken = ~(kept | self.ended)
        if broken.any():
            task, trajectory = (int(number) for number in np.argwhere(broken)[0])
            raise self.error(task, trajectory, f"expected {expected}, received {values[task, trajectory]}; {remedy}")

    def error(self, task: int, trajectory: int | None, message: str) -> RolloutError:
        """An error about one trajectory, or an unknown one, in the step that is being taken."""
        key = self.keys[task]
        which = "" if trajectory is None else f"trajectory {trajectory}, "
        return RolloutError(
            f"{key.split} task {key.index}, inner step {self.inner_step}, {which}"
            f"environment step {self.taken}: {message}"
        )

    def _next(self, actions: Numbers, shape: tuple[int, ...]) -> Numbers:
        self.taken += 1
        actions = np.asarray(actions, dtype=np.float64)
        if actions.shape != shape:
            raise ValueError(f"expected actions of shape {shape}, received {actions.shape}")
        return actions


POLICY = "the policy has diverged, or was made for other actions: lower the step sizes, or check its outputs"


def counts(**sizes: int) -> None:
    """Check that named sizes are above zero.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected a number above zero, received {size}")

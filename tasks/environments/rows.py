"""The state that T tasks × N trajectories share while they step together: which have ended, and errors about them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.environments.contract import Flags, Numbers, RolloutError, Step
from tasks.family import TaskKey


class Rows:
    """The state that every :class:`Lockstep` keeps besides the states of its environments.

    Attributes:
        keys: the T tasks.
        inner_step: number of inner steps before these rollouts.
        trajectories: trajectories N per task.
        taken: number of the current environment step; 0 is the reset.
        ended: bool [T, N], the trajectories that are over.
        observations: float64 [T, N, O], the last observation of each.
    """

    def __init__(self, keys: Sequence[TaskKey], inner_step: int, trajectories: int) -> None:
        self.keys, self.inner_step, self.trajectories = tuple(keys), inner_step, trajectories
        self.taken = 0
        self.ended: Flags = np.zeros((len(self.keys), trajectories), dtype=np.bool_)
        self.observations: Numbers = np.zeros((len(self.keys), trajectories, 0))

    def begin(self, observations: Numbers) -> Numbers:
        """Stores the first observations, [T, N, O], and returns a copy."""
        self.taken = 0
        self.ended = np.zeros_like(self.ended)
        self.observations = observations
        return observations.copy()

    def conclude(self, observations: Numbers, rewards: Numbers, terminated: Flags, truncated: Flags) -> Step:
        """Returns the results of one step; rows of trajectories that had ended before repeat their last observation.

        Args:
            observations: [T, N, O].
            rewards: [T, N].
            terminated: bool [T, N].
            truncated: bool [T, N].
        """
        before, going = self.ended, ~self.ended
        observations = np.where(before[..., None], self.observations, observations)
        step = Step(observations.copy(), np.where(before, 0.0, rewards), terminated & going, truncated & going)
        self.observations, self.ended = observations, before | step.terminated | step.truncated
        return step

    def vectors(self, actions: Numbers, size: int) -> Numbers:
        """Returns the next step's actions as finite float64 [T, N, A], zero for the trajectories that have ended.

        Args:
            actions: as the policy sampled them, [T, N, A].
            size: A.

        Raises:
            RolloutError: naming the first trajectory whose action is not finite.
        """
        actions = self._next(actions, (*self.ended.shape, size))
        finite = np.asarray(np.isfinite(actions).all(axis=-1))
        self.require(finite, "finite actions", actions, POLICY)
        return np.where(self.ended[..., None], 0.0, actions)

    def numbers(self, actions: Numbers, count: int | tuple[int, ...]) -> NDArray[np.int64]:
        """Returns the next step's actions as int64, 0 for the trajectories that have ended.

        Args:
            actions: as the policy sampled them, [T, N], or [T, N, A] where an action is several numbers.
            count: number of actions, or of values of each component.

        Raises:
            RolloutError: naming the first trajectory whose action is not a whole number from 0 to the count less one.
        """
        several = (len(count),) if isinstance(count, tuple) else ()
        actions = self._next(actions, (*self.ended.shape, *several))
        most = np.array(count)
        allowed = (actions >= 0) & (actions < most) & (actions == np.floor(actions))
        limit = " and ".join(str(number - 1) for number in most.ravel())
        kept = np.asarray(allowed.all(axis=-1)) if several else allowed
        self.require(kept, f"actions from 0 to {limit}", actions, POLICY)
        return np.where(self.ended[..., None] if several else self.ended, 0, actions).astype(np.int64)

    def require(self, kept: Flags, expected: str, values: Numbers, remedy: str) -> None:
        """Checks a condition of every running trajectory.

        Args:
            kept: whether the condition holds, bool [T, N].
            expected: the condition in words.
            values: the values it is about, [T, N, ...].
            remedy: what to change.

        Raises:
            RolloutError: for the first running trajectory whose flag is False, with its value.
        """
        broken = ~(kept | self.ended)
        if broken.any():
            task, trajectory = (int(number) for number in np.argwhere(broken)[0])
            raise self.error(task, trajectory, f"expected {expected}, received {values[task, trajectory]}; {remedy}")

    def error(self, task: int, trajectory: int | None, message: str) -> RolloutError:
        """Returns an error about the current environment step.

        Args:
            task: position of the task among ``keys``.
            trajectory: position of the trajectory, None if it is not known.
            message: expected, received, what to do.
        """
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
    """Checks that named sizes are above zero.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected a number above zero, received {size}")

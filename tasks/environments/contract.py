"""The contract of a family of environments: tasks that are acted in, not drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.family import FamilySpec, TaskKey

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


class RolloutError(ValueError):
    """An environment that failed or broke its word; the message names the task and what to change."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec(FamilySpec):
    """What policies, samplers and algorithms need to know of a family of environments.

    ``input_shape`` is that of an observation, ``(O,)``; ``outputs`` the size A of an action, or the number of actions
    where they are discrete; ``objective`` is ``return``; ``description`` the size D of what an oracle is told.

    Attributes:
        discrete: whether an action is one of ``outputs`` numbers 0, 1, …, or a vector of ``outputs`` real ones.
        horizon: most steps H of a trajectory.
        trajectories: trajectories N per task and inner step.
    """

    objective: str = "return"
    discrete: bool = False
    horizon: int
    trajectories: int


class Step(NamedTuple):
    """What T tasks × N trajectories answer to one action each.

    ``observations`` [T, N, O] and ``rewards`` [T, N] in float64; ``terminated`` and ``truncated`` [T, N]: the task has
    come to its end, or was only cut off. Where a trajectory has ended before, its row repeats the last observation
    with reward 0 and both flags False.
    """

    observations: Numbers
    rewards: Numbers
    terminated: Flags
    truncated: Flags


class Lockstep(Protocol):
    """Environments of T tasks × N trajectories that step together."""

    def reset(self) -> Numbers:
        """First observations, [T, N, O]."""
        ...

    def step(self, actions: Numbers) -> Step:
        """One step of every trajectory.

        Args:
            actions: [T, N, A] as the policy gave them (an environment clips to its bounds itself), or [T, N] whole
                numbers where they are discrete. Those of ended trajectories are passed over.

        Raises:
            RolloutError: naming the task, if an environment raises or leaves its declared observation space.
        """
        ...


class EnvironmentFamily(Protocol):
    """A distribution of environments.

    A family of your own is a class whose constructor takes annotated keyword arguments (the keys of the
    configuration's ``task`` section), ``horizon`` and ``trajectories`` usually among them, with these members.
    """

    @property
    def spec(self) -> EnvironmentSpec:
        """What the family's environments look like."""
        ...

    def describe(self, keys: Sequence[TaskKey]) -> Numbers:
        """What an oracle is told of each task (a goal, a direction), [T, D]."""
        ...

    def start(self, keys: Sequence[TaskKey], inner_step: int) -> Lockstep:
        """The tasks' environments at the start of ``spec.trajectories`` trajectories each.

        A pure function of the keys, the inner step and the constructor's arguments: whatever is random in them (first
        states, transitions) comes from ``key.rng(purpose)`` with ``inner_step`` as part of the purpose, and a task's
        rows are the same bits whichever tasks are beside it.
        """
        ...

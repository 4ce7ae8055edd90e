"""The contract of a family of environments, whose tasks are RL tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.family import FamilySpec, TaskKey

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


class RolloutError(ValueError):
    """An environment that failed or broke its contract; the message names the task and what to change."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec(FamilySpec):
    """The sizes that policies, samplers and algorithms need of a family of environments.

    ``input_shape`` is that of an observation, ``(O,)``; ``outputs`` the size A of an action, or the number of actions
    where they are discrete; ``objective`` is ``return``; ``description`` the size D of the oracle's description.

    Attributes:
        objective: always ``return``.
        discrete: whether an action is one of ``outputs`` numbers 0, 1, …, or a vector of ``outputs`` real ones.
        choices: number of values of each component, where an action is ``outputs`` whole numbers, each from 0 on;
            ``discrete`` is then set as well.
        encoding: how observations become numbers, in words, if they are not numbers in the environment itself.
        horizon: most steps H of a trajectory.
        trajectories: trajectories N per task and inner step.
    """

    objective: str = "return"
    discrete: bool = False
    choices: tuple[int, ...] = ()
    encoding: str = ""
    horizon: int
    trajectories: int

    @property
    def single(self) -> bool:
        """Whether an action is one whole number, so that actions have no dimension of their own."""
        return self.discrete and not self.choices


class Step(NamedTuple):
    """The results of one step of T tasks × N trajectories.

    Once a trajectory has ended, its row repeats the last observation with reward 0 and both flags False.

    Attributes:
        observations: float64 [T, N, O].
        rewards: float64 [T, N].
        terminated: bool [T, N], whether the task itself has ended with this step.
        truncated: bool [T, N], whether the trajectory was cut off at this step.
    """

    observations: Numbers
    rewards: Numbers
    terminated: Flags
    truncated: Flags


class Lockstep(Protocol):
    """Environments of T tasks × N trajectories that step together.

    One that bounds its observations may have an attribute ``outside``, int64 [T]: how many observations of running
    trajectories have left the bounds since the reset.
    """

    def reset(self) -> Numbers:
        """Returns first observations, float64 [T, N, O]."""
        ...

    def step(self, actions: Numbers) -> Step:
        """Takes one step of every trajectory and returns its results.

        Args:
            actions: [T, N, A] as the policy sampled them (an environment clips to its bounds itself), or [T, N] where
                an action is one of several. Those of ended trajectories are ignored.

        Raises:
            RolloutError: naming the task, if an environment raises or leaves its declared observation space.
        """
        ...


class EnvironmentFamily(Protocol):
    """A distribution of environments.

    A custom family is a class whose constructor takes annotated keyword arguments (the keys of the
    configuration's ``task`` section), ``horizon`` and ``trajectories`` usually among them, with these members.
    """

    @property
    def spec(self) -> EnvironmentSpec:
        """Sizes of the family's observations, actions and rollouts."""
        ...

    def describe(self, keys: Sequence[TaskKey]) -> Numbers:
        """Returns the descriptions of tasks that an oracle observes (a goal, a direction), float64 [T, D]."""
        ...

    def start(self, keys: Sequence[TaskKey], inner_step: int) -> Lockstep:
        """Returns the environments of T tasks at the start of ``spec.trajectories`` trajectories each.

        A pure function of the arguments and the constructor's arguments: everything random (first states, transitions)
        is drawn from ``key.rng(purpose)`` with ``inner_step`` as part of the purpose, and a task's rows have the same
        bits
        whichever other tasks are among the keys.

        Args:
            keys: the T tasks.
            inner_step: number of inner steps before these rollouts.
        """
        ...

"""Small random decision processes whose expected returns can be computed exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.environments.contract import EnvironmentSpec, Lockstep, Numbers, Step
from tasks.environments.rows import Rows, counts
from tasks.family import TaskKey


@dataclass(frozen=True, kw_only=True)
class Tabular:
    """Finite Markov decision processes with random transitions and random rewards.

    For each task, state s and action a, the probabilities of the next state are drawn from a symmetric Dirichlet
    distribution and the reward r(s, a), deterministic given both, from a standard normal one. A trajectory
    starts in state 0 and terminates after exactly ``horizon`` steps: the end is part of the problem, so the value after
    it
    is zero. Observations are one-hot. With one state the tasks are bandits.

    Attributes:
        states: number S of states.
        actions: number A of actions.
        concentration: parameter of the Dirichlet distribution; small ones make transitions nearly deterministic.
        horizon: steps H of every trajectory.
        trajectories: trajectories N per task and inner step.

    >>> transitions, rewards = Tabular(states=3, actions=2).model([TaskKey(0, "train", 7)])
    >>> transitions.shape, rewards.shape
    ((1, 3, 2, 3), (1, 3, 2))
    """

    states: int = 5
    actions: int = 3
    concentration: float = 1.0
    horizon: int = 10
    trajectories: int = 20

    def __post_init__(self) -> None:
        """Checks sizes and the concentration."""
        counts(states=self.states, actions=self.actions, horizon=self.horizon, trajectories=self.trajectories)
        if not 0 < self.concentration < math.inf:
            raise ValueError(f"concentration: expected a number above zero, received {self.concentration}")

    @property
    def spec(self) -> EnvironmentSpec:
        """Observations are one-hot states, actions discrete; a task's description is all its rewards."""
        return EnvironmentSpec(
            input_shape=(self.states,),
            outputs=self.actions,
            description=self.states * self.actions,
            discrete=True,
            horizon=self.horizon,
            trajectories=self.trajectories,
        )

    def model(self, keys: Sequence[TaskKey]) -> tuple[Numbers, Numbers]:
        """Returns probabilities P(s' | s, a) [T, S, A, S] and rewards r(s, a) [T, S, A] of each task, float64."""
        table = (len(keys), self.states, self.actions)
        transitions, rewards = np.zeros((*table, self.states)), np.zeros(table)
        for row, key in enumerate(keys):
            rng = key.rng("task")
            transitions[row] = rng.dirichlet(np.full(self.states, self.concentration), size=table[1:])
            rewards[row] = rng.standard_normal(table[1:])
        return transitions, rewards

    def describe(self, keys: Sequence[TaskKey]) -> Numbers:
        """Returns the rewards, state by state, float64 [T, S · A]."""
        return self.model(keys)[1].reshape(len(keys), -1)

    def start(self, keys: Sequence[TaskKey], inner_step: int) -> Lockstep:
        """Returns trajectories in state 0; the random numbers of all their transitions are drawn here.

        Args:
            keys: the T tasks.
            inner_step: number of inner steps before these rollouts; each has random numbers of its own.
        """
        numbers = np.zeros((len(keys), self.horizon, self.trajectories))
        for row, key in enumerate(keys):
            numbers[row] = key.rng(f"env{inner_step}").random(numbers.shape[1:])
        return _Chains(self, *self.model(keys), numbers, Rows(keys, inner_step, self.trajectories))


class _Chains:
    """T × N Markov chains; step h of a chain is decided by one uniform number, [T, H, N]."""

    def __init__(self, family: Tabular, transitions: Numbers, rewards: Numbers, numbers: Numbers, rows: Rows) -> None:
        self._family, self._rewards, self._numbers, self._rows = family, rewards, numbers, rows
        self._thresholds = np.cumsum(transitions, axis=-1)[..., :-1]
        self._one_hot = np.eye(family.states)
        self._task = np.arange(len(rows.keys))[:, None]

    def reset(self) -> Numbers:
        self._states = np.zeros(self._rows.ended.shape, dtype=np.int64)
        return self._rows.begin(self._one_hot[self._states])

    def step(self, actions: Numbers) -> Step:
        family, rows = self._family, self._rows
        place = self._task, self._states, rows.numbers(actions, family.actions)
        number = self._numbers[:, min(rows.taken, family.horizon) - 1, :, None]
        # Inverse of the distribution function: the next state is the number of thresholds that have been reached.
        self._states = np.where(rows.ended, self._states, (number >= self._thresholds[place]).sum(axis=-1))
        terminated = np.full(rows.ended.shape, rows.taken >= family.horizon)
        observations, rewards = self._one_hot[self._states], self._rewards[place]
        return rows.conclude(observations, rewards, terminated, np.zeros_like(terminated))

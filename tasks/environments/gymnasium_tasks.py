"""Any gymnasium environment as a family of tasks."""

import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from tasks.environments.contract import EnvironmentSpec, Lockstep, Numbers, Step
from tasks.environments.rows import Rows, counts
from tasks.environments.varied import Varied, kind, kinds, parse, require_type
from tasks.environments.vectors import Pool, Vector, alone, numbers_of, together
from tasks.family import TaskKey

IDLE = 128  # vector environments that a family keeps for its next rollouts


@dataclass(frozen=True, kw_only=True)
class GymnasiumTasks:
    """Environments of one gymnasium identifier whose arguments, or options of reset, differ from task to task.

    Observations are vectors or arrays of numbers (``Box``, flattened), actions real vectors (``Box``, clipped to their
    bounds) or one of several (``Discrete``). First states come from seeds that are drawn per trajectory. An
    environment has to draw all its random numbers from its own generator, ``self.np_random``, and ``reset(seed=…)`` has
    to
    restore its whole state: :func:`tasks.check_environment_family` checks both.

    Attributes:
        id: a registered identifier, ``my_module:MyEnv-v0`` to import the module that registers it.
        kwargs: arguments of the constructor that all tasks share.
        vary: the values that differ between tasks: names with a range ``[low, high]``, from which a number is drawn
            uniformly, or ``{choice: [value, …]}``. Between two whole numbers, ``[1, 5]``, whole numbers are drawn, both
            bounds included, unless the constructor's annotation or default says that the argument is real. The
            combinations
            of choices, if they are few, are the kinds of task: scores are averaged over them and shown for each.
        via: where these values go. ``kwargs``: to the constructor, so that every task has environments of its own;
            ``options``: to ``reset(options={name: value})``, so that environments are built only once.
        vectorized: use the vector environment that is registered with the identifier. It has to accept
            ``autoreset_mode`` ``DISABLED``, a list of seeds, and actions for trajectories that are over.
        horizon: most steps H of a trajectory; gymnasium's own limit for the identifier holds as well.
        trajectories: trajectories N per task and inner step.

    >>> family = GymnasiumTasks(id="Pendulum-v1", vary={"g": [8.0, 12.0]}, trajectories=2)
    >>> family.describe([TaskKey(0, "train", 7)]).shape
    (1, 1)
    >>> family.start([TaskKey(0, "train", 7)], inner_step=0).reset().shape
    (1, 2, 3)
    """

    id: str
    kwargs: dict[str, Any] | None = None
    vary: dict[str, list[Any] | dict[str, list[Any]]] | None = None
    via: Literal["kwargs", "options"] = "kwargs"
    vectorized: bool = False
    horizon: int = 200
    trajectories: int = 20
    varied: dict[str, Varied] = field(init=False, repr=False, compare=False)
    observation: spaces.Box = field(init=False, repr=False, compare=False)
    action: spaces.Box | spaces.Discrete = field(init=False, repr=False, compare=False)
    pool: Pool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the arguments, and makes one environment to read its spaces."""
        counts(horizon=self.horizon, trajectories=self.trajectories)
        if self.via not in ("kwargs", "options"):
            raise ValueError(f"via: expected 'kwargs' or 'options', received '{self.via}'")
        types = numbers_of(self.id)
        for name, value in (self.kwargs or {}).items():
            require_type(f"kwargs.{name}", types.get(name), value)
        varied = parse(self.vary or {}, types if self.via == "kwargs" else {})
        twice = sorted(varied.keys() & (self.kwargs or {}).keys()) if self.via == "kwargs" else []
        if twice:
            raise ValueError(f"vary: expected names that are not among kwargs, received {twice} in both")
        derived: dict[str, Any] = {"varied": varied, "pool": Pool(IDLE)}
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        try:
            env = alone(self.id, self.arguments(self.draw(TaskKey(0, "train", 0))))
        except Exception as error:  # whatever a user's constructor raises
            raise ValueError(f"id: cannot make '{self.id}': {error}") from error
        object.__setattr__(self, "observation", _observation(self.id, env.observation_space))
        object.__setattr__(self, "action", _action(self.id, env.action_space))
        env.close()

    @property
    def spec(self) -> EnvironmentSpec:
        """Sizes of the flattened spaces, horizon and trajectories."""
        discrete = isinstance(self.action, spaces.Discrete)
        return EnvironmentSpec(
            input_shape=(math.prod(self.observation.shape),),
            outputs=int(self.action.n) if isinstance(self.action, spaces.Discrete) else math.prod(self.action.shape),
            description=sum(one.size for one in self.varied.values()),
            discrete=discrete,
            horizon=self.horizon,
            trajectories=self.trajectories,
            kinds=kinds(self.varied),
        )

    def kind_of(self, key: TaskKey) -> str:
        """Returns the task's values among ``choice``s, such as ``map=small``."""
        return kind(self.varied, self.draw(key))

    def draw(self, key: TaskKey) -> dict[str, Any]:
        """Returns the task's own values, by name."""
        rng = key.rng("task")
        return {name: one.draw(rng) for name, one in self.varied.items()}

    def arguments(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the constructor's arguments for a task with these values."""
        return {**(self.kwargs or {}), **(values if self.via == "kwargs" else {})}

    def describe(self, keys: Sequence[TaskKey]) -> Numbers:
        """Returns the tasks' values as numbers, by their names in alphabetical order, float64 [T, D]."""
        rows = [
            [number for name, value in self.draw(key).items() for number in self.varied[name].describe(value)]
            for key in keys
        ]
        return np.array(rows, dtype=np.float64).reshape(len(keys), self.spec.description)

    def seeds(self, key: TaskKey, inner_step: int) -> list[int]:
        """Returns the N seeds with which the task's trajectories are reset.

        Args:
            key: the task.
            inner_step: number of inner steps before these rollouts.
        """
        seeds: list[int] = key.rng(f"env{inner_step}").integers(2**31, size=self.trajectories).tolist()
        return seeds

    def start(self, keys: Sequence[TaskKey], inner_step: int) -> Lockstep:
        """Returns the tasks' environments, idle ones or new ones.

        They become idle again once all trajectories have ended.

        Args:
            keys: the T tasks.
            inner_step: number of inner steps before these rollouts.
        """
        return _Together(self, Rows(keys, inner_step, self.trajectories))


def _observation(identifier: str, space: spaces.Space[Any]) -> spaces.Box:
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"id: expected '{identifier}' to have observations in a Box, received {space}; register it with the "
            "wrapper gymnasium.wrappers.FlattenObservation"
        )
    return space


def _action(identifier: str, space: spaces.Space[Any]) -> spaces.Box | spaces.Discrete:
    if isinstance(space, spaces.Discrete) or (
        isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    ):
        return space
    raise ValueError(
        f"id: expected '{identifier}' to have actions in a Box of real numbers or in a Discrete space, "
        f"received {space}; register it with a wrapper that changes them"
    )


def clipped(actions: Numbers, space: spaces.Box) -> Any:
    """Returns a policy's actions clipped to the bounds of a space and cast to its dtype.

    Args:
        actions: [..., A], float64.
        space: the environment's action space.
    """
    return np.clip(actions, space.low, space.high).astype(space.dtype)


class _Together:
    """T vector environments of N environments each."""

    def __init__(self, family: GymnasiumTasks, rows: Rows) -> None:
        self._family, self._rows = family, rows
        self._values = [family.draw(key) for key in rows.keys]
        self._seeds: list[Any] = [family.seeds(key, rows.inner_step) for key in rows.keys]
        self._used: list[tuple[str, Vector]] = []
        weakref.finalize(self, family.pool.give, self._used)
        self._low, self._high = (
            np.asarray(bound, dtype=np.float64).ravel() for bound in (family.observation.low, family.observation.high)
        )

    def reset(self) -> Numbers:
        rows, family = self._rows, self._family
        rows.taken = 0
        observations = np.zeros((*rows.ended.shape, self._low.size))
        for task, values in enumerate(self._values):
            options = dict(values) if family.via == "options" else None
            with self._blame(task):
                if task == len(self._used):
                    self._used.append(self._take(values))
                seen, _ = self._used[task][1].reset(seed=self._seeds[task], options=options)
                observations[task] = np.reshape(seen, observations.shape[1:])
        rows.begin(observations)
        self._check(observations)
        return observations.copy()

    def step(self, actions: Numbers) -> Step:
        rows = self._rows
        chosen = self._actions(actions)
        observations, rewards = rows.observations.copy(), np.zeros(rows.ended.shape)
        ends = np.zeros((2, *rows.ended.shape), dtype=np.bool_)
        for task in np.flatnonzero(~rows.ended.all(axis=1)).tolist():
            with self._blame(task):
                seen, rewards[task], ends[0, task], ends[1, task], _ = self._used[task][1].step(chosen[task])
                observations[task] = np.reshape(seen, observations.shape[1:])
        self._check(observations)
        rows.require(np.isfinite(rewards), "a finite reward", rewards, "mend the environment's step")
        late = rows.taken >= self._family.horizon
        step = rows.conclude(observations, rewards, ends[0], ~ends[0] & (ends[1] | late))
        if rows.ended.all():
            self._family.pool.give(self._used)
        return step

    def _take(self, values: dict[str, Any]) -> tuple[str, Vector]:
        family = self._family
        arguments = family.arguments(values)
        label = repr(sorted(arguments.items()))

        def make() -> Vector:
            vector = together(family.id, family.trajectories, arguments, family.vectorized)
            for one, other in (
                (family.observation, vector.single_observation_space),
                (family.action, vector.single_action_space),
            ):
                if one != other:
                    raise ValueError(f"expected the same space for all tasks, {one}, received {other}")
            return vector

        return label, family.pool.take(label, make)

    def _actions(self, actions: Numbers) -> Any:
        space = self._family.action
        if isinstance(space, spaces.Discrete):
            return self._rows.numbers(actions, int(space.n)) + space.start
        vectors = self._rows.vectors(actions, math.prod(space.shape)).reshape(*self._rows.ended.shape, *space.shape)
        return clipped(vectors, space)

    def _check(self, observations: Numbers) -> None:
        kept = (observations >= self._low) & (observations <= self._high) & np.isfinite(observations)
        if not kept.all():
            first = np.argmin(kept, axis=-1)  # the first component at fault
            values = np.take_along_axis(observations, first[..., None], axis=-1)[..., 0]
            expected = f"an observation that is finite and inside {self._family.observation}"
            remedy = "mend the environment, or its observation_space"
            self._rows.require(np.asarray(kept.all(axis=-1)), expected, values, remedy)

    @contextmanager
    def _blame(self, task: int) -> Iterator[None]:
        """Turns any error of a task's environments into one that names the task."""
        try:
            yield
        except Exception as error:
            current = getattr(self._used[task][1], "current", None) if task < len(self._used) else None
            while self._used:  # they may be in any state: nobody shall use them again
                self._used.pop()[1].close()
            message = f"'{self._family.id}' raised {error!r}; mend the environment"
            raise self._rows.error(task, current, message) from error

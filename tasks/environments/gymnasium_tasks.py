"""Any gymnasium environment as a family of tasks."""

import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from tasks.environments.arguments import ANY, arguments_of, require_type
from tasks.environments.contract import EnvironmentSpec, Lockstep, Numbers, Step
from tasks.environments.rows import Rows, counts
from tasks.environments.spaces import LEGACY, Actions, encoding
from tasks.environments.varied import Choice, Varied, in_turn, kind, kinds, parse
from tasks.environments.vectors import Pool, Vector, alone, together
from tasks.family import TaskKey

IDLE = 128  # vector environments that a family keeps for its next rollouts


@dataclass(frozen=True, kw_only=True)
class GymnasiumTasks:
    """Environments of one gymnasium identifier whose arguments, or options of reset, differ from task to task.

    Observations are arrays of numbers (``Box``, flattened) or what gymnasium's ``FlattenObservation`` makes vectors of:
    ``Discrete`` and ``MultiDiscrete`` (one-hot), ``MultiBinary``, ``Dict``, ``Tuple``. Actions are real vectors
    (``Box``, clipped to their bounds), one of several (``Discrete``), or several whole numbers (``MultiDiscrete``,
    ``MultiBinary``). First states come from seeds that are drawn per trajectory. An environment has to draw all its
    random numbers from its own generator, ``self.np_random``, and ``reset(seed=…)`` has to restore its whole state:
    :func:`tasks.check_environment_family` checks both.

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
        outside: what becomes of observations outside the declared space, which are counted: ``pass`` leaves them as
            they are, ``clip`` moves them to the bounds. Those that are not finite end the run.
        stratified: every combination of choices comes equally often: of K combinations, each once among tasks
            0 to K - 1, K to 2 K - 1, and so on, in an order drawn for each of these blocks.
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
    outside: Literal["pass", "clip"] = "pass"
    stratified: bool = False
    horizon: int = 200
    trajectories: int = 20
    varied: dict[str, Varied] = field(init=False, repr=False, compare=False)
    observation: spaces.Box = field(init=False, repr=False, compare=False)
    actions: Actions = field(init=False, repr=False, compare=False)
    encoding: str = field(init=False, repr=False, compare=False)
    pool: Pool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the arguments, and makes one environment to read its spaces."""
        counts(horizon=self.horizon, trajectories=self.trajectories)
        for name, allowed in (("via", ("kwargs", "options")), ("outside", ("pass", "clip"))):
            if getattr(self, name) not in allowed:
                words = " or ".join(f"'{one}'" for one in allowed)
                raise ValueError(f"{name}: expected {words}, received '{getattr(self, name)}'")
        varied = self._parsed()
        if self.stratified and not any(isinstance(one, Choice) for one in varied.values()):
            raise ValueError("stratified: expected a choice among vary, received none; leave stratified out")
        derived: dict[str, Any] = {"varied": varied, "pool": Pool(IDLE)}
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        try:
            env = alone(self.id, self.arguments(self.draw(TaskKey(0, "train", 0))))
            derived = {"observation": env.observation_space, "actions": Actions(env.action_space)}
            derived["encoding"] = encoding(env)
        except Exception as error:  # whatever a user's constructor raises
            legacy = f"; {LEGACY}" if "gymnasium.Env" in str(error) else ""
            raise ValueError(f"id: cannot make '{self.id}': {error}{legacy}") from error
        env.close()
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _parsed(self) -> dict[str, Varied]:
        """The distributions of ``vary``, after a check of the names and types of all arguments."""
        arguments, kwargs, vary = arguments_of(self.id), self.kwargs or {}, self.vary or {}
        arguments.require_names("kwargs", kwargs)
        for name, value in kwargs.items():
            require_type(f"kwargs.{name}", arguments.types.get(name), value)
        of_vary = arguments if self.via == "kwargs" else ANY
        of_vary.require_names("vary", vary)
        varied = parse(vary, of_vary.types)
        twice = sorted(varied.keys() & kwargs.keys()) if self.via == "kwargs" else []
        if twice:
            raise ValueError(f"vary: expected names that are not among kwargs, received {twice} in both")
        return varied

    @property
    def spec(self) -> EnvironmentSpec:
        """Sizes of the flattened spaces, horizon and trajectories."""
        return EnvironmentSpec(
            input_shape=(math.prod(self.observation.shape),),
            outputs=self.actions.outputs,
            description=sum(one.size for one in self.varied.values()),
            discrete=self.actions.discrete,
            choices=self.actions.choices,
            encoding=self.encoding,
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
        values = {name: one.draw(rng) for name, one in self.varied.items()}
        return values | in_turn(self.varied, key) if self.stratified else values

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


class _Together:
    """T vector environments of N environments each."""

    def __init__(self, family: GymnasiumTasks, rows: Rows) -> None:
        self._family, self._rows = family, rows
        self._values = [family.draw(key) for key in rows.keys]
        self._seeds: list[Any] = [family.seeds(key, rows.inner_step) for key in rows.keys]
        self._used: list[tuple[str, Vector]] = []
        weakref.finalize(self, family.pool.give, self._used)
        bounds = family.observation.low, family.observation.high
        self._low, self._high = (np.asarray(bound, dtype=np.float64).ravel() for bound in bounds)
        bounded = np.isfinite(self._low).any() or np.isfinite(self._high).any()
        self.outside = np.zeros(len(rows.keys), dtype=np.int64) if bounded else None

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
        rows.begin(observations)
        if self.outside is not None:
            self.outside = np.zeros_like(self.outside)
        return rows.begin(self._bounded(observations))

    def step(self, actions: Numbers) -> Step:
        rows = self._rows
        chosen = self._family.actions.of(self._family.actions.checked(actions, rows))
        observations, rewards = rows.observations.copy(), np.zeros(rows.ended.shape)
        ends = np.zeros((2, *rows.ended.shape), dtype=np.bool_)
        for task in np.flatnonzero(~rows.ended.all(axis=1)).tolist():
            with self._blame(task):
                seen, rewards[task], ends[0, task], ends[1, task], _ = self._used[task][1].step(chosen[task])
                observations[task] = np.reshape(seen, observations.shape[1:])
        observations = self._bounded(observations)
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
                (family.actions.space, vector.single_action_space),
            ):
                if one != other:
                    raise ValueError(f"expected the same space for all tasks, {one}, received {other}")
            return vector

        return label, family.pool.take(label, make)

    def _bounded(self, observations: Numbers) -> Numbers:
        """Counts observations outside the declared space, and clips them if the family says so."""
        finite = np.isfinite(observations)
        if not finite.all():
            first = np.argmin(finite, axis=-1)  # the first component at fault
            values = np.take_along_axis(observations, first[..., None], axis=-1)[..., 0]
            self._rows.require(
                np.asarray(finite.all(axis=-1)), "a finite observation", values, "mend the environment's step and reset"
            )
        if self.outside is None:
            return observations
        inside = ((observations >= self._low) & (observations <= self._high)).all(axis=-1)
        self.outside += (~inside & ~self._rows.ended).sum(axis=1)
        return np.clip(observations, self._low, self._high) if self._family.outside == "clip" else observations

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

"""Environments with ``sample_tasks`` and ``set_task``, as RLlib's and garage's MAML take them, as a family of tasks."""

import importlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from tasks.environments.contract import EnvironmentSpec, Lockstep, Numbers
from tasks.environments.gymnasium_tasks import GymnasiumTasks
from tasks.family import TaskKey

TASKS = 2**32  # numbers from which tasks are drawn, the seeds that numpy's global generator takes


class TaskSettable(gymnasium.Env[Any, Any]):
    """An environment with ``sample_tasks(n)`` and ``set_task(task)``, as a gymnasium environment.

    Its task is ``sample_tasks(1)[0]`` under global generators that are seeded with a number. Such environments draw
    from numpy's global generator or from ``random``: each has states of its own of both here, which are in place only
    while it is called, so that a rollout is a function of its seed and nothing else in the process is touched.

    ``reset`` may return an observation, or observation and information; ``step`` four values, five, or garage's
    ``EnvStep``. A step that is ``done`` was cut off where its information says ``TimeLimit.truncated``, or garage's
    step type TIMEOUT.

    Args:
        env: import path ``module:Name`` of the class.
        kwargs: arguments of its constructor.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, env: str, kwargs: Mapping[str, Any] | None = None) -> None:
        self._states: tuple[Any, Any] | None = None
        with self._own(0):
            self.env: Any = imported(env)(**(kwargs or {}))
            missing = [name for name in ("sample_tasks", "set_task") if not hasattr(self.env, name)]
            if missing:
                raise ValueError(f"env: expected sample_tasks and set_task, '{env}' lacks {', '.join(missing)}")
        self.observation_space = as_gymnasium(self.env.observation_space)
        self.action_space = as_gymnasium(self.env.action_space)

    def sample(self, number: int) -> Any:
        """Returns the task that belongs to a number."""
        with self._own(number):
            return self.env.sample_tasks(1)[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Returns a first observation; ``options`` may hold the number of another task."""
        super().reset(seed=seed)
        if options and "task" in options:
            task = self.sample(int(options["task"]))
            with self._own(int(options["task"])):
                self.env.set_task(task)
        with self._own(seed):
            if seed is not None and hasattr(self.env, "seed"):
                self.env.seed(seed)
            first = self.env.reset()
        return (first[0] if isinstance(first, tuple) else first), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one step."""
        with self._own(None):
            result = self.env.step(action)
        if hasattr(result, "step_type"):  # garage's EnvStep
            kind = getattr(result.step_type, "name", str(result.step_type))
            return result.observation, float(result.reward), kind == "TERMINAL", kind == "TIMEOUT", {}
        if len(result) == 5:
            observation, reward, terminated, truncated, _ = result
            return observation, float(reward), bool(terminated), bool(truncated), {}
        observation, reward, done, info = result
        cut = bool(done and info.get("TimeLimit.truncated", False))
        return observation, float(reward), bool(done) and not cut, cut, {}

    def close(self) -> None:
        """Closes the environment, if it can be closed."""
        if hasattr(self.env, "close"):
            self.env.close()

    @contextmanager
    def _own(self, seed: int | None) -> Iterator[None]:
        """Puts the environment's states of the global generators in place, new ones if there is a seed."""
        outer = np.random.get_state(), random.getstate()  # noqa: NPY002 the environment draws from it
        try:
            if seed is not None:
                np.random.seed(seed)  # noqa: NPY002
                random.seed(seed)
            elif self._states is not None:
                np.random.set_state(self._states[0])  # noqa: NPY002
                random.setstate(self._states[1])
            yield
        finally:
            self._states = np.random.get_state(), random.getstate()  # noqa: NPY002
            np.random.set_state(outer[0])  # noqa: NPY002
            random.setstate(outer[1])


@dataclass(frozen=True, kw_only=True)
class SettableTasks:
    """The tasks of an environment with ``sample_tasks(n)`` and ``set_task(task)``, taken as it is.

    Task i of a split is ``sample_tasks(1)[0]`` under global generators seeded by (seed, split, i); a task that has no
    numbers in it cannot be told to an oracle.

    Attributes:
        env: import path ``module:Name`` of the environment's class.
        kwargs: arguments of its constructor.
        outside: what becomes of observations outside the declared space, as in :class:`GymnasiumTasks`.
        horizon: most steps H of a trajectory.
        trajectories: trajectories N per task and inner step.
    """

    env: str
    kwargs: dict[str, Any] | None = None
    outside: Literal["pass", "clip"] = "pass"
    horizon: int = 200
    trajectories: int = 20
    tasks: GymnasiumTasks = field(init=False, repr=False, compare=False)
    description: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Makes one environment to read its spaces."""
        imported(self.env)
        tasks = GymnasiumTasks(
            id="metaray/TaskSettable-v0",
            kwargs={"env": self.env, "kwargs": self.kwargs},
            vary={"task": [0, TASKS - 1]},
            via="options",
            outside=self.outside,
            horizon=self.horizon,
            trajectories=self.trajectories,
        )
        object.__setattr__(self, "tasks", tasks)
        object.__setattr__(self, "description", self.describe([TaskKey(0, "train", 0)]).shape[1])

    @property
    def spec(self) -> EnvironmentSpec:
        """Sizes of the flattened spaces; a task's description is the numbers in it."""
        return EnvironmentSpec(**(vars(self.tasks.spec) | {"description": self.description}))

    def describe(self, keys: Sequence[TaskKey]) -> Numbers:
        """Returns the numbers in the tasks, those of a mapping in the order of its keys, float64 [T, D]."""
        rows = [numbers_in(self._env.sample(self.tasks.draw(key)["task"])) for key in keys]
        return np.array(rows, dtype=np.float64).reshape(len(keys), -1)

    def start(self, keys: Sequence[TaskKey], inner_step: int) -> Lockstep:
        """Returns the tasks' environments at the start of a trajectory.

        Args:
            keys: the T tasks.
            inner_step: number of inner steps before these rollouts.
        """
        return self.tasks.start(keys, inner_step)

    @cached_property
    def _env(self) -> TaskSettable:
        return TaskSettable(self.env, self.kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy is made from; it makes an environment of its own."""
        return {name: value for name, value in vars(self).items() if name != "_env"}


def imported(path: str) -> Any:
    """Returns the class at an import path ``module:Name``.

    Raises:
        ValueError: if there is none.
    """
    module, colon, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if colon else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"env: cannot import '{path}': {error}") from error
    if not callable(found):
        raise ValueError(f"env: expected an import path 'module:Name' of a class, received '{path}'")
    return found


def numbers_in(task: Any) -> list[float]:
    """Returns the numbers in a task, such as ``{"direction": 1}`` or an array; what is no number is left out.

    >>> numbers_in({"velocity": 2, "goal": np.array([0.5, 1.0])})
    [0.5, 1.0, 2.0]
    """
    if isinstance(task, Mapping):
        return [number for key in sorted(task) for number in numbers_in(task[key])]
    if isinstance(task, str) or task is None:
        return []
    if isinstance(task, list | tuple):
        return [number for part in task for number in numbers_in(part)]
    array = np.asarray(task)
    return array.astype(np.float64).ravel().tolist() if array.dtype.kind in "biuf" else []


def as_gymnasium(space: Any) -> spaces.Space[Any]:
    """Returns a space of gym or akro, recognised by its attributes, as gymnasium's; gymnasium's own as it is.

    Raises:
        ValueError: if it is none of Box, Discrete, MultiDiscrete, Dict and Tuple.
    """
    if isinstance(space, spaces.Space):
        return space
    if hasattr(space, "low") and hasattr(space, "high"):
        low, high = np.asarray(space.low), np.asarray(space.high)
        return spaces.Box(low, high, dtype=getattr(space, "dtype", None) or low.dtype.type)
    if hasattr(space, "nvec"):
        return spaces.MultiDiscrete(np.asarray(space.nvec))
    if hasattr(space, "n"):
        return spaces.Discrete(int(space.n))
    parts = getattr(space, "spaces", None)
    if isinstance(parts, Mapping):
        return spaces.Dict({name: as_gymnasium(part) for name, part in parts.items()})
    if isinstance(parts, Sequence):
        return spaces.Tuple([as_gymnasium(part) for part in parts])
    raise ValueError(
        f"env: expected spaces like gym's Box, Discrete, MultiDiscrete, Dict, Tuple, received {type(space).__name__}; "
        "give the environment one of gymnasium.spaces"
    )

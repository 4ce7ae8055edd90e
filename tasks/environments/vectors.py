"""Gymnasium's vector environments without automatic reset, reused, with errors that name the environment."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from tasks.environments.contract import Flags, Numbers
from tasks.environments.spaces import LEGACY, flattened, flattened_together

Vector = VectorEnv[Any, Any, Any]


class Standing(SyncVectorEnv):
    """N environments in one process; an environment that has ended is not stepped again until the next reset.

    Information that environments return beside observations, rewards and flags is ignored.

    Attributes:
        current: number of the environment that was called last.
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        super().__init__(makers, autoreset_mode=AutoresetMode.DISABLED)
        self.current = 0
        self._seen = np.zeros(self.observation_space.shape or (), dtype=self.observation_space.dtype)
        self._over: Flags = np.ones(self.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Returns first observations; ``seed`` holds one number for each environment."""
        if seed is None or isinstance(seed, int):
            raise ValueError(f"seed: expected {self.num_envs} numbers, received {seed}")
        for row, (env, number) in enumerate(zip(self.envs, seed, strict=True)):
            self.current = row
            self._see(_reset(env, number, options))
        self._over = np.zeros(self.num_envs, dtype=np.bool_)
        return self._seen.copy(), {}

    def step(self, actions: Any) -> tuple[Any, Numbers, Flags, Flags, dict[str, Any]]:
        """Takes one step of every environment that has not ended; the other rows of ``actions`` are ignored."""
        rewards, ends = np.zeros(self.num_envs), np.zeros((2, self.num_envs), dtype=np.bool_)
        for row in np.flatnonzero(~self._over).tolist():
            self.current = row
            observation, reward, ends[0, row], ends[1, row], _ = _step(self.envs[row], actions[row])
            self._see(observation)
            rewards[row] = reward
        self._over = self._over | ends[0] | ends[1]
        return self._seen.copy(), rewards, ends[0], ends[1], {}

    def _see(self, observation: Any) -> None:
        if np.shape(observation) != self.single_observation_space.shape:
            raise ValueError(
                f"expected an observation of the declared shape {self.single_observation_space.shape}, "
                f"received shape {np.shape(observation)}"
            )
        self._seen[self.current] = observation


def _reset(env: gymnasium.Env[Any, Any], seed: int | None, options: dict[str, Any] | None) -> Any:
    """Returns an environment's first observation."""
    try:
        result = env.reset(seed=seed, options=options)
    except TypeError as error:
        parameters = inspect.signature(env.unwrapped.reset).parameters
        if {"seed", "options"} <= parameters.keys() or any(
            one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()
        ):
            raise
        raise ValueError(f"expected reset(seed=…, options=…), received '{error}'; {LEGACY}") from error
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ValueError(
            f"expected reset to return observation and information, received {type(result).__name__}; {LEGACY}"
        )
    return result[0]


def _step(env: gymnasium.Env[Any, Any], action: Any) -> tuple[Any, ...]:
    """Returns the five results of an environment's step."""
    try:
        result: tuple[Any, ...] = env.step(action)
        count = len(result)
    except ValueError as error:  # of a wrapper that unpacks them
        if "expected 5, got 4" not in str(error):
            raise
        count = 4
    if count != 5:
        raise ValueError(f"expected step to return five values, received {count}; {LEGACY}")
    return result


def together(identifier: str, count: int, kwargs: dict[str, Any], own: bool) -> Vector:
    """Returns N environments of one identifier as a vector environment.

    Args:
        identifier: gymnasium's name of the environment.
        count: N.
        kwargs: arguments of their constructors.
        own: whether to take the vector environment that is registered with the identifier.

    Raises:
        ValueError: if the registered one resets its environments itself, so that the end of a trajectory would be lost.
    """
    if not own:
        return Standing([lambda: alone(identifier, kwargs)] * count)
    vector = gymnasium.make_vec(identifier, count, vectorization_mode="vector_entry_point", **kwargs)
    mode = vector.metadata.get("autoreset_mode")
    if mode != AutoresetMode.DISABLED:
        vector.close()
        raise ValueError(
            f"vectorized: expected a vector environment of '{identifier}' with autoreset_mode DISABLED, "
            f"received {mode}; leave vectorized out"
        )
    return flattened_together(vector)


def alone(identifier: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Returns one environment with observations in a box, without gymnasium's checks of its first step.

    Every step is checked here.

    Args:
        identifier: gymnasium's name of the environment.
        kwargs: arguments of its constructor.
    """
    return flattened(gymnasium.make(identifier, disable_env_checker=True, **kwargs))


class Pool:
    """Idle vector environments by label; copies and pickles begin empty.

    Args:
        limit: most that are kept; those idle for longest are closed first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: OrderedDict[int, tuple[str, Vector]] = OrderedDict()
        self._given = 0

    def __reduce__(self) -> tuple[type["Pool"], tuple[int]]:
        return Pool, (self._limit,)

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, label: str, make: Callable[[], Vector]) -> Vector:
        """Returns an idle vector environment with this label, the longest idle first, or a new one.

        Args:
            label: environments of equal labels are interchangeable.
            make: constructs a new one.
        """
        for number, (name, _) in self._idle.items():
            if name == label:
                return self._idle.pop(number)[1]
        return make()

    def give(self, vectors: list[tuple[str, Vector]]) -> None:
        """Stores vector environments with their labels as idle, and empties the list."""
        while vectors:
            self._given += 1
            self._idle[self._given] = vectors.pop(0)
        while len(self._idle) > self._limit:
            self._idle.popitem(last=False)[1][1].close()

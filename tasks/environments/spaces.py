"""Gymnasium's spaces as the numbers that policies observe and choose."""

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import FlattenObservation
from gymnasium.wrappers.vector import FlattenObservation as FlattenObservations

from tasks.environments.contract import Numbers
from tasks.environments.rows import Rows

LEGACY = (
    "an environment written for gym, before gymnasium, is wrapped by shimmy (pip install shimmy): "
    "GymV21CompatibilityV0 where step returns four values, GymV26CompatibilityV0 where it returns five"
)


def flattened(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Returns an environment whose observations are a box: itself, or under gymnasium's ``FlattenObservation``."""
    observed(env.observation_space)
    return env if isinstance(env.observation_space, spaces.Box) else FlattenObservation(env)


def encoding(env: gymnasium.Env[Any, Any]) -> str:
    """Returns how an environment under :func:`flattened` makes numbers of observations, in words; else nothing."""
    return in_words(env.env.observation_space) if isinstance(env, FlattenObservation) else ""


def flattened_together(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """Returns a vector environment whose observations are boxes, as :func:`flattened` does for one environment."""
    return env if isinstance(env.single_observation_space, spaces.Box) else FlattenObservations(env)


def observed(space: spaces.Space[Any]) -> spaces.Box:
    """Returns the box of an environment's observations once they are flattened.

    Args:
        space: the environment's own observation space.

    Raises:
        ValueError: if their size differs from step to step, as of a ``Sequence`` or a ``Graph``.

    >>> observed(spaces.Dict({"cell": spaces.Discrete(3), "charge": spaces.Box(0.0, 1.0, (2,))})).shape
    (5,)
    """
    _require_space("observation_space", space)
    try:
        flat: spaces.Space[Any] = space if isinstance(space, spaces.Box) else spaces.flatten_space(space)
    except NotImplementedError:
        flat = space
    if not isinstance(flat, spaces.Box):
        raise ValueError(
            f"expected observations of a fixed size, in a Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple "
            f"space, received {space}; register the environment with a wrapper that changes them"
        )
    return flat


def in_words(space: spaces.Space[Any]) -> str:
    """Returns how observations become numbers, in words; an empty text for a box, whose numbers stay as they are.

    >>> in_words(spaces.Discrete(16))
    "observations Discrete(16) as 16 numbers by gymnasium's FlattenObservation, which writes whole numbers one-hot"
    """
    if isinstance(space, spaces.Box):
        return ""
    whole = "MultiDiscrete" if isinstance(space, spaces.MultiDiscrete) else "Discrete"
    one_hot = ", which writes whole numbers one-hot" if whole in str(space) else ""
    size = math.prod(observed(space).shape)
    return f"observations {space} as {size} numbers by gymnasium's FlattenObservation{one_hot}"


@dataclass(frozen=True)
class Actions:
    """How the numbers that a policy chooses become actions of an environment's space.

    Attributes:
        space: the environment's action space: a ``Box`` of real numbers, ``Discrete``, ``MultiDiscrete`` or
            ``MultiBinary``.
    """

    space: spaces.Space[Any]

    def __post_init__(self) -> None:
        """Checks the space."""
        _require_space("action_space", self.space)
        real = isinstance(self.space, spaces.Box) and np.issubdtype(self.space.dtype, np.floating)
        if not real and not self.discrete:
            raise ValueError(
                f"expected actions in a Box of real numbers, a Discrete, MultiDiscrete or MultiBinary space, received "
                f"{self.space}; register the environment with a wrapper that changes them"
            )

    @property
    def discrete(self) -> bool:
        """Whether a policy chooses whole numbers."""
        return isinstance(self.space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)

    @property
    def single(self) -> bool:
        """Whether an action is one of several, a number without a dimension of its own."""
        return isinstance(self.space, spaces.Discrete)

    @property
    def choices(self) -> tuple[int, ...]:
        """Numbers of values of the components where an action is several whole numbers, else none."""
        if isinstance(self.space, spaces.MultiDiscrete):
            return tuple(int(count) for count in self.space.nvec.ravel())
        return (2,) * math.prod(self.space.shape) if isinstance(self.space, spaces.MultiBinary) else ()

    @property
    def outputs(self) -> int:
        """Size of an action, or the number of actions where it is one of several."""
        if isinstance(self.space, spaces.Discrete):
            return int(self.space.n)
        return math.prod(self.space.shape or ())

    def checked(self, actions: Numbers, rows: Rows) -> Any:
        """Returns the next step's actions with zeros for trajectories that have ended.

        Args:
            actions: as a policy sampled them, [T, N, A], or [T, N] where an action is one of several.
            rows: the state of the trajectories.

        Raises:
            RolloutError: naming the first trajectory with an action outside the space.
        """
        if self.single:
            return rows.numbers(actions, self.outputs)
        return rows.numbers(actions, self.choices) if self.choices else rows.vectors(actions, self.outputs)

    def of(self, actions: Any) -> Any:
        """Returns actions as environments take them, real ones clipped to their bounds.

        Args:
            actions: checked ones, [..., A], or [...] where an action is one of several.
        """
        space = self.space
        if isinstance(space, spaces.Discrete):
            return np.asarray(actions).astype(np.int64) + space.start
        shaped = np.asarray(actions).reshape(*np.shape(actions)[:-1], *(space.shape or ()))
        if isinstance(space, spaces.Box):
            return np.clip(shaped, space.low, space.high).astype(space.dtype)
        first = space.start if isinstance(space, spaces.MultiDiscrete) else 0
        return (shaped.astype(np.int64) + first).astype(space.dtype)


def _require_space(name: str, space: object) -> None:
    if not isinstance(space, spaces.Space):
        received = f"{type(space).__module__}.{type(space).__name__}"
        raise ValueError(f"expected {name} to be one of gymnasium.spaces, received {received}; {LEGACY}")

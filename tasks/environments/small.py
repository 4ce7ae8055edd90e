"""Small environments whose task is set by arguments, or by options of reset: frozen lakes, couriers, cart-poles.

The identifiers ``metaray/…`` are registered by :mod:`tasks.environments`.
"""

from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map


class FrozenLakeMaps(FrozenLakeEnv):
    """Gymnasium's frozen lake on a random map, which always has a way from start to goal.

    Observations are the number of the cell, ``Discrete(size²)``; the map is not observed.

    Args:
        map: number of the map, from 0 on; under the same name an option of :meth:`reset`.
        size: cells along a side.
        frozen: probability that a cell is no hole.
        is_slippery: whether a step goes astray in two cases of three.
        render_mode: as gymnasium has it.
    """

    def __init__(
        self,
        map: int = 0,
        size: int = 4,
        frozen: float = 0.8,
        is_slippery: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self._kind = (size, frozen, is_slippery)
        lake = _lake(map, *self._kind)
        super().__init__(
            desc=np.asarray(lake.desc).astype(str).tolist(), is_slippery=is_slippery, render_mode=render_mode
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Returns the start; ``options`` may hold another map."""
        if options and "map" in options:
            lake = _lake(options["map"], *self._kind)
            self.desc, self.P = lake.desc, lake.P
        first, info = super().reset(seed=seed)
        return int(first), info


@lru_cache(maxsize=256)
def _lake(number: int, size: int, frozen: float, is_slippery: bool) -> FrozenLakeEnv:
    """A lake whose map and transitions others may share; nobody steps it."""
    desc = generate_random_map(size=size, p=frozen, seed=number)
    return FrozenLakeEnv(desc=desc, is_slippery=is_slippery)


class Courier(gymnasium.Env[dict[str, Any], Any]):
    """A courier in a square of cells who has to find a parcel and to bring it back to the middle, where it starts.

    An observation is a dictionary: ``cell``, two whole numbers; ``loaded``, 0 or 1; ``time``, the share of the steps
    that is left. The parcel's cell is not observed. An action is two whole numbers, by which either coordinate changes:
    0, 1 and 2 stand for one less, the same, one more. Finding the parcel and bringing it back are worth 1 each, and
    the episode terminates with the latter.

    Args:
        column: of the parcel's cell, from 0 on; ``column`` and ``row`` are options of :meth:`reset` as well.
        row: of the parcel's cell.
        size: cells along a side, an odd number.
        steps: most steps, after which the episode is truncated.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, column: int = 0, row: int = 0, size: int = 5, steps: int = 20) -> None:
        if size < 3 or size % 2 == 0:
            raise ValueError(f"size: expected an odd number from 3 on, received {size}")
        self.size, self.steps = size, steps
        self._parcel = self._checked(column, row)
        cell, loaded = spaces.MultiDiscrete([size, size]), spaces.Discrete(2)
        self.observation_space = spaces.Dict({"cell": cell, "loaded": loaded, "time": spaces.Box(0.0, 1.0, (1,))})
        self.action_space = spaces.MultiDiscrete([3, 3])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the first observation, in the middle; ``options`` may hold another place of the parcel."""
        super().reset(seed=seed)
        options = options or {}
        if options.keys() & {"column", "row"}:
            column, row = self._parcel.tolist()
            self._parcel = self._checked(options.get("column", column), options.get("row", row))
        self._cell, self._loaded, self._taken = np.full(2, self.size // 2), False, 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Moves, loads the parcel where it lies, and unloads it in the middle."""
        self._taken += 1
        self._cell = np.clip(self._cell + np.asarray(action) - 1, 0, self.size - 1)
        loading = not self._loaded and bool((self._cell == self._parcel).all())
        brought = self._loaded and bool((self._cell == self.size // 2).all())
        self._loaded = self._loaded or loading
        return self._seen(), float(loading + brought), brought, not brought and self._taken >= self.steps, {}

    def _seen(self) -> dict[str, Any]:
        time = np.array([1 - self._taken / self.steps], dtype=np.float32)
        return {"cell": self._cell.copy(), "loaded": int(self._loaded), "time": time}

    def _checked(self, column: int, row: int) -> Any:
        if not (0 <= column < self.size and 0 <= row < self.size):
            raise ValueError(f"column, row: expected a cell from 0 to {self.size - 1}, received {column}, {row}")
        return np.array([column, row])


class CartPolePhysics(CartPoleEnv):
    """Gymnasium's cart-pole under other physics; every argument is an option of :meth:`reset` as well.

    Args:
        gravity: in metres per second squared.
        length: half the pole's length, in metres.
        masspole: in kilograms.
        force: of a push, in newtons.
        reversed: whether action 0 pushes to the right and action 1 to the left.
        render_mode: as gymnasium has it.
    """

    def __init__(
        self,
        gravity: float = 9.8,
        length: float = 0.5,
        masspole: float = 0.1,
        force: float = 10.0,
        reversed: bool = False,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        self._physics: dict[str, Any] = {}
        self._change(gravity=gravity, length=length, masspole=masspole, force=force, reversed=reversed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Returns a first state near the upright one; ``options`` may hold other physics."""
        self._change(**(options or {}))
        first: Any
        first, info = super().reset(seed=seed)
        return first, info

    def _change(self, **physics: Any) -> None:
        known = self._physics | physics
        for name in ("gravity", "length", "masspole", "force"):
            if not known[name] > 0:
                raise ValueError(f"{name}: expected a number above zero, received {known[name]}")
        self._physics = known
        self.gravity, self.length, self.masspole = known["gravity"], known["length"], known["masspole"]
        self.total_mass, self.polemass_length = self.masspole + self.masscart, self.masspole * self.length
        self.force_mag = -known["force"] if known["reversed"] else known["force"]

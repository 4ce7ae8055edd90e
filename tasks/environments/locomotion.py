"""Half-cheetahs and ants that run forward or backward, or at a velocity: Finn et al. 2017 (5.3)."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from tasks.environments.contract import EnvironmentSpec, Lockstep, Numbers
from tasks.environments.gymnasium_tasks import GymnasiumTasks
from tasks.family import TaskKey

DIRECTIONS = {"direction=-1": "backward", "direction=1": "forward"}  # kinds of task, in words


@dataclass(frozen=True, kw_only=True)
class Locomotion:
    """A family of robots of :mod:`tasks.environments.mujoco`; a subclass has the name of its robot's class.

    Attributes:
        horizon: most steps H of a trajectory, up to 1,000.
        trajectories: trajectories N per task and inner step.
    """

    horizon: int = 200
    trajectories: int = 20
    tasks: GymnasiumTasks = field(init=False, repr=False, compare=False)
    bare: ClassVar[str] = "HalfCheetah-v5"  # gymnasium's robot that it is built on

    def __post_init__(self) -> None:
        """Checks that MuJoCo is installed, and the arguments."""
        name = type(self).__name__
        if importlib.util.find_spec("mujoco") is None:
            raise ValueError(f"expected MuJoCo for {name}, which is not installed; run: pip install 'metaray[mujoco]'")
        tasks = GymnasiumTasks(
            id=f"metaray/{name}-v0",
            vary=self._vary(),
            stratified=self._stratified(),
            via="options",
            vectorized=True,
            horizon=self.horizon,
            trajectories=self.trajectories,
        )
        object.__setattr__(self, "tasks", tasks)

    @property
    def spec(self) -> EnvironmentSpec:
        """Gymnasium's v5 observations and actions; a task is described by one number."""
        spec = self.tasks.spec
        return replace(spec, kinds=tuple(DIRECTIONS[kind] for kind in spec.kinds))

    def kind_of(self, key: TaskKey) -> str:
        """Returns ``forward`` or ``backward``, where tasks are directions."""
        return DIRECTIONS[self.tasks.kind_of(key)]

    def describe(self, keys: Sequence[TaskKey]) -> Numbers:
        """Returns the directions (1 or -1) or velocities (metres per second), float64 [T, 1]."""
        return self.tasks.describe(keys)

    def start(self, keys: Sequence[TaskKey], inner_step: int) -> Lockstep:
        """Returns robots near rest, each with noise of its own.

        Args:
            keys: the T tasks.
            inner_step: number of inner steps before these rollouts.
        """
        return self.tasks.start(keys, inner_step)

    def _vary(self) -> dict[str, Any]:
        return {"direction": {"choice": [-1.0, 1.0]}}

    def _stratified(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Directions(Locomotion):
    """Robots that run forward or backward.

    Attributes:
        stratified: of tasks 2 n and 2 n + 1 one runs forward and one backward, in an order drawn for each pair, so that
            every meta-batch of an even number of tasks has as many of either. Otherwise each is drawn by itself.
    """

    stratified: bool = False

    def _stratified(self) -> bool:
        return self.stratified


@dataclass(frozen=True, kw_only=True)
class HalfCheetahDirection(Directions):
    """Half-cheetahs that run forward (1) or backward (-1), either with probability one half: ±v - 0.05 ‖a‖².

    There are only these two tasks: training, validation and test share them, and their trajectories differ in the
    noise of the first states. They are the kinds of task: a score is the mean of the two directions' own.
    """


@dataclass(frozen=True, kw_only=True)
class HalfCheetahVelocity(Locomotion):
    """Half-cheetahs that run at a velocity v*, in metres per second: -|v - v*| - 0.05 ‖a‖².

    Attributes:
        velocity: range from which v* is drawn uniformly.
        horizon: most steps H of a trajectory, up to 1,000.
        trajectories: trajectories N per task and inner step.
    """

    velocity: tuple[float, float] = (0.0, 2.0)

    def _vary(self) -> dict[str, Any]:
        return {"velocity": list(self.velocity)}


@dataclass(frozen=True, kw_only=True)
class AntDirection(Directions):
    """Ants that run forward (1) or backward (-1), either with probability one half: ±v + 0.05 - costs.

    The costs are 0.005 ‖a‖² and 0.0005 times the squared external forces, clipped to [-1, 1]. A trajectory terminates
    where the torso is below 0.2 m or above 1 m. As with :class:`HalfCheetahDirection`, all splits share the two tasks.
    """

    trajectories: int = 40
    bare: ClassVar[str] = "Ant-v5"


@dataclass(frozen=True, kw_only=True)
class AntVelocity(HalfCheetahVelocity):
    """Ants that run at a velocity v*, in metres per second: 1 - |v - v*| + 0.05 - costs, as :class:`AntDirection`.

    Attributes:
        velocity: range from which v* is drawn uniformly.
        horizon: most steps H of a trajectory, up to 1,000.
        trajectories: trajectories N per task and inner step.
    """

    velocity: tuple[float, float] = (0.0, 3.0)
    bare: ClassVar[str] = "Ant-v5"

"""Half-cheetahs and ants with a task, on gymnasium's v5 environments: one at a time, and many at a time.

Importing this module needs MuJoCo. The identifiers ``metaray/…`` are registered by :mod:`tasks.environments`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tasks.environments.contract import Flags, Numbers

STATE = mujoco.mjtState


class Runner(MujocoEnv, EzPickle):
    """A robot whose task is the direction or the velocity to run in.

    The task is an argument of the constructor and, under the same name, an option of :meth:`reset`; it stays until it
    is changed. The forward velocity v of a step is the displacement of the root along x over the step's duration.
    MuJoCo's automatic reset of a diverged simulation is off: such a state is returned as it is.

    Attributes:
        goal: the direction or velocity.
    """

    word: ClassVar[str]  # what the task is called
    hidden: ClassVar[int]  # leading positions that are not observed
    forces: ClassVar[bool]  # whether observations end with external forces

    def __init__(self, goal: float, **kwargs: Any) -> None:
        self.goal = self.checked(goal)
        super().__init__(**kwargs)
        EzPickle.__init__(self, **{self.word: goal}, **kwargs)

    @classmethod
    def checked(cls, goal: float) -> float:
        """Returns the task as a number.

        Raises:
            ValueError: if it is not a task of this robot.
        """
        raise NotImplementedError

    @classmethod
    def drive(cls, velocity: Numbers, goal: Numbers) -> Numbers:
        """Returns the reward for running, […], at velocities in metres per second […] under goals […]."""
        raise NotImplementedError

    @classmethod
    def costs(cls, actions: Numbers, forces: Numbers) -> Numbers:
        """Returns costs of actions […, A] and clipped external forces […, F], less the reward for being alive, […]."""
        raise NotImplementedError

    @classmethod
    def fallen(cls, positions: Numbers, velocities: Numbers) -> Flags:
        """Returns whether the episode terminates, bool […], at positions […, nq] and velocities […, nv]."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Numbers, dict[str, float]]:
        """Returns a first state near rest; ``options`` may hold another task."""
        if options and self.word in options:
            self.goal = self.checked(options[self.word])
        observation: Numbers
        observation, info = super().reset(seed=seed)
        return observation, info

    def step(self, action: Any) -> tuple[Numbers, Any, bool, bool, dict[str, Any]]:
        """Applies one action for ``frame_skip`` steps of the physics."""
        before = self.data.qpos[0]
        self.do_simulation(action, self.frame_skip)
        velocity = (self.data.qpos[0] - before) / self.dt
        drive = float(self.drive(velocity, np.asarray(self.goal)))
        costs = float(self.costs(np.asarray(action, dtype=np.float64), external_forces(self.data)))
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        info = {"x_position": self.data.qpos[0], "x_velocity": velocity, "reward_drive": drive, "reward_costs": -costs}
        return self._get_obs(), drive - costs, bool(self.fallen(self.data.qpos, self.data.qvel)), False, info

    @classmethod
    def observe(cls, positions: Numbers, velocities: Numbers, forces: Numbers) -> Numbers:
        """Returns observations […, O] of positions […, nq], velocities […, nv] and clipped external forces […, F]."""
        parts = [positions[..., cls.hidden :], velocities, *([forces] if cls.forces else [])]
        return np.concatenate(parts, axis=-1)

    def _get_obs(self) -> Numbers:
        return self.observe(self.data.qpos, self.data.qvel, external_forces(self.data))

    def _initialize_simulation(self) -> tuple[Any, Any]:
        model = load(self.fullpath)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    def _step_mujoco_simulation(self, ctrl: Any, n_frames: int) -> None:
        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)
        if self.forces:
            mujoco.mj_rnePostConstraint(self.model, self.data)


def load(path: str) -> Any:
    """Returns a compiled model of an XML file.

    Half-cheetah's file asks the compiler to scale all masses to a total, which MuJoCo deprecates with a warning on
    standard error and in a file MUJOCO_LOG.TXT. As the warning advises, the compiled model is scaled instead; the
    numbers are the same bits.
    """
    spec = mujoco.MjSpec.from_file(path)
    total, spec.compiler.settotalmass = spec.compiler.settotalmass, -1
    model = spec.compile()
    if total > 0:
        mujoco.mj_setTotalmass(model, total)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET.value
    return model


def external_forces(data: Any) -> Numbers:
    """Returns external forces on all bodies but the world, clipped to [-1, 1], [6 · bodies]."""
    forces: Numbers = np.clip(data.cfrc_ext[1:], -1.0, 1.0).ravel()
    return forces


class Directed(Runner):
    """Run forward (1) or backward (-1): ±v."""

    word = "direction"

    def __init__(self, direction: float = 1.0, **kwargs: Any) -> None:
        super().__init__(direction, **kwargs)

    @classmethod
    def checked(cls, goal: float) -> float:
        """Returns 1.0 or -1.0."""
        if goal not in (-1, 1):
            raise ValueError(f"direction: expected 1 (forward) or -1 (backward), received {goal!r}")
        return float(goal)

    @classmethod
    def drive(cls, velocity: Numbers, goal: Numbers) -> Numbers:
        """Returns the velocity towards the goal."""
        return goal * velocity


class Paced(Runner):
    """Run at a velocity, in metres per second: -|v - v*|."""

    word = "velocity"

    def __init__(self, velocity: float = 1.0, **kwargs: Any) -> None:
        super().__init__(velocity, **kwargs)

    @classmethod
    def checked(cls, goal: float) -> float:
        """Returns any finite number."""
        if isinstance(goal, bool) or not isinstance(goal, int | float | np.number) or not math.isfinite(goal):
            raise ValueError(f"velocity: expected a finite number, received {goal!r}")
        return float(goal)

    @classmethod
    def drive(cls, velocity: Numbers, goal: Numbers) -> Numbers:
        """Returns minus the distance from the goal."""
        return -np.abs(velocity - goal)


class _HalfCheetah(Runner, HalfCheetahEnv):
    hidden, forces = 1, False

    @classmethod
    def costs(cls, actions: Numbers, forces: Numbers) -> Numbers:  # noqa: ARG003
        """0.05 ‖a‖²."""
        return np.asarray(0.05 * np.square(actions).sum(axis=-1))

    @classmethod
    def fallen(cls, positions: Numbers, velocities: Numbers) -> Flags:  # noqa: ARG003
        """Returns False."""
        return np.zeros(positions.shape[:-1], dtype=np.bool_)


class _Ant(Runner, AntEnv):
    hidden, forces = 2, True

    @classmethod
    def costs(cls, actions: Numbers, forces: Numbers) -> Numbers:
        """0.005 ‖a‖² + 0.0005 ‖forces‖² - 0.05."""
        effort, contact = np.square(actions).sum(axis=-1), np.square(forces).sum(axis=-1)
        return np.asarray(0.005 * effort + 0.0005 * contact - 0.05)

    @classmethod
    def fallen(cls, positions: Numbers, velocities: Numbers) -> Flags:
        """Returns whether the torso is below 0.2 m or above 1 m, or a number of the state is not finite."""
        finite = np.isfinite(positions).all(axis=-1) & np.isfinite(velocities).all(axis=-1)
        return np.asarray(~(finite & (positions[..., 2] >= 0.2) & (positions[..., 2] <= 1.0)))


class HalfCheetahDirection(Directed, _HalfCheetah):
    """Half-cheetah that runs forward or backward: ±v - 0.05 ‖a‖² (Finn et al. 2017, 5.3)."""


class HalfCheetahVelocity(Paced, _HalfCheetah):
    """Half-cheetah that runs at a velocity: -|v - v*| - 0.05 ‖a‖²."""


class AntDirection(Directed, _Ant):
    """Ant that runs forward or backward: ±v + 0.05 - costs."""


class AntVelocity(Paced, _Ant):
    """Ant that runs at a velocity: 1 - |v - v*| + 0.05 - costs; the 1 makes staying alive worth more than falling."""

    @classmethod
    def drive(cls, velocity: Numbers, goal: Numbers) -> Numbers:
        """Returns 1 at the goal, less elsewhere."""
        return 1.0 - np.abs(velocity - goal)


class Runners(VectorEnv[Numbers, Any, Any]):
    """N robots of one kind that take turns in one simulation.

    A simulation's memory is over a megabyte, so that N of them side by side spend their time waiting for it. What
    distinguishes two robots is a few dozen numbers: time, positions, velocities, controls and the accelerations from
    which the solver starts. They are written into the one simulation before a step and read from it after, and
    everything else is computed from them; states are the same bits as those of N environments of their own.

    A robot that has come to its end stands still, with reward 0 and both flags False, until it is reset.

    Args:
        kind: the robot.
        num_envs: N.
        max_episode_steps: steps after which a trajectory is truncated, or ``None``.
        kwargs: arguments of the robot's constructor.
    """

    def __init__(self, kind: type[Any], num_envs: int = 1, max_episode_steps: int | None = None, **kwargs: Any) -> None:
        self._env: Any = kind(**kwargs)
        self._limit = max_episode_steps
        self.num_envs = num_envs
        self.metadata = {**self._env.metadata, "render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = self._env.observation_space, self._env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        model = self._env.model
        self._parts = STATE.mjSTATE_FULLPHYSICS.value | STATE.mjSTATE_CTRL.value | STATE.mjSTATE_WARMSTART.value
        self._states: Numbers = np.zeros((num_envs, mujoco.mj_stateSize(model, self._parts)))
        self._positions = self._states[:, self._columns(STATE.mjSTATE_QPOS)]
        self._velocities = self._states[:, self._columns(STATE.mjSTATE_QVEL)]
        self._controls = self._states[:, self._columns(STATE.mjSTATE_CTRL)]
        self._forces: Numbers = np.zeros((num_envs, external_forces(self._env.data).size))
        self._goals: Numbers = np.full(num_envs, self._env.goal)
        self._generators: list[Any] = [None] * num_envs
        self._taken = np.zeros(num_envs, dtype=np.int64)
        self._over: Flags = np.ones(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Numbers, dict[str, Any]]:
        """Returns first states, of all robots or those in ``options["reset_mask"]``; other options are for each."""
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, dtype=np.bool_))
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        seeds = [None] * self.num_envs if seed is None else list(seed)
        for row in np.flatnonzero(mask):
            env = self._env
            env.goal = self._goals[row]
            env._np_random = self._generators[row]
            env.reset(seed=seeds[row], options=options)
            self._goals[row], self._generators[row] = env.goal, env.np_random
            mujoco.mj_getState(env.model, env.data, self._states[row], self._parts)
            self._forces[row] = external_forces(env.data)
        self._taken[mask], self._over[mask] = 0, False
        return self._observe(), {}

    def step(self, actions: Any) -> tuple[Numbers, Numbers, Flags, Flags, dict[str, Any]]:
        """Takes one step of every robot that has not ended."""
        going = ~self._over
        before = self._positions[:, 0].copy()
        self._controls[going] = np.asarray(actions)[going]
        self._simulate(going)
        env = self._env
        drive = env.drive((self._positions[:, 0] - before) / env.dt, self._goals)
        rewards = drive - env.costs(np.ascontiguousarray(self._controls), self._forces)
        self._taken += going
        terminated = going & env.fallen(self._positions, self._velocities)
        truncated = going & (self._taken >= (self._limit or math.inf))
        self._over = self._over | terminated | truncated
        return self._observe(), np.where(going, rewards, 0.0), terminated, truncated, {}

    def close_extras(self, **kwargs: Any) -> None:  # noqa: ARG002
        """Closes the simulation."""
        self._env.close()

    def _simulate(self, going: Flags) -> None:
        env, parts = self._env, self._parts
        model, data, skip, forces = env.model, env.data, env.frame_skip, env.forces
        get, put, step = mujoco.mj_getState, mujoco.mj_setState, mujoco.mj_step
        for row in np.flatnonzero(going).tolist():
            state = self._states[row]
            put(model, data, state, parts)
            step(model, data, nstep=skip)
            get(model, data, state, parts)
            if forces:
                mujoco.mj_rnePostConstraint(model, data)
                self._forces[row] = external_forces(data)

    def _observe(self) -> Numbers:
        observations: Numbers = self._env.observe(self._positions, self._velocities, self._forces)
        return observations

    def _columns(self, part: Any) -> slice:
        """Returns the columns of a part in the rows of states; parts are in the order of their bits."""
        model = self._env.model
        first = mujoco.mj_stateSize(model, self._parts & (part.value - 1))
        return slice(first, first + mujoco.mj_stateSize(model, part.value))


HalfCheetahDirections = partial(Runners, HalfCheetahDirection)
HalfCheetahVelocities = partial(Runners, HalfCheetahVelocity)
AntDirections = partial(Runners, AntDirection)
AntVelocities = partial(Runners, AntVelocity)

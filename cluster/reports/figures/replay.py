"""Trajectories of gymnasium's environments once more, action by action: for what rollouts do not keep, and pictures."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from cluster.errors import MetarayError
from tasks.environments.contract import EnvironmentFamily, Numbers
from tasks.environments.gymnasium_tasks import GymnasiumTasks
from tasks.environments.rollout import Rollouts
from tasks.environments.spaces import Actions
from tasks.environments.vectors import alone
from tasks.family import Family, TaskKey

Picture = NDArray[np.uint8]

BACKENDS = ("egl", "osmesa")  # MuJoCo's ways to draw that need no display
WITHIN = 60.0  # seconds that pictures may take


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One trajectory of a rollout: how it began, and what was done in it.

    Attributes:
        name: what it is, for errors.
        identifier: what gymnasium knows the environment by.
        arguments: of its constructor.
        options: of its reset.
        seed: of its reset.
        actions: as the policy gave them up to the trajectory's end, [H, A].
        observations: what was seen, [H + 1, O].
        pictured: numbers of the observations that come with a picture.
        clip: whether observations were clipped to their declared space.
    """

    name: str
    identifier: str
    arguments: dict[str, Any]
    options: dict[str, Any] | None
    seed: int
    actions: Numbers
    observations: Numbers
    pictured: tuple[int, ...] = ()
    clip: bool = False


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """Positions and pictures of a trajectory, recorded while it was repeated.

    Attributes:
        positions: the forward position x, [H + 1], where the environment tells it (``x_position``), else None.
        interval: simulated seconds per step, where the environment tells them (``dt``), else None.
        renders: whether the environment can draw itself, as it says.
        mujoco: whether MuJoCo draws it.
        pictures: of the observations that were to come with one, each [height, width, 3].
    """

    positions: Numbers | None
    interval: float | None
    renders: bool
    mujoco: bool
    pictures: list[Picture]


def gymnasium_tasks(family: Family | EnvironmentFamily) -> GymnasiumTasks | None:
    """The gymnasium environments that a family consists of, or None if it is made otherwise."""
    tasks = getattr(family, "tasks", family)
    return tasks if isinstance(tasks, GymnasiumTasks) else None


def trajectory(
    family: GymnasiumTasks, key: TaskKey, inner_step: int, rollouts: Rollouts, place: tuple[int, int]
) -> Trajectory:
    """One of a task's trajectories after ``inner_step`` inner steps.

    Args:
        family: the environments.
        key: of the task.
        inner_step: number of inner steps.
        rollouts: of several tasks.
        place: row of the task in the rollouts, and number of the trajectory.
    """
    values = family.draw(key)
    steps = int(rollouts.taken[place].sum())
    return Trajectory(
        name=f"{key.split} task {key.index}, inner step {inner_step}, trajectory {place[1]}",
        identifier=family.id,
        arguments=family.arguments(values),
        options=dict(values) if family.via == "options" else None,
        seed=family.seeds(key, inner_step)[place[1]],
        actions=rollouts.actions[place][:steps],
        observations=rollouts.observations[place][: steps + 1],
        clip=family.outside == "clip",
    )


def replay(trajectories: Iterable[Trajectory], **arguments: Any) -> list[Replayed]:
    """Repeat trajectories, each in an environment of its own.

    Args:
        trajectories: what to repeat.
        arguments: of the constructors, beside the trajectories' own.

    Raises:
        MetarayError: if a trajectory comes out in another way than it did, or its environment fails.
    """
    replays = []
    for one in trajectories:
        try:
            env = alone(one.identifier, {**one.arguments, **arguments})
            try:
                replays.append(_replay(env, one))
            finally:
                env.close()
        except MetarayError:
            raise
        except Exception as error:  # whatever a user's environment raises
            raise MetarayError(f"{one.name}: '{one.identifier}' raised {error!r}; mend the environment") from error
    return replays


def _replay(env: gymnasium.Env[Any, Any], one: Trajectory) -> Replayed:
    seen, info = env.reset(seed=one.seed, options=one.options)
    positions, pictures, actions = [info.get("x_position")], [], Actions(env.action_space)
    for step, expected in enumerate(one.observations):
        if step > 0:
            chosen = one.actions[step - 1]
            seen, *_, info = env.step(actions.of(chosen[0] if actions.single else chosen))
            positions.append(info.get("x_position"))
        if one.clip and isinstance(env.observation_space, spaces.Box):
            seen = np.clip(np.asarray(seen, np.float64), env.observation_space.low, env.observation_space.high)
        if not np.array_equal(np.ravel(seen), expected):
            raise MetarayError(
                f"{one.name}: expected '{one.identifier}' to repeat itself under the same seed and actions, received "
                f"another observation at environment step {step}; check it with tasks.check_environment_family"
            )
        if step in one.pictured:
            pictures.append(_picture(env))
    interval = getattr(env.unwrapped, "dt", None)
    return Replayed(
        positions=None if None in positions else np.array(positions, dtype=np.float64),
        interval=float(interval) if isinstance(interval, int | float) else None,
        renders="rgb_array" in env.metadata.get("render_modes", ()),
        mujoco=hasattr(env.unwrapped, "mujoco_renderer"),
        pictures=pictures,
    )


def _picture(env: gymnasium.Env[Any, Any]) -> Picture:
    robot: Any = env.unwrapped
    if hasattr(robot, "mujoco_renderer"):
        with suppress(KeyError):  # a camera of gymnasium's robots that goes with them; other robots may have none
            robot.mujoco_renderer.camera_id = robot.model.camera("track").id
    shown = np.asarray(env.render())
    if shown.ndim != 3 or shown.shape[2] != 3:
        raise MetarayError(f"expected a picture [height, width, 3] from render(), received shape {shown.shape}")
    return shown.astype(np.uint8)


def film(trajectories: Sequence[Trajectory], *, mujoco: bool) -> list[Replayed] | str:
    """Repeat trajectories with their pictures, in a process of its own; or say why there are none.

    What draws is foreign code that looks for a graphics library: it may not be there, hang, or crash. MuJoCo's is the
    one that ``MUJOCO_GL`` names, else the first of EGL and OSMesa that works.
    """
    own = os.environ.get("MUJOCO_GL")
    reasons = []
    for backend in BACKENDS if mujoco and not own else (own,):
        outcome = _elsewhere(trajectories, {"MUJOCO_GL": backend} if backend else {})
        if isinstance(outcome, list):
            return outcome
        reasons.append(f"{backend}: {outcome}" if mujoco else outcome)
    return "; ".join(reasons)


def _elsewhere(trajectories: Sequence[Trajectory], environment: dict[str, str]) -> list[Replayed] | str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "request").write_bytes(pickle.dumps(list(trajectories)))
        command = [sys.executable, "-c", f"from {__name__} import answer; answer()", name]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
        with (folder / "errors").open("wb") as errors:
            try:
                done = subprocess.run(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, timeout=WITHIN
                )
            except subprocess.TimeoutExpired:
                return f"no pictures within {WITHIN:.0f} s"
        if not (folder / "answer").exists():
            lines = (folder / "errors").read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines and done.returncode > 0 else f"it crashed (status {done.returncode})"
        outcome: list[Replayed] | str = pickle.loads((folder / "answer").read_bytes())
        return outcome


def answer() -> None:
    """Main function of the other process: answers the request in the folder that the command line names."""
    folder = Path(sys.argv[1])
    outcome: list[Replayed] | str
    try:
        outcome = replay(pickle.loads((folder / "request").read_bytes()), render_mode="rgb_array")
    except MetarayError as error:
        outcome = str(error.__cause__ or error)
    (folder / "partial").write_bytes(pickle.dumps(outcome))
    (folder / "partial").rename(folder / "answer")  # what happens while the libraries are unloaded is of no account

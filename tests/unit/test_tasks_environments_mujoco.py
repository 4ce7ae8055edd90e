"""Half-cheetahs and ants: gymnasium's physics, the paper's rewards, and many that are the same bits as one."""

import importlib.util
import os
import pickle
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tasks import TaskKey, check_environment_family
from tasks.environments.locomotion import AntDirection, AntVelocity, HalfCheetahDirection, HalfCheetahVelocity

FAMILIES = [HalfCheetahDirection, HalfCheetahVelocity, AntDirection, AntVelocity]
ROBOTS = [family.__name__ for family in FAMILIES]
KEYS = [TaskKey(1, "train", index) for index in range(20)]
# gymnasium's own environments, whose file MuJoCo finds old-fashioned: it says so on stderr and in MUJOCO_LOG.TXT.
ORIGINAL = {"HalfCheetah": "HalfCheetah-v5", "Ant": "Ant-v5"}


def make(robot: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(f"metaray/{robot}-v0", **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_keeps_the_contract(family):
    check_environment_family(family(horizon=4, trajectories=2))


def test_ants_that_fall_keep_the_contract():
    check_environment_family(AntDirection(horizon=40, trajectories=2), tasks=1)


@pytest.mark.parametrize("robot", ROBOTS)
# Gymnasium's v5 observations have no bounds either.
@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is -?infinity:UserWarning")
def test_gymnasium_finds_nothing_to_complain_about(robot):
    check_env(make(robot).unwrapped, skip_render_check=True)  # rendering needs a display or EGL


@pytest.mark.parametrize("robot", ROBOTS)
def test_making_one_says_nothing_and_leaves_no_file(robot, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = make(robot)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("robot", ROBOTS)
def test_many_are_the_same_bits_as_each_alone(robot):
    count, name = 5, f"metaray/{robot}-v0"
    many = gymnasium.make_vec(name, count, vectorization_mode="vector_entry_point", max_episode_steps=30)
    alone = SyncVectorEnv([lambda: make(robot, max_episode_steps=30)] * count, autoreset_mode=AutoresetMode.DISABLED)
    rng = np.random.Generator(np.random.Philox(2))
    seeds = list(range(10, 10 + count))
    pairs = [(many.reset(seed=seeds)[0], alone.reset(seed=seeds)[0])]  # type: ignore[arg-type]
    over, ends = np.zeros(count, dtype=np.bool_), 0
    task = {"direction": -1} if "Direction" in robot else {"velocity": 0.25}
    for _ in range(70):
        if over.any():  # some begin anew, with another task, while the others go on
            ends += 1
            pairs.append(tuple(env.reset(options={"reset_mask": over, **task})[0] for env in (many, alone)))
        actions = rng.uniform(-1, 1, many.action_space.shape).astype(np.float32)
        one, other = many.step(actions), alone.step(actions)
        pairs += list(zip(one[:4], other[:4], strict=True))
        over = one[2] | one[3]
    assert ends >= 2
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)
    many.close()


@pytest.mark.parametrize("robot", ROBOTS)
def test_physics_and_observations_are_gymnasiums(robot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original, env = gymnasium.make(ORIGINAL["Ant" if "Ant" in robot else "HalfCheetah"]), make(robot)
    assert (original.reset(seed=3)[0] == env.reset(seed=3)[0]).all()
    rng = np.random.Generator(np.random.Philox(4))
    for _ in range(30):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        theirs, ours = original.step(action), env.step(action)
        assert (theirs[0] == ours[0]).all()
        assert theirs[2] == ours[2]
        if ours[2]:
            break


@pytest.mark.parametrize("robot", ROBOTS)
@pytest.mark.parametrize("goal", [-1.0, 1.0])
def test_rewards_are_the_papers(robot, goal):
    env = make(robot, **{"direction" if "Direction" in robot else "velocity": goal})
    env.reset(seed=5)
    data, action = env.unwrapped.data, env.action_space.sample()  # type: ignore[attr-defined]
    before = data.qpos[0]
    _, reward, _, _, info = env.step(action)
    velocity = (data.qpos[0] - before) / 0.05
    effort = np.square(action.astype(np.float64)).sum()
    forces = np.square(np.clip(data.cfrc_ext, -1, 1)).sum()
    expected = {
        "HalfCheetahDirection": goal * velocity - 0.05 * effort,
        "HalfCheetahVelocity": -abs(velocity - goal) - 0.05 * effort,
        "AntDirection": goal * velocity + 0.05 - 0.005 * effort - 0.0005 * forces,
        "AntVelocity": 1 - abs(velocity - goal) + 0.05 - 0.005 * effort - 0.0005 * forces,
    }
    assert reward == pytest.approx(expected[robot])
    assert info["x_velocity"] == velocity


@pytest.mark.parametrize("robot", ["AntDirection", "AntVelocity"])
def test_an_ant_pays_for_contact_what_gymnasiums_does(robot, tmp_path, monkeypatch):
    """Only on the ground, not in the first steps, are there forces to pay for."""
    monkeypatch.chdir(tmp_path)
    original, one = gymnasium.make("Ant-v5", include_cfrc_ext_in_observation=True), make(robot)
    many = gymnasium.make_vec(f"metaray/{robot}-v0", 2, vectorization_mode="vector_entry_point")
    original.reset(seed=3)
    one.reset(seed=3)
    many.reset(seed=[3, 4])
    actions, paid = np.random.Generator(np.random.Philox(4)).uniform(-1, 1, (40, 8)).astype(np.float32), []
    for action in actions:
        theirs = original.step(action)[4]
        _, reward, ended, _, ours = one.step(action)
        rewards = many.step(np.stack([action, action]))[1]
        velocity = ours["x_velocity"]
        drive = velocity if robot == "AntDirection" else 1 - abs(velocity - 1)
        effort = 0.005 * np.square(action.astype(np.float64)).sum()
        assert reward == pytest.approx(drive + 0.05 - effort + theirs["reward_contact"], rel=0, abs=1e-9)
        assert rewards[0] == reward
        paid.append(-theirs["reward_contact"])
        if ended:
            break
    assert max(paid) > 1e-3  # ten times as much would be seen
    many.close()


def test_an_ant_that_has_fallen_has_come_to_its_end():
    env = make("AntDirection")
    env.reset(seed=0)
    robot = env.unwrapped
    robot.set_state(robot.data.qpos + 0.9 * (np.arange(15) == 2), robot.data.qvel)  # type: ignore[attr-defined]
    assert env.step(np.zeros(8, dtype=np.float32))[2]


@pytest.mark.parametrize(
    ("robot", "options", "message"),
    [
        ("AntDirection", {"direction": 0.5}, r"direction: expected 1 \(forward\) or -1 \(backward\), received 0.5"),
        ("AntVelocity", {"velocity": float("inf")}, "velocity: expected a finite number, received inf"),
        ("HalfCheetahVelocity", {"velocity": "fast"}, "velocity: expected a finite number, received 'fast'"),
    ],
)
def test_a_task_that_is_none_is_refused(robot, options, message):
    with pytest.raises(ValueError, match=message):
        make(robot, **options)
    with pytest.raises(ValueError, match=message):
        make(robot).reset(options=options)


def test_a_robot_can_be_pickled_with_its_task():
    env = pickle.loads(pickle.dumps(make("HalfCheetahVelocity", velocity=1.5, frame_skip=4).unwrapped))
    assert (env.goal, env.frame_skip) == (1.5, 4)


@pytest.mark.parametrize("family", [HalfCheetahDirection, AntDirection])
def test_both_directions_occur(family):
    told = family().describe(KEYS)
    assert set(told.ravel()) == {-1.0, 1.0}


@pytest.mark.parametrize("family", [HalfCheetahDirection, AntDirection])
def test_stratified_directions_are_as_many_in_every_pair(family):
    keys = [TaskKey(3, "train", index) for index in range(40)]
    drawn = family(stratified=True, horizon=2, trajectories=1).describe(keys).ravel()
    assert (drawn[::2] == -drawn[1::2]).all()
    assert 0 < (drawn[::2] > 0).sum() < 20  # in either order


@pytest.mark.parametrize("family", [HalfCheetahDirection, AntDirection])
def test_directions_are_the_kinds_of_task(family):
    made = family()
    assert made.spec.kinds == ("backward", "forward")
    told = {-1.0: "backward", 1.0: "forward"}
    assert [made.kind_of(key) for key in KEYS] == [told[number] for number in made.describe(KEYS).ravel().tolist()]
    assert HalfCheetahVelocity().spec.kinds == ()


@pytest.mark.parametrize(("family", "fastest"), [(HalfCheetahVelocity, 2.0), (AntVelocity, 3.0)])
def test_velocities_cover_their_range(family, fastest):
    told = family().describe(KEYS)
    assert (told >= 0).all()
    assert fastest / 2 < told.max() <= fastest
    assert (family(velocity=(1.0, 1.0)).describe(KEYS) == 1.0).all()


def test_the_papers_sizes():
    assert [family().spec.trajectories for family in FAMILIES] == [20, 20, 40, 20]
    assert {family().spec.horizon for family in FAMILIES} == {200}
    assert [family().spec.input_shape for family in FAMILIES] == [(17,), (17,), (105,), (105,)]
    assert [family().spec.outputs for family in FAMILIES] == [6, 6, 8, 8]


def test_a_robot_obeys_the_task_of_its_row():
    family = HalfCheetahDirection(horizon=2, trajectories=1)
    lockstep = family.start(KEYS, 0)
    lockstep.reset()
    goals = np.concatenate([vector._goals for _, vector in lockstep._used])  # type: ignore[attr-defined]
    assert (goals == family.describe(KEYS)[:, 0]).all()


def test_without_mujoco_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"expected MuJoCo for AntVelocity, .* run: pip install 'metaray\[mujoco\]'"):
        AntVelocity()


def test_nothing_but_a_robot_imports_mujoco():
    code = (
        "import sys, tasks.environments.locomotion, tasks.environments.navigation, gymnasium\n"
        "assert 'mujoco' not in sys.modules\n"
        "tasks.environments.locomotion.HalfCheetahVelocity()\n"
        "assert 'mujoco' in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )

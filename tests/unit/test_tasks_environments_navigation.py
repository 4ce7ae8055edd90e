"""Points in the plane, against positions and rewards computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks import TaskKey, check_environment_family
from tasks.environments.contract import RolloutError
from tasks.environments.navigation import Navigation

KEYS = [TaskKey(3, "train", index) for index in range(4)]


@pytest.mark.parametrize("arguments", [{}, {"reward": "squared", "scale": 0.1, "horizon": 7, "radius": 0.2}])
def test_it_keeps_the_contract(arguments):
    check_environment_family(Navigation(trajectories=2, **arguments))


def test_goals_are_spread_over_the_square_and_differ_between_splits():
    family = Navigation()
    goals = family.describe([TaskKey(0, "train", index) for index in range(500)])
    assert goals.shape == (500, 2)
    assert (np.abs(goals) <= 0.5).all()
    assert (np.abs(goals.mean(axis=0)) < 4 * np.sqrt(1 / 12 / 500)).all()
    assert (family.describe([TaskKey(0, "val", 0)]) != goals[0]).all()


@pytest.mark.parametrize(("reward", "power"), [("distance", 1), ("squared", 2)])
def test_a_move_is_clipped_and_rewarded_by_where_it_ends(reward, power):
    family = Navigation(trajectories=1, reward=reward, scale=0.5)
    lockstep = family.start(KEYS[:1], 0)
    assert (lockstep.reset() == 0).all()
    step = lockstep.step(np.array([[[0.1, -7.0]]]))
    assert step.observations.tolist() == [[[0.05, -0.1]]]
    away = np.hypot(*(np.array([0.05, -0.1]) - family.describe(KEYS[:1])[0]))
    assert step.rewards == pytest.approx(-(away**power))
    assert not step.terminated
    assert not step.truncated


def test_a_trajectory_terminates_at_the_goal_and_stands_still():
    family = Navigation(trajectories=2, horizon=9)
    goal = family.describe(KEYS[:1])[0]
    lockstep = family.start(KEYS[:1], 0)
    position, flags = lockstep.reset(), []
    for _ in range(9):
        actions = goal - position
        actions[:, 1] = 0.0  # the second trajectory does not move
        step = lockstep.step(actions)
        flags.append((step.terminated.tolist(), step.truncated.tolist()))
        position = step.observations
    arrival = int(np.ceil(np.abs(goal).max() / 0.1 - 1e-9)) - 1
    nothing = [[False, False]]
    for number, (terminated, truncated) in enumerate(flags):
        assert terminated == ([[True, False]] if number == arrival else nothing)
        assert truncated == ([[False, True]] if number == 8 else nothing)
    assert step.rewards[0, 0] == 0
    np.testing.assert_allclose(step.observations[0, 0], goal, atol=1e-12)


@given(hnp.arrays(np.float64, (6, 4, 3, 2), elements=st.floats(-0.3, 0.3)))
def test_tasks_together_are_what_a_loop_over_points_gives(actions):
    family = Navigation(trajectories=3, horizon=6, radius=0.15)
    goals = family.describe(KEYS)
    lockstep = family.start(KEYS, 0)
    lockstep.reset()
    steps = [lockstep.step(chosen) for chosen in actions]
    for task in range(4):
        for trajectory in range(3):
            position, over = np.zeros(2), False
            for number, step in enumerate(steps):
                if not over:
                    position = position + np.clip(actions[number, task, trajectory], -0.1, 0.1)
                    away = float(np.linalg.norm(position - goals[task]))
                    assert step.rewards[task, trajectory] == pytest.approx(-away)
                    over = away < 0.15 or number == 5
                    assert step.terminated[task, trajectory] == (away < 0.15)
                else:
                    assert step.rewards[task, trajectory] == 0
                assert (step.observations[task, trajectory] == position).all()


def test_an_action_that_is_no_number_names_the_trajectory():
    lockstep = Navigation(trajectories=2).start(KEYS, 1)
    lockstep.reset()
    lockstep.step(np.zeros((4, 2, 2)))
    actions = np.zeros((4, 2, 2))
    actions[2, 1, 0] = np.nan
    where = (
        r"^train task 2, inner step 1, trajectory 1, environment step 2: expected finite .* \[nan  ?0\.\]; the policy"
    )
    with pytest.raises(RolloutError, match=where):
        lockstep.step(actions)


def test_actions_of_another_shape_are_refused():
    lockstep = Navigation(trajectories=2).start(KEYS, 1)
    lockstep.reset()
    with pytest.raises(ValueError, match=r"expected actions of shape \(4, 2, 2\), received \(4, 2\)"):
        lockstep.step(np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon: expected a number above zero, received 0"),
        ({"trajectories": -1}, "trajectories: expected"),
        ({"goal": (1.0, 0.0)}, r"goal: expected a range .* received \[1.0, 0.0\]"),
        ({"limit": 0.0}, "limit: expected"),
        ({"radius": float("nan")}, "radius: expected"),
        ({"reward": "cubed"}, "reward: expected 'distance' or 'squared', received 'cubed'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Navigation(**arguments)

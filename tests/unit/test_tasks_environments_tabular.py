"""Finite decision processes, against their own transition probabilities."""

import numpy as np
import pytest

from tasks import TaskKey, check_environment_family
from tasks.environments.contract import RolloutError
from tasks.environments.tabular import Tabular

KEYS = [TaskKey(5, "train", index) for index in range(3)]


@pytest.mark.parametrize("arguments", [{}, {"states": 1}, {"states": 2, "actions": 1, "concentration": 0.3}])
def test_it_keeps_the_contract(arguments):
    check_environment_family(Tabular(**arguments))


def test_the_model_is_a_model():
    family = Tabular(states=4, actions=3)
    transitions, rewards = family.model(KEYS)
    assert (transitions >= 0).all()
    np.testing.assert_allclose(transitions.sum(axis=-1), 1)
    assert (family.describe(KEYS) == rewards.reshape(3, 12)).all()
    assert (family.model(KEYS[1:2])[0][0] == transitions[1]).all()


def test_states_follow_the_probabilities_and_rewards_the_table():
    family = Tabular(states=3, actions=2, horizon=4, trajectories=20_000)
    transitions, rewards = family.model(KEYS)
    lockstep = family.start(KEYS, 0)
    before = lockstep.reset()
    assert (before.argmax(axis=-1) == 0).all()
    for number in range(4):
        actions = np.broadcast_to(np.arange(20_000) % 2, (3, 20_000)).astype(np.float64)
        step = lockstep.step(actions)
        states, following = before.argmax(axis=-1), step.observations.argmax(axis=-1)
        for task in range(3):
            assert (step.rewards[task] == rewards[task, states[task], actions[task].astype(int)]).all()
            for state, action in np.ndindex(3, 2):
                rows = (states[task] == state) & (actions[task] == action)
                probabilities = transitions[task, state, action]
                found = np.bincount(following[task, rows], minlength=3)
                spread = 4 * np.sqrt(probabilities * (1 - probabilities) * rows.sum()) + 1
                assert (np.abs(found - probabilities * rows.sum()) <= spread).all()
        assert (step.terminated == (number == 3)).all()
        assert not step.truncated.any()
        before = step.observations


def test_one_state_is_a_bandit():
    family = Tabular(states=1, actions=4, horizon=1, trajectories=4)
    lockstep = family.start(KEYS, 0)
    assert (lockstep.reset() == 1).all()
    step = lockstep.step(np.tile(np.arange(4.0), (3, 1)))
    assert (step.rewards == family.describe(KEYS)).all()
    assert step.terminated.all()


@pytest.mark.parametrize("action", [-1.0, 3.0, 0.5, float("nan")])
def test_an_action_that_is_none_names_the_trajectory(action):
    lockstep = Tabular(trajectories=2).start(KEYS, 2)
    lockstep.reset()
    actions = np.zeros((3, 2))
    actions[1, 1] = action
    where = "train task 1, inner step 2, trajectory 1, environment step 1: expected actions from 0 to 2, received"
    with pytest.raises(RolloutError, match=where):
        lockstep.step(actions)


@pytest.mark.parametrize("name", ["states", "actions", "horizon", "trajectories", "concentration"])
def test_wrong_arguments_are_named(name):
    with pytest.raises(ValueError, match=f"{name}: expected a number above zero, received 0"):
        Tabular(**{name: 0})

"""The learner: the outer step by hand, its state, its schedule."""

import math

import numpy as np
import pytest
import torch

from cluster.config.outer_sections import OuterConfig
from cluster.training.learner import Learner
from helpers.learning import update
from meta.params import Layout

PARAMS = {"b": torch.tensor([1.0, -2.0]), "a": torch.tensor([[0.5]])}
GRADIENT = np.array([4.0, 8.0, -2.0], dtype=np.float32)


def learner(**outer) -> Learner:
    return Learner(OuterConfig(steps=10, **outer), Layout.of(PARAMS), PARAMS)


def test_adams_first_step_by_hand():
    one = learner(lr=0.1)
    norm = update(one, GRADIENT, tasks=4)
    mean = GRADIENT / 4
    # m/(1-β1) = g and v/(1-β2) = g², so the first step is lr·g/(|g| + ε).
    assert one.theta == pytest.approx(np.array([0.5, 1.0, -2.0]) - 0.1 * mean / (np.abs(mean) + 1e-8))
    assert norm == pytest.approx(float(np.linalg.norm(mean)))
    assert one.step == 1


def test_adam_follows_its_formula_on_the_mean_of_the_tasks():
    """Kingma and Ba (2015), Algorithm 1, in float64."""
    params = {name: value.double() for name, value in PARAMS.items()}
    one = Learner(OuterConfig(steps=10, lr=0.1), Layout.of(params), params)
    theta, m, v = one.theta, np.zeros(3), np.zeros(3)
    for step, total in enumerate(np.random.default_rng(0).normal(size=(10, 3)), start=1):
        g = total / 7
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta -= 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        update(one, total, tasks=7)
    assert one.theta == pytest.approx(theta, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
def test_a_loaded_state_goes_on_with_the_same_bits(optimizer):
    one = learner(optimizer=optimizer)
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(6, 3)).astype(np.float32)
    for gradient in gradients[:3]:
        update(one, gradient, 2)
    other = learner(optimizer=optimizer)
    other.load(one.state(), step=one.step, skipped=0)
    for gradient in gradients[3:]:
        update(one, gradient, 2)
        update(other, gradient, 2)
    assert one.fingerprint == other.fingerprint
    assert one.step == other.step == 6


def test_a_state_is_a_copy():
    one = learner()
    state, theta = one.state(), one.theta
    update(one, GRADIENT, 1)
    assert torch.equal(state["theta.a"], PARAMS["a"])
    assert theta.tolist() == [0.5, 1.0, -2.0]


def test_a_loaded_state_is_left_as_it_was():
    one, other = learner(), learner()
    update(one, GRADIENT, 1)
    state = one.state()
    other.load(state, step=1, skipped=0)
    update(other, GRADIENT, 1)
    assert state.keys() == one.state().keys()
    assert all(torch.equal(value, state[name]) for name, value in one.state().items())


def test_the_mean_gradient_is_clipped_by_value():
    one = learner(optimizer="sgd", lr=1.0, clip_value=0.6)
    update(one, GRADIENT, tasks=4)
    assert one.theta == pytest.approx(np.array([0.5 - 0.6, 1.0 - 0.6, -2.0 + 0.5]))


def test_cosine_falls_from_lr_to_nothing():
    one = learner(optimizer="sgd", lr=2.0, schedule="cosine")
    rates = []
    for _ in range(10):
        rates.append(one.lr)
        update(one, GRADIENT, 1)
    assert rates == pytest.approx([1 + math.cos(math.pi * step / 10) for step in range(10)])


def test_a_skipped_step_leaves_theta():
    one = learner()
    before = one.fingerprint
    one.skip()
    assert (one.fingerprint, one.step, one.skipped) == (before, 1, 1)

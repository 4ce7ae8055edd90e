"""Estimators of policy gradients on rollouts as a worker samples and packs them, against exact derivatives.

One task of 20 000 trajectories: each is an independent estimate, so their mean and its standard error give z, how many
standard errors lie between mean and exact value. With these seeds no estimate that is unbiased comes near 4, and a bias
that is known shows at more than 10.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, vmap

from cluster.config.schema import parse
from cluster.setups.build import build
from cluster.workers.messages import TaskRange
from cluster.workers.rollouts import RolloutWork
from meta.episode import Examples, unstack
from meta.params import Layout
from meta.policy import PolicyMAML
from meta.policy.estimators import ESTIMATORS
from meta.policy.samples import Samples, step_of, unpack
from tasks import TaskKey
from tasks.environments.tabular import Tabular

SEED, TASK, STATES, ACTIONS, HORIZON, COUNT = 4, 2, 3, 2, 3, 20_000
FAMILY = Tabular(states=STATES, actions=ACTIONS, horizon=HORIZON, trajectories=COUNT)
CONFIG = {
    "task": {"family": "tabular", "states": STATES, "actions": ACTIONS, "horizon": HORIZON, "trajectories": COUNT},
    "model": {"name": "categorical", "hidden": []},
    "inner": {"lr": 2.0, "steps": 1},
    "outer": {"steps": 1},
    "meta_batch": 1,
    "advantage": {"baseline": "none", "normalise": "none", "discount": 1.0, "gae_lambda": 1.0},
    "dtype": "float64",
    "engine": "vmap",
    "seed": SEED,
}
LAYOUT = Layout(("layer0.bias", "layer0.weight"), ((ACTIONS,), (ACTIONS, STATES)))


def start() -> Tensor:
    return 0.5 * torch.randn(LAYOUT.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def log_probabilities(theta: Tensor) -> Tensor:
    """log π(a | s), [S, A]."""
    params = LAYOUT.unflatten(theta)
    return torch.log_softmax(params["layer0.weight"].T + params["layer0.bias"], dim=-1)


class Exact(NamedTuple):
    """Derivatives of the expected return, by enumeration of all trajectories."""

    gradient: Tensor
    hessian: Tensor
    own: Tensor
    curved: Tensor


@cache
def every_trajectory() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, actions and rewards [K, H], and the probability [K] of the transitions."""
    transitions, rewards = (torch.from_numpy(one[0]) for one in FAMILY.model([TaskKey(SEED, "train", TASK)]))
    steps = list(product(range(STATES), range(ACTIONS)))
    walks = torch.tensor([walk for walk in product(steps, repeat=HORIZON) if walk[0][0] == 0])
    states, actions = walks.unbind(-1)
    chances = transitions[states[:, :-1], actions[:, :-1], states[:, 1:]].prod(dim=1)
    return states, actions, rewards[states, actions], chances


def chances(theta: Tensor) -> Tensor:
    states, actions, _, transitions = every_trajectory()
    return transitions * log_probabilities(theta)[states, actions].sum(dim=1).exp()


def returns_to_go() -> Tensor:
    return every_trajectory()[2].flip(1).cumsum(dim=1).flip(1)


def expected(theta: Tensor) -> Tensor:
    return chances(theta) @ every_trajectory()[2].sum(dim=1)


def state_values(theta: Tensor) -> Tensor:
    """V [H, S] of states that are met at each step; 0 for others."""
    states, there = every_trajectory()[0], torch.arange(STATES)
    met = chances(theta)[:, None, None] * (states[..., None] == there)
    return (met * returns_to_go()[..., None]).sum(dim=0) / met.sum(dim=0).clamp(min=1e-300)


def exact(theta: Tensor, values: Tensor) -> Exact:
    states, actions, *_ = every_trajectory()
    here, gains = chances(theta), returns_to_go()

    def own(at: Tensor) -> Tensor:
        ratios = (log_probabilities(at) - log_probabilities(theta))[states, actions].exp()
        return here @ (ratios * gains).sum(dim=1)

    def curved(at: Tensor) -> Tensor:
        advantages = gains - values[torch.arange(HORIZON), states]
        return here @ (log_probabilities(at)[states, actions] * advantages).sum(dim=1)

    return Exact(grad(expected)(theta), hessian(expected)(theta), hessian(own)(theta), hessian(curved)(theta))


class Rolled(NamedTuple):
    algorithm: PolicyMAML
    support: Examples
    query: Examples
    adapted: Tensor


@cache
def rolled() -> Rolled:
    """Rollouts before and after an inner step."""
    setup = build(parse(CONFIG))
    params = LAYOUT.unflatten(start())
    episodes = RolloutWork(setup).sample(TaskRange(split="train", start=TASK, stop=TASK + 1), params, 1).episodes
    episode = unstack(episodes)
    adapted = LAYOUT.flatten(setup.algorithm.adapted(params, episode)[-1])
    return Rolled(setup.algorithm, step_of(episode.support, 0), episode.query, adapted)


def walks(examples: Examples, baseline: Tensor) -> Samples:
    """Each trajectory's rows as rollouts of their own, [N, H, …], with a baseline [H, S] subtracted."""
    samples = unpack(examples, rolled().algorithm.model)
    apart = Samples(*(column.unflatten(0, (COUNT, HORIZON)) for column in samples))
    values = (apart.observations * baseline).sum(dim=-1)
    return apart._replace(weights=apart.weights * COUNT, advantages=apart.advantages - values)


def z_scores(found: Tensor, value: Tensor) -> Tensor:
    """Distance of the mean of independent estimates [N, …] from a value, in standard errors, where they vary."""
    error, spread = (found.mean(dim=0) - value).abs(), found.std(dim=0) / len(found) ** 0.5
    return (error / spread)[spread > 1e-12]


def unbiased(found: Tensor, value: Tensor) -> bool:
    constant = found.std(dim=0) <= 1e-12  # second derivatives by the logits of two different states
    return bool((z_scores(found, value) < 4).all()) and bool(((found[0] - value)[constant].abs() < 1e-12).all())


def biased(found: Tensor, value: Tensor) -> bool:
    return bool(z_scores(found, value).max() > 10)


def objective(estimator: str, theta: Tensor, samples: Samples) -> Tensor:
    """What is to be ascended on one trajectory, summed over its steps as the return is."""
    model = rolled().algorithm.model
    outputs = model.apply(LAYOUT.unflatten(theta), samples.observations)
    return -HORIZON * ESTIMATORS[estimator](model.log_probability(outputs, samples.actions), samples, HORIZON)


@pytest.fixture(params=["none", "state values"])
def baseline(request: pytest.FixtureRequest) -> Tensor:
    values = state_values(start())
    return values if request.param == "state values" else torch.zeros_like(values)


def test_rollouts_are_the_trajectories_of_the_process() -> None:
    """Each trajectory occurs as often as it is probable, its rows hold what belongs together."""
    states, actions, rewards, _ = every_trajectory()
    apart = walks(rolled().support, torch.zeros(HORIZON, STATES, dtype=torch.float64))
    names = torch.stack([apart.observations.argmax(dim=-1), apart.actions.squeeze(-1).long()], dim=-1)
    same = (names[:, None] == torch.stack([states, actions], dim=-1)).flatten(2).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    number = same.long().argmax(dim=1)
    probable, counts = chances(start()), torch.bincount(number, minlength=len(states))
    error = (counts - COUNT * probable) / (COUNT * probable * (1 - probable)).sqrt()
    assert error.abs().max() < 4
    assert torch.equal(apart.rewards, rewards[number])
    torch.testing.assert_close(apart.advantages, returns_to_go()[number], rtol=1e-13, atol=1e-14)
    expected_logs = log_probabilities(start())[states, actions][number]
    torch.testing.assert_close(apart.log_probabilities, expected_logs, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(apart.weights, torch.full_like(apart.weights, 1 / HORIZON))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_policy_gradient_is_unbiased(estimator: str, baseline: Tensor) -> None:
    samples = walks(rolled().support, baseline)
    found = vmap(grad(objective, argnums=1), in_dims=(None, None, 0))(estimator, start(), samples)
    right = grad(expected)(start())
    assert unbiased(found, right)
    assert biased(found, torch.zeros_like(right))


def test_the_policy_gradient_after_adaptation_is_unbiased() -> None:
    there = rolled().adapted
    assert (there - start()).norm() > 0.1
    samples = walks(rolled().query, state_values(there))
    found = vmap(grad(objective, argnums=1), in_dims=(None, None, 0))("low_variance", there, samples)
    assert unbiased(found, grad(expected)(there))
    assert biased(found, grad(expected)(start()))


def test_second_derivatives_are_biased_as_they_are_said_to_be(baseline: Tensor) -> None:
    samples, right = walks(rolled().support, baseline), exact(start(), baseline)
    found = {
        one: vmap(hessian(objective, argnums=1), in_dims=(None, None, 0))(one, start(), samples) for one in ESTIMATORS
    }
    assert unbiased(found["dice"], right.hessian)
    assert unbiased(found["low_variance"], right.own)
    assert unbiased(found["likelihood_ratio"], right.curved)
    assert biased(found["low_variance"], right.hessian)
    assert biased(found["likelihood_ratio"], right.hessian)
    assert biased(found["likelihood_ratio"], right.own)
    spread = {name: float(one.var(dim=0).sum()) for name, one in found.items()}
    assert spread["dice"] > 2 * spread["low_variance"], "what the estimator is named for"


def test_the_meta_gradient_at_the_expected_update() -> None:
    """∇J(θ + α ∇J(θ)) = (I + α H) v with v = ∇J(θ'), where H is estimated and v exact."""
    rate, here, values = 0.7, start(), state_values(start())
    after = here + rate * grad(expected)(here)
    along = grad(expected)(after)
    whole = grad(lambda theta: expected(theta + rate * grad(expected)(theta)))(here)
    right = exact(here, values)
    torch.testing.assert_close(whole, along + rate * right.hessian @ along, rtol=0, atol=1e-12)

    def estimated(estimator: str, samples: Samples) -> Tensor:
        slopes = jacrev(lambda theta: along @ grad(objective, argnums=1)(estimator, theta, samples))(here)
        return along + rate * slopes

    found = {one: vmap(estimated, in_dims=(None, 0))(one, walks(rolled().support, values)) for one in ESTIMATORS}
    assert unbiased(found["dice"], whole)
    for other, part in (("low_variance", right.own), ("likelihood_ratio", right.curved)):
        assert unbiased(found[other], along + rate * part @ along)
        assert biased(found[other], whole)

"""Policies as distributions, against torch.distributions, quadrature and enumeration."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence
from torch.func import grad, hessian

from meta.policy import CategoricalPolicy, GaussianPolicy, MultiCategoricalPolicy, Policy
from meta.policy.distributions import action_columns

ACTIONS, ROWS = 3, 50
GAUSSIAN = GaussianPolicy(inputs=(2,), outputs=ACTIONS, hidden=(4,))
CATEGORICAL = CategoricalPolicy(inputs=(2,), outputs=ACTIONS, hidden=(4,))
policies = pytest.mark.parametrize("policy", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
EDGE = math.nextafter


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(policy: Policy, outputs: Tensor) -> Distribution:
    if policy.discrete:
        return Categorical(logits=outputs, validate_args=False)
    mean, log_std = outputs[..., :ACTIONS], outputs[..., ACTIONS:]
    return Independent(Normal(mean, log_std.exp(), validate_args=False), 1, validate_args=False)


def drawn(policy: Policy, outputs: Tensor, seed: int = 9) -> Tensor:
    rows = len(outputs)
    return policy.sample(outputs, uniform(seed, rows, 1) if policy.discrete else normal(seed, rows, policy.outputs))


def every_action(policy: Policy, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Actions [B, A] and weights [B] under which means of cubics and their squares are exact, for outputs [M]."""
    if policy.discrete:
        return torch.arange(ACTIONS, dtype=torch.float64)[:, None], torch.softmax(outputs, dim=-1)
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(5))
    grid = torch.cartesian_prod(*[nodes] * ACTIONS)
    product = torch.cartesian_prod(*[weights / weights.sum()] * ACTIONS).prod(dim=-1)
    return policy.sample(outputs.expand(len(grid), -1), grid), product


@policies
def test_log_probabilities_are_those_of_torch(policy: Policy, close: Callable[..., None]) -> None:
    outputs = 2 * normal(0, ROWS, policy.width)
    actions = drawn(policy, outputs)
    given = actions.squeeze(-1) if policy.discrete else actions
    found = policy.log_probability(outputs, actions)
    assert found.shape == (ROWS,)
    close(found, reference(policy, outputs).log_prob(given))


@policies
def test_divergences_are_those_of_torch(policy: Policy, close: Callable[..., None]) -> None:
    old, new = normal(0, ROWS, policy.width), 2 * normal(1, ROWS, policy.width)
    found = policy.divergence(old, new)
    assert found.shape == (ROWS,)
    close(found, kl_divergence(reference(policy, old), reference(policy, new)))
    assert (found > 0).all()


@policies
def test_a_distribution_does_not_diverge_from_itself(policy: Policy) -> None:
    outputs = normal(0, ROWS, policy.width)
    assert torch.equal(policy.divergence(outputs, outputs), torch.zeros(ROWS, dtype=torch.float64))
    slopes = grad(lambda new: policy.divergence(outputs, new).sum())(outputs)
    torch.testing.assert_close(slopes, torch.zeros_like(outputs), rtol=0, atol=1e-15)


@policies
def test_the_curvature_of_the_divergence_is_the_fisher_information(policy: Policy, close: Callable[..., None]) -> None:
    outputs = normal(2, policy.width)
    actions, weights = every_action(policy, outputs)

    def log_probability(outputs: Tensor, action: Tensor) -> Tensor:
        return policy.log_probability(outputs[None], action[None]).squeeze(0)

    scores = torch.stack([grad(log_probability)(outputs, action) for action in actions])
    torch.testing.assert_close(weights @ scores, torch.zeros_like(outputs), rtol=0, atol=1e-13)
    curvature = hessian(lambda new: policy.divergence(outputs[None], new[None]).squeeze(0))(outputs)
    close(curvature, scores.T @ (weights[:, None] * scores))


@policies
def test_the_divergence_is_the_mean_of_the_log_ratio(policy: Policy, close: Callable[..., None]) -> None:
    old, new = normal(3, policy.width), normal(4, policy.width)
    actions, weights = every_action(policy, old)
    ratios = [policy.log_probability(one.expand(len(actions), -1), actions) for one in (old, new)]
    close(policy.divergence(old[None], new[None])[0], weights @ (ratios[0] - ratios[1]))


@policies
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_action_is_a_function_of_its_own_row_and_noise(policy: Policy, dtype: torch.dtype) -> None:
    outputs = normal(0, ROWS, policy.width).to(dtype)
    noise = (uniform(9, ROWS, 1) if policy.discrete else normal(9, ROWS, ACTIONS)).to(dtype)
    actions = policy.sample(outputs, noise)
    assert actions.shape == (ROWS, action_columns(policy))
    assert actions.dtype == dtype
    assert torch.equal(actions, policy.sample(outputs, noise))
    assert torch.equal(
        actions, torch.cat([policy.sample(*row) for row in zip(outputs.split(1), noise.split(1), strict=True)])
    )
    assert not torch.equal(actions, policy.sample(outputs, noise.flip(0)))


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


def test_normal_actions_have_their_distribution() -> None:
    count, bins = 200_000, 40
    outputs = normal(5, 2 * ACTIONS)
    actions = drawn(GAUSSIAN, outputs.expand(count, -1), seed=6)
    mean, deviation = outputs[:ACTIONS], outputs[ACTIONS:].exp()
    levels = Normal(mean, deviation, validate_args=False).cdf(actions)
    for column in range(ACTIONS):
        found = torch.histc(levels[:, column], bins, 0, 1)
        assert found.sum() == count
        # χ² of 39 degrees of freedom has mean 39 and variance 78.
        assert chi_square(found, torch.full((bins,), 1 / bins, dtype=torch.float64)) < 39 + 4 * 78**0.5
    spread = torch.corrcoef(actions.T) - torch.eye(ACTIONS, dtype=torch.float64)
    assert spread.abs().max() < 4 / count**0.5, "the components are independent"


def test_discrete_actions_have_their_distribution() -> None:
    count, outputs = 200_000, normal(5, 8)
    policy = CategoricalPolicy(inputs=(2,), outputs=8)
    probabilities = torch.softmax(outputs, dim=-1)
    actions = policy.sample(outputs.expand(count, -1), uniform(6, count, 1)).squeeze(-1)
    assert chi_square(torch.bincount(actions.long(), minlength=8).double(), probabilities) < 7 + 4 * 14**0.5
    # Evenly spread noise has to meet every probability, to the width of one step.
    even = (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) / count
    found = torch.bincount(policy.sample(outputs.expand(count, -1), even).squeeze(-1).long(), minlength=8)
    assert (found - count * probabilities).abs().max() <= 1


MULTI = MultiCategoricalPolicy(inputs=(2,), outputs=(ACTIONS, 2), hidden=(4,))


def test_several_whole_numbers_are_independent_categorical_ones(close: Callable[..., None]) -> None:
    outputs, new, noise = normal(0, ROWS, 5), normal(1, ROWS, 5), uniform(9, ROWS, 2)
    pairs = [(CATEGORICAL, slice(0, 3)), (CategoricalPolicy(inputs=(2,), outputs=2), slice(3, 5))]
    actions = MULTI.sample(outputs, noise)
    assert (MULTI.width, action_columns(MULTI), actions.shape) == (5, 2, (ROWS, 2))
    alone = [one.sample(outputs[:, part], noise[:, [row]]) for row, (one, part) in enumerate(pairs)]
    assert torch.equal(actions, torch.cat(alone, dim=1))
    expected = [Categorical(logits=outputs[:, part]).log_prob(actions[:, row]) for row, (_, part) in enumerate(pairs)]
    close(MULTI.log_probability(outputs, actions), expected[0] + expected[1])
    parts = [kl_divergence(*(Categorical(logits=one[:, part]) for one in (outputs, new))) for _, part in pairs]
    close(MULTI.divergence(outputs, new), parts[0] + parts[1])
    assert torch.equal(MULTI.divergence(outputs, outputs), torch.zeros(ROWS, dtype=torch.float64))


@pytest.mark.parametrize("outputs", [3, (), (3, 0)])
def test_numbers_of_values_are_checked(outputs: Any) -> None:
    with pytest.raises(ValueError, match="outputs: expected a tuple of numbers of values above zero"):
        MultiCategoricalPolicy(inputs=(2,), outputs=outputs)


def test_an_action_begins_where_the_one_before_it_ends() -> None:
    noise = [0.0, EDGE(0.25, 0), 0.25, EDGE(0.5, 0), 0.5, EDGE(0.75, 0), 0.75, EDGE(1.0, 0)]
    policy = CategoricalPolicy(inputs=(2,), outputs=4)
    actions = policy.sample(torch.zeros(8, 4, dtype=torch.float64), torch.tensor(noise, dtype=torch.float64)[:, None])
    assert actions.squeeze(-1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("impossible", "expected"), [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])])
def test_an_action_without_probability_is_not_taken(impossible: int, expected: list[int]) -> None:
    outputs = torch.zeros(2, ACTIONS, dtype=torch.float64)
    outputs[:, impossible] = -1e4
    noise = torch.tensor([[0.0], [EDGE(1.0, 0)]], dtype=torch.float64)
    actions = CATEGORICAL.sample(outputs, noise)
    assert actions.squeeze(-1).tolist() == expected
    assert torch.isfinite(CATEGORICAL.log_probability(outputs, actions)).all()


def test_unnormalised_log_probabilities_may_be_shifted() -> None:
    outputs = normal(7, ROWS, ACTIONS)
    actions = drawn(CATEGORICAL, outputs)
    shifted = outputs + 1000
    assert torch.equal(drawn(CATEGORICAL, shifted), actions)
    found, expected = (CATEGORICAL.log_probability(one, actions) for one in (shifted, outputs))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)  # rounding of numbers near 1000


def test_a_normal_policy_starts_with_its_deviation_whatever_is_observed() -> None:
    policy = GaussianPolicy(inputs=(2,), outputs=ACTIONS, hidden=(4,), std=0.3)
    params = policy.init(torch.Generator().manual_seed(0), torch.float64)
    outputs = policy.apply(params, normal(0, ROWS, 2))
    assert outputs.shape == (ROWS, policy.width)
    torch.testing.assert_close(outputs[:, ACTIONS:].exp(), torch.full((ROWS, ACTIONS), 0.3, dtype=torch.float64))
    assert torch.equal(outputs[:, :ACTIONS], policy.mean.apply(params, normal(0, ROWS, 2)))
    assert outputs[:, 0].std() > 0.01


@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
def test_a_deviation_that_is_none_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match=f"expected std above zero, received {std}"):
        GaussianPolicy(inputs=(2,), outputs=1, std=std)


@pytest.mark.parametrize("cls", [GaussianPolicy, CategoricalPolicy])
def test_sizes_are_checked_when_a_policy_is_made(cls: type) -> None:
    with pytest.raises(ValueError, match="expected hidden layers of at least one unit"):
        cls(inputs=(2,), outputs=1, hidden=(0,))


@pytest.mark.parametrize("cls", [GaussianPolicy, CategoricalPolicy])
def test_weights_start_as_glorot_has_them(cls):
    params = cls(inputs=(40,), outputs=3, hidden=(200, 300)).init(torch.Generator().manual_seed(0), torch.float64)
    # A normal distribution cut off at two deviations has 0.88 of its deviation.
    for name, deviation in (("layer0.weight", (2 / 240) ** 0.5), ("layer1.weight", (2 / 500) ** 0.5)):
        assert float(params[name].std()) == pytest.approx(0.8796 * deviation, rel=0.02)


@pytest.mark.parametrize("cls", [GaussianPolicy, CategoricalPolicy])
def test_a_network_is_the_papers_unless_asked_otherwise(cls):
    """Two hidden layers of 100 units with ReLU (Finn et al. 2017, 5.3)."""
    policy = cls(inputs=(3,), outputs=2)
    shapes = {name: tuple(value.shape) for name, value in policy.init(torch.Generator(), torch.float32).items()}
    assert shapes.pop("log_std", (2,)) == (2,)
    assert shapes == {
        "layer0.weight": (100, 3),
        "layer0.bias": (100,),
        "layer1.weight": (100, 100),
        "layer1.bias": (100,),
        "layer2.weight": (2, 100),
        "layer2.bias": (2,),
    }
    assert policy.activation == "relu"
    assert policy.init_std == "glorot"
    if cls is GaussianPolicy:
        assert torch.equal(policy.init(torch.Generator(), torch.float32)["log_std"], torch.zeros(2))


@pytest.mark.parametrize("cls", [GaussianPolicy, CategoricalPolicy])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_network_is_the_one_asked_for(cls, activation):
    policy = cls(inputs=(3,), outputs=2, hidden=(4,), activation=activation, init_std=0.5)
    params = policy.init(torch.Generator().manual_seed(0), torch.float64)
    observations = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    params |= {"layer0.bias": torch.full((4,), 0.25).double(), "layer1.bias": torch.tensor([1.0, -1.0]).double()}
    hidden = getattr(torch, activation)(observations @ params["layer0.weight"].T + params["layer0.bias"])
    expected = hidden @ params["layer1.weight"].T + params["layer1.bias"]
    found = policy.apply(params, observations)
    torch.testing.assert_close(found[:, :2], expected, rtol=1e-12, atol=1e-12)
    assert found.shape == (6, policy.width)
    wide = cls(inputs=(30,), outputs=2, hidden=(400,), init_std=0.5)
    weight = wide.init(torch.Generator().manual_seed(0), torch.float64)["layer0.weight"]
    assert float(weight.std()) == pytest.approx(0.5, rel=0.15)  # a cut-off normal distribution is a little narrower


def test_actions_and_divergences_may_have_leading_dimensions():
    """Rollouts are [T, N, H, …] where advantages are made of them."""
    gaussian, categorical = GaussianPolicy(inputs=(3,), outputs=2), CategoricalPolicy(inputs=(3,), outputs=4)
    generator = torch.Generator().manual_seed(2)
    for policy in (gaussian, categorical):
        columns = action_columns(policy)
        old, new = torch.randn(2, 5, 7, policy.width, dtype=torch.float64, generator=generator)
        noise = torch.rand(5, 7, columns, dtype=torch.float64, generator=generator)
        actions = policy.sample(old, noise)
        assert actions.shape == (5, 7, columns)
        rows = (old.flatten(0, 1), new.flatten(0, 1), noise.flatten(0, 1))
        assert torch.equal(policy.sample(rows[0], rows[2]), actions.flatten(0, 1))
        assert torch.equal(policy.divergence(*rows[:2]), policy.divergence(old, new).flatten())
        flat = policy.log_probability(rows[0], actions.flatten(0, 1))
        assert torch.equal(flat, policy.log_probability(old, actions).flatten())

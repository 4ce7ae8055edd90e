"""The derivative of adaptation to sampled rollouts, against its exact expectation over all that may be sampled."""

from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, vmap

from meta.episode import Episode, Examples, stack
from meta.inner import Inner
from meta.params import Layout
from meta.policy import CategoricalPolicy, PolicyMAML
from meta.policy.estimators import ESTIMATORS
from meta.policy.samples import Samples, pack
from tasks import TaskKey
from tasks.environments.tabular import Tabular

RATE = 0.9  # of an ascent of J


class Problem(NamedTuple):
    """A process of H steps from state 0 as the list of its K trajectories.

    Attributes:
        states: [K, H].
        actions: [K, H].
        rewards: [K, H].
        transitions: the probability of each one's transitions, [K].
        sizes: numbers of states and of actions.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    transitions: Tensor
    sizes: tuple[int, int]

    @property
    def horizon(self) -> int:
        return self.states.shape[1]

    @property
    def policy(self) -> CategoricalPolicy:
        return CategoricalPolicy(inputs=self.sizes[:1], outputs=self.sizes[1], hidden=())

    @property
    def layout(self) -> Layout:
        states, actions = self.sizes
        return Layout(("layer0.bias", "layer0.weight"), ((actions,), (actions, states)))

    @property
    def start(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return 0.7 * torch.randn(self.layout.size, dtype=torch.float64, generator=generator)

    def probabilities(self, theta: Tensor) -> Tensor:
        """π(a | s), [S, A]."""
        params = self.layout.unflatten(theta)
        return torch.softmax(params["layer0.weight"].T + params["layer0.bias"], dim=-1)

    def chances(self, theta: Tensor) -> Tensor:
        """Probability of every trajectory, [K]."""
        return self.transitions * self.probabilities(theta)[self.states, self.actions].prod(dim=1)

    def expected(self, theta: Tensor) -> Tensor:
        """The expected return J(θ)."""
        return self.chances(theta) @ self.rewards.sum(dim=1)

    def to_go(self, chosen: list[int], *, centred: bool) -> Tensor:
        """Returns from each step on, [N, H]."""
        found = self.rewards[chosen].flip(1).cumsum(dim=1).flip(1)
        return found - found.mean() if centred else found

    def samples(self, theta: Tensor, chosen: list[int], weights: Tensor, *, centred: bool = False) -> Samples:
        """Some trajectories under π_θ, each step with its trajectory's weight over H."""
        observations = torch.eye(self.sizes[0], dtype=torch.float64)[self.states[chosen]].flatten(0, 1)
        actions = self.actions[chosen].double().reshape(-1, 1)
        outputs = self.policy.apply(self.layout.unflatten(theta), observations)
        return Samples(
            observations,
            actions,
            (weights / self.horizon).repeat_interleave(self.horizon),
            self.rewards[chosen].flatten(),
            self.to_go(chosen, centred=centred).flatten(),
            self.policy.log_probability(outputs, actions),
            outputs,
        )

    def everything(self, theta: Tensor) -> Samples:
        """All trajectories, weighted with their probabilities: the expectation over rollouts."""
        return self.samples(theta, list(range(len(self.states))), self.chances(theta))


def tabular(states: int, actions: int, horizon: int, scale: float = 1.0) -> Problem:
    family = Tabular(states=states, actions=actions, horizon=horizon)
    transitions, rewards = (torch.from_numpy(one[0]) for one in family.model([TaskKey(3, "train", 0)]))
    steps = list(product(range(states), range(actions)))
    walks = torch.tensor([walk for walk in product(steps, repeat=horizon) if walk[0][0] == 0])
    there, taken = walks.unbind(-1)
    chances = transitions[there[:, :-1], taken[:, :-1], there[:, 1:]].prod(dim=1)
    return Problem(there, taken, scale * rewards[there, taken], chances, (states, actions))


def agrees(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def differs(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm()) > 0.05 * float(expected.norm())


def algorithm(problem: Problem, lr: float, steps: int, estimator: str, outer: str = "likelihood_ratio") -> PolicyMAML:
    return PolicyMAML(
        model=problem.policy,
        inner=Inner(lr=lr, steps=steps),
        horizon=problem.horizon,
        estimator=estimator,
        outer_estimator=outer,
    )


def episode(support: list[Samples], query: Samples) -> Episode:
    inner = [pack(one) for one in support]
    stacked = Examples(*(torch.stack(column) for column in zip(*inner, strict=True)))
    return Episode(stacked, pack(query), torch.zeros(0, dtype=torch.float64))


WALK = tabular(2, 2, 2, scale=2.0)
PROBLEMS = {"walk": tabular(3, 2, 3), "short": WALK}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_meta_gradient_at_the_expected_updates(name: str, steps: int) -> None:
    """With endless rollouts the inner steps climb J; the estimators differ in the Hessian that the chain rule needs."""
    problem, rate = PROBLEMS[name], RATE
    layout, walk = problem.layout, [problem.start]
    for _ in range(steps):
        walk.append(walk[-1] + rate * grad(problem.expected)(walk[-1]))

    def adapted(theta: Tensor) -> Tensor:
        for _ in range(steps):
            theta = theta + rate * grad(problem.expected)(theta)
        return problem.expected(theta)

    exact = grad(adapted)(walk[0])
    data = episode([problem.everything(theta) for theta in walk[:-1]], problem.everything(walk[-1]))
    found = {}
    for estimator in ESTIMATORS:
        one = algorithm(problem, rate * problem.horizon, steps, estimator)
        agrees(layout.flatten(one.adapted(layout.unflatten(walk[0]), data)[-1]), walk[-1])
        slopes = grad(lambda params, one=one: one.meta_loss(params, data)[0])(layout.unflatten(walk[0]))
        found[estimator] = -problem.horizon * layout.flatten(slopes)
    agrees(found["dice"], exact)
    for other in ("low_variance", "likelihood_ratio"):
        differs(found[other], exact)
    if steps == 1:
        along = grad(problem.expected)(walk[-1])
        agrees(found["dice"], along + rate * hessian(problem.expected)(walk[0]) @ along)


class Sampled(NamedTuple):
    """A task adapted to by some trajectories, sampled at each of some steps."""

    problem: Problem
    trajectories: int
    steps: int = 1
    centred: bool = False


BANDIT = tabular(1, 3, 1, scale=4.0)
SAMPLED = {
    "bandit": Sampled(BANDIT, 2),
    "three trajectories": Sampled(tabular(1, 2, 1, scale=4.0), 3),
    "two steps": Sampled(BANDIT, 2, steps=2),
    "centred": Sampled(BANDIT, 2, centred=True),
    "walk": Sampled(WALK, 1),
    "two walks": Sampled(WALK, 2),
    "walk of two steps": Sampled(WALK, 1, steps=2),
}


def ascent(case: Sampled, theta: Tensor, chosen: list[int]) -> Tensor:
    """α times the policy gradient estimated from the chosen trajectories, from the derivative of a softmax."""
    problem = case.problem
    states, actions = problem.states[chosen], problem.actions[chosen]
    taken, there = (torch.eye(size, dtype=torch.float64) for size in reversed(problem.sizes))
    to_go = problem.to_go(chosen, centred=case.centred)
    slopes = to_go[..., None] * (taken[actions] - problem.probabilities(theta)[states])  # of logits, [N, H, A]
    weight = torch.einsum("nha,nhs->as", slopes, there[states])
    params = {"layer0.weight": weight, "layer0.bias": slopes.sum(dim=(0, 1))}
    return RATE * problem.layout.flatten(params) / len(chosen)


def data_sets(case: Sampled) -> list[tuple[list[int], ...]]:
    """Everything that may be sampled before the adapted policy acts: numbers of trajectories, step by step."""
    at_once = [list(chosen) for chosen in product(range(len(case.problem.states)), repeat=case.trajectories)]
    return list(product(at_once, repeat=case.steps))


def followed(case: Sampled, theta: Tensor, data: tuple[list[int], ...]) -> tuple[Tensor, list[Tensor]]:
    """Probability of having sampled the data, and the parameters before and after each step."""
    chance, walk = torch.ones((), dtype=torch.float64), [theta]
    for chosen in data:
        chance = chance * case.problem.chances(walk[-1])[chosen].prod()
        walk.append(walk[-1] + ascent(case, walk[-1], chosen))
    return chance, walk


@cache
def derivatives(name: str) -> tuple[Tensor, Tensor]:
    """Of the expected return after sampled updates: ∇F, and its part by what is sampled, Σ_D ∇p(D) J(θ'(D))."""
    case = SAMPLED[name]
    theta = case.problem.start.requires_grad_()
    whole = by_sampling = torch.zeros((), dtype=torch.float64)
    for data in data_sets(case):
        chance, walk = followed(case, theta, data)
        value = case.problem.expected(walk[-1])
        whole = whole + chance * value
        by_sampling = by_sampling + chance * value.detach()
    found = [torch.autograd.grad(one, theta, retain_graph=True)[0] for one in (whole, by_sampling)]
    return found[0], found[1]


def averaged(name: str, estimator: str, outer: str) -> Tensor:
    """The expectation of -H times the meta-gradient over all that may be sampled."""
    case = SAMPLED[name]
    problem, weights = case.problem, torch.full((case.trajectories,), 1 / case.trajectories, dtype=torch.float64)
    layout, chances, episodes = problem.layout, [], []
    for data in data_sets(case):
        chance, walk = followed(case, problem.start, data)
        support = [
            problem.samples(at, chosen, weights, centred=case.centred)
            for at, chosen in zip(walk[:-1], data, strict=True)
        ]
        chances.append(chance)
        episodes.append(episode(support, problem.everything(walk[-1])))
    one = algorithm(problem, RATE * problem.horizon, case.steps, estimator, outer)

    params = layout.unflatten(problem.start)

    def slopes(given: Episode) -> Tensor:
        return layout.flatten(grad(one.meta_loss, has_aux=True)(params, given)[0])

    return -problem.horizon * (torch.stack(chances) @ vmap(slopes)(stack(episodes)))


@pytest.mark.parametrize("name", SAMPLED)
def test_dice_outside_gives_the_whole_derivative_of_the_return_after_sampled_updates(name: str) -> None:
    whole, _ = derivatives(name)
    agrees(averaged(name, "likelihood_ratio", "dice"), whole)


@pytest.mark.parametrize("name", SAMPLED)
def test_without_it_what_is_missing_is_the_derivative_of_sampling(name: str) -> None:
    whole, by_sampling = derivatives(name)
    agrees(averaged(name, "likelihood_ratio", "likelihood_ratio"), whole - by_sampling)
    differs(whole - by_sampling, whole)


@pytest.mark.parametrize("estimator", ["dice", "low_variance"])
def test_only_the_likelihood_ratio_differentiates_the_sampled_update_itself(estimator: str) -> None:
    whole, _ = derivatives("walk")
    differs(averaged("walk", estimator, "dice"), whole)


def test_sampled_rollouts_of_the_adapted_policy_average_to_the_same() -> None:
    """The bandit again, with query rollouts sampled two at a time instead of weighted."""
    problem, layout, total = BANDIT, BANDIT.layout, torch.zeros(BANDIT.layout.size, dtype=torch.float64)
    halves, one = torch.full((2,), 0.5, dtype=torch.float64), algorithm(BANDIT, RATE, 1, "likelihood_ratio", "dice")
    for data in data_sets(SAMPLED["bandit"]):
        chance, walk = followed(SAMPLED["bandit"], problem.start, data)
        support = [problem.samples(problem.start, data[0], halves)]
        for after in product(range(3), repeat=2):
            given = episode(support, problem.samples(walk[1], list(after), halves))
            slopes = grad(one.meta_loss, has_aux=True)(layout.unflatten(problem.start), given)[0]
            total += chance * problem.chances(walk[1])[list(after)].prod() * layout.flatten(slopes)
    agrees(-total, derivatives("bandit")[0])

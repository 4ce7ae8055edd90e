"""Estimators of policy gradients against decision processes that are solved exactly.

Dynamic programming gives the expected return J(θ), the probabilities of states and Q; all trajectories, weighted with
their probabilities, give the expectation of an estimator without sampling noise. Losses are averaged over H steps and
descend, so they are compared with -1/H times the exact quantity.
"""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev

from meta.params import Layout
from meta.policy import CategoricalPolicy
from meta.policy.advantages import AdvantageSettings, Trajectories, advantages
from meta.policy.estimators import ESTIMATORS, clipped_ratio, dice, importance_ratio
from meta.policy.samples import Samples
from tasks import TaskKey
from tasks.environments.tabular import Tabular

BASELINES = ("none", "state value", "any")
EXACT = 1e-10


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Problem(NamedTuple):
    """Probabilities P [S, A, S] and rewards [S, A] of a process of H steps from state 0."""

    transitions: Tensor
    rewards: Tensor
    horizon: int

    @property
    def policy(self) -> CategoricalPolicy:
        states, actions = self.rewards.shape
        return CategoricalPolicy(inputs=(states,), outputs=actions, hidden=())

    @property
    def layout(self) -> Layout:
        states, actions = self.rewards.shape
        return Layout(("layer0.bias", "layer0.weight"), ((actions,), (actions, states)))

    def probabilities(self, theta: Tensor) -> Tensor:
        """π(a | s), [S, A]."""
        params = self.layout.unflatten(theta)
        return torch.softmax(params["layer0.weight"].T + params["layer0.bias"], dim=-1)

    def solved(self, theta: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """For every step V [S], Q [S, A] and the probabilities of states [S]."""
        chances, value = self.probabilities(theta), torch.zeros_like(theta[: len(self.rewards)])
        values, action_values = [], []
        for _ in range(self.horizon):
            action_values.insert(0, self.rewards + self.transitions @ value)
            value = (chances * action_values[0]).sum(dim=-1)
            values.insert(0, value)
        there = [torch.eye(len(self.rewards), dtype=torch.float64)[0]]
        for _ in range(self.horizon - 1):
            there.append(torch.einsum("s,sa,sat->t", there[-1], chances, self.transitions))
        return values, action_values, there

    def expected(self, theta: Tensor) -> Tensor:
        """J(θ)."""
        return self.solved(theta)[0][0][0]

    def trajectories(self) -> tuple[Tensor, Tensor, Tensor]:
        """States and actions [K, H] of every trajectory, and the probability [K] of its transitions."""
        steps = list(product(*map(range, self.rewards.shape)))
        walks = torch.tensor([walk for walk in product(steps, repeat=self.horizon) if walk[0][0] == 0])
        states, actions = walks.unbind(-1)
        chances = self.transitions[states[:, :-1], actions[:, :-1], states[:, 1:]].prod(dim=1)
        return states, actions, chances

    def chances(self, theta: Tensor) -> Tensor:
        """Probability of every trajectory, [K]."""
        states, actions, chances = self.trajectories()
        return chances * self.probabilities(theta)[states, actions].prod(dim=1)

    def everything(self, theta: Tensor, baseline: str = "none") -> Samples:
        """All trajectories, weighted with their probabilities: the expectation over rollouts."""
        states, actions, _ = self.trajectories()
        rewards = self.rewards[states, actions]
        observations = torch.eye(len(self.rewards), dtype=torch.float64)[states]
        whole = Trajectories(
            torch.cat([observations, observations[:, -1:]], dim=1)[None],
            rewards[None],
            torch.ones_like(rewards, dtype=torch.bool)[None],
            torch.ones(1, len(rewards), dtype=torch.bool),
        )
        found = advantages(whole, AdvantageSettings(1.0, 1.0, "none", "none"))[0]
        outputs = self.policy.apply(self.layout.unflatten(theta), observations.flatten(0, 1))
        taken = actions.double().reshape(-1, 1)
        return Samples(
            observations.flatten(0, 1),
            taken,
            (self.chances(theta) / self.horizon).repeat_interleave(self.horizon),
            rewards.flatten(),
            (found - self.baseline(theta, baseline, states)).flatten(),
            self.policy.log_probability(outputs, taken),
            outputs,
        )

    def baseline(self, theta: Tensor, kind: str, states: Tensor) -> Tensor:
        """A function of state and time, at the states [K, H]."""
        if kind == "state value":
            table = torch.stack(self.solved(theta)[0])
        elif kind == "any":
            table = normal(5, self.horizon, len(self.rewards)) + 0.7
        else:
            table = torch.zeros(self.horizon, len(self.rewards), dtype=torch.float64)
        return table[torch.arange(self.horizon), states]

    def loss(self, name: str, samples: Samples) -> Callable[[Tensor], Tensor]:
        def at(theta: Tensor) -> Tensor:
            outputs = self.policy.apply(self.layout.unflatten(theta), samples.observations)
            log_probabilities = self.policy.log_probability(outputs, samples.actions)
            return ESTIMATORS[name](log_probabilities, samples, self.horizon)

        return at


def tabular(seed: int = 3, **sizes: int) -> Problem:
    family = Tabular(**sizes)
    transitions, rewards = family.model([TaskKey(seed, "train", 0)])
    return Problem(torch.from_numpy(transitions[0]), torch.from_numpy(rewards[0]), family.horizon)


WALK = tabular(states=3, actions=2, horizon=3)
PROBLEMS = {
    "walk": WALK,
    "short": tabular(states=2, actions=3, horizon=2),
    "one step": tabular(states=2, actions=3, horizon=1),
}
problems = pytest.mark.parametrize("name", ["walk", "short"])


def start(problem: Problem) -> Tensor:
    return 0.7 * normal(1, problem.layout.size)


class Parts(NamedTuple):
    """The Hessian of J and what it consists of; ``curved`` is the part of ∇²log π alone, for a baseline."""

    whole: Tensor
    own: Tensor
    earlier: Tensor
    curved: Tensor


@cache
def parts(name: str, baseline: str = "none") -> Parts:
    problem = PROBLEMS[name]
    theta, states = start(problem), torch.arange(len(problem.rewards))
    _, action_values, there = problem.solved(theta)
    chances = problem.probabilities(theta)
    table = problem.baseline(theta, baseline, states[:, None].expand(-1, problem.horizon)).T

    def own(at: Tensor) -> Tensor:
        return sum(d @ (problem.probabilities(at) * q).sum(dim=-1) for d, q in zip(there, action_values, strict=True))

    def curved(at: Tensor) -> Tensor:
        return sum(
            d @ (chances * problem.probabilities(at).log() * (q - b[:, None])).sum(dim=-1)
            for d, q, b in zip(there, action_values, table, strict=True)
        )

    scores = jacrev(lambda at: problem.probabilities(at).log())(theta)
    slopes = jacrev(lambda at: torch.stack(problem.solved(at)[1]))(theta)  # of Q, [H, S, A, P]
    earlier = torch.einsum("ts,sa,sap,tsaq->pq", torch.stack(there), chances, scores, slopes)
    whole = hessian(problem.expected)(theta)
    return Parts(whole, hessian(own)(theta), earlier + earlier.T, hessian(curved)(theta))


def agrees(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


def differs(found: Tensor, expected: Tensor, share: float = 0.05) -> None:
    assert float((found - expected).norm()) > share * float(expected.norm())


@problems
def test_the_hessian_of_the_return_has_the_two_parts(name: str) -> None:
    problem, found = PROBLEMS[name], parts(name)
    agrees(found.whole, found.own + found.earlier)
    # As the module writes them, trajectory by trajectory: g_t is the score of a step, C_t the sum of those before it.
    theta, (states, actions, _) = start(problem), problem.trajectories()
    to_go = problem.rewards[states, actions].flip(1).cumsum(dim=1).flip(1)
    scores = jacrev(lambda at: problem.probabilities(at).log()[states, actions])(theta)
    curves = hessian(lambda at: problem.probabilities(at).log())(theta)[states, actions]
    before, chances = scores.cumsum(dim=1) - scores, problem.chances(theta)
    agrees(chances.sum(), torch.ones((), dtype=torch.float64))
    squares = torch.einsum("ktp,ktq->ktpq", scores, scores)
    agrees(torch.einsum("k,kt,ktpq->pq", chances, to_go, curves + squares), found.own)
    crossed = torch.einsum("k,kt,ktp,ktq->pq", chances, to_go, scores, before)
    agrees(crossed + crossed.T, found.earlier)
    agrees(torch.einsum("k,kt,ktpq->pq", chances, to_go, curves), found.curved)
    for part in (found.own, found.earlier, found.curved):
        assert part.norm() > 0.1 * found.whole.norm(), "each part is needed"


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@problems
def test_the_first_derivative_is_the_policy_gradient(name: str, estimator: str, baseline: str) -> None:
    problem = PROBLEMS[name]
    theta = start(problem)
    found = grad(problem.loss(estimator, problem.everything(theta, baseline)))(theta)
    agrees(found, -grad(problem.expected)(theta) / problem.horizon)


@pytest.mark.parametrize("baseline", BASELINES)
@problems
def test_the_second_derivatives_are_what_they_are_said_to_be(name: str, baseline: str) -> None:
    problem = PROBLEMS[name]
    theta, exact = start(problem), parts(name, baseline)
    samples = problem.everything(theta, baseline)
    found = {one: -problem.horizon * hessian(problem.loss(one, samples))(theta) for one in ESTIMATORS}
    agrees(found["dice"], exact.whole)
    agrees(found["low_variance"], exact.own)
    agrees(found["likelihood_ratio"], exact.curved)
    differs(exact.own, exact.whole)
    differs(exact.curved, exact.whole)
    differs(exact.curved, exact.own)
    if baseline != "none":
        differs(exact.curved, parts(name).curved)


@pytest.mark.parametrize("baseline", BASELINES)
@problems
def test_dice_is_the_return_itself_with_all_derivatives(name: str, baseline: str) -> None:
    """In expectation the loss is -(J(θ) - J(θ_old)) / H for every θ, however far away."""
    problem = PROBLEMS[name]
    loss = problem.loss("dice", problem.everything(start(problem), baseline))
    gain = problem.expected(start(problem))
    for seed in range(5):
        there = 2 * normal(seed, problem.layout.size)
        agrees(loss(there), -(problem.expected(there) - gain) / problem.horizon)
    third = jacrev(hessian(loss))(start(problem))
    agrees(third, -jacrev(hessian(problem.expected))(start(problem)) / problem.horizon)
    assert third.norm() > 0.1


def test_low_variance_is_whole_where_a_trajectory_is_one_step() -> None:
    problem = PROBLEMS["one step"]
    theta = start(problem)
    found = hessian(problem.loss("low_variance", problem.everything(theta)))(theta)
    agrees(found, -hessian(problem.expected)(theta))
    differs(hessian(problem.loss("likelihood_ratio", problem.everything(theta)))(theta), found)


def test_low_variance_is_whole_where_actions_do_not_steer() -> None:
    """What follows depends on the policy, but not on this step's action."""
    problem = WALK._replace(transitions=WALK.transitions[:, :1].expand_as(WALK.transitions))
    theta = start(problem)
    found = hessian(problem.loss("low_variance", problem.everything(theta)))(theta)
    agrees(found, -hessian(problem.expected)(theta) / problem.horizon)
    assert jacrev(lambda at: problem.solved(at)[1][0])(theta).norm() > 0.1


def by_hand(ratios: list[float], gains: list[float], weights: list[float], old: float = -0.4) -> tuple[Tensor, Samples]:
    ratio, gain, weight = (torch.tensor(one, dtype=torch.float64) for one in (ratios, gains, weights))
    empty = torch.zeros(len(ratios), 0, dtype=torch.float64)
    before = torch.full_like(ratio, old)
    return before + ratio.log(), Samples(empty, empty, weight, gain, gain, before, empty)


@pytest.mark.parametrize(
    ("ratio", "gain", "clipped", "moves"),
    [
        (1.5, 1.0, 1.2, False),
        (1.5, -1.0, -1.5, True),
        (0.5, 1.0, 0.5, True),
        (0.5, -1.0, -0.8, False),
        (1.1, 2.0, 2.2, True),
        (0.9, -2.0, -1.8, True),
        (1.0, 3.0, 3.0, True),
    ],
)
def test_the_clipped_ratio_by_hand(ratio: float, gain: float, clipped: float, moves: bool) -> None:
    new, samples = by_hand([ratio], [gain], [1.0])
    assert float(clipped_ratio(new, samples, 0.2)) == pytest.approx(-clipped, rel=1e-14)
    assert float(importance_ratio(new, samples)) == pytest.approx(-ratio * gain, rel=1e-14)
    slope = grad(lambda at: clipped_ratio(at, samples, 0.2))(new)
    assert float(slope) == pytest.approx(-ratio * gain if moves else 0.0, rel=1e-14)


def test_dice_by_hand() -> None:
    """Two trajectories of two steps, the second a step short: its padding counts for nothing, whatever it holds."""
    new, samples = by_hand([2.0, 3.0, 0.5, 7.0], [1.0, 10.0, 4.0, 5.0], [0.25, 0.25, 0.5, 0.0])
    # (2 - 1) 1/4 + (6 - 2) 10/4 + (1/2 - 1) 4/2
    assert float(dice(new, samples, 2)) == pytest.approx(-(0.25 + 10.0 - 1.0), rel=1e-14)
    assert grad(lambda at: dice(at, samples, 2))(new)[3] == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_padding_has_no_part_in_any_estimator(estimator: str) -> None:
    new, samples = by_hand([2.0, 3.0, 0.5, 7.0], [1.0, 10.0, 4.0, 5.0], [0.25, 0.25, 0.5, 0.0])
    expected = ESTIMATORS[estimator](new, samples, 2)
    assert float(expected) != 0
    for anything in (-50.0, 1000.0):  # whose ratio is infinite
        other = new.clone()
        other[3] = anything
        assert torch.equal(ESTIMATORS[estimator](other, samples, 2), expected)

"""Advantages: generalised advantage estimation by hand, reward baselines, ends that are not alike."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from meta.policy.advantages import (
    FITS,
    LARGEST,
    RIDGE,
    TIME_UNIT,
    AdvantageSettings,
    Trajectories,
    advantages,
    discounted,
    linear_baseline,
)
from meta.policy.values import value_network

BASELINES, NORMALISATIONS = ("none", "linear", "value"), ("none", "center", "standardise")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def settings(discount: float = 0.9, gae_lambda: float = 0.8, baseline: str = "none", normalise: str = "none"):
    return AdvantageSettings(discount, gae_lambda, baseline, normalise)


def drawn(lengths: list[list[int]], terminated: list[list[bool]], horizon: int, seed: int = 0) -> Trajectories:
    """Random trajectories of the given lengths, padded as rollouts are."""
    tasks, count = len(lengths), len(lengths[0])
    observations, rewards = normal(seed, tasks, count, horizon + 1, 2), normal(seed + 1, tasks, count, horizon)
    taken = torch.arange(horizon) < torch.tensor(lengths)[..., None]
    for task, number in product(range(tasks), range(count)):
        end = lengths[task][number]
        observations[task, number, end:] = observations[task, number, end]
    return Trajectories(observations, rewards * taken, taken, torch.tensor(terminated))


# The last task's trajectories all end by themselves, so its baseline is fitted once, the others' twice.
MIXED = drawn(
    [[5, 3, 1, 5, 4], [2, 5, 5, 4, 3], [5, 5, 2, 3, 1]],
    [[True, False, True, False, True], [False] * 5, [True] * 5],
    horizon=5,
)


def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A baseline whose value is the first number observed."""
    monkeypatch.setitem(FITS, "value", lambda observations, targets, taken: observations[..., 0])


@pytest.mark.parametrize(
    ("terminated", "expected"),
    [
        (True, [0.8125, -0.75, -1.0]),  # errors 1, -0.5 and 2 - 3 = -1
        (False, [0.9375, -0.25, 1.0]),  # errors 1, -0.5 and 2 + 4/2 - 3 = 1
    ],
)
def test_generalised_advantages_by_hand(
    monkeypatch: pytest.MonkeyPatch, terminated: bool, expected: list[float]
) -> None:
    known(monkeypatch)
    trajectory = Trajectories(
        observations=torch.tensor([[[[1.0], [2.0], [3.0], [4.0], [4.0]]]]),
        rewards=torch.tensor([[[1.0, 0.0, 2.0, 0.0]]]),
        taken=torch.tensor([[[True, True, True, False]]]),
        terminated=torch.tensor([[terminated]]),
    )
    found = advantages(trajectory, settings(0.5, 0.5, "value"))
    assert found.tolist() == [[[*expected, 0.0]]]


def test_at_the_horizon_nothing_follows_where_it_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    cut = MIXED._replace(terminated=torch.zeros_like(MIXED.terminated))
    ended = MIXED._replace(terminated=torch.ones_like(MIXED.terminated))
    for baseline in BASELINES:
        bootstrap = settings(0.9, 0.8, baseline, "standardise")
        found = advantages(cut, bootstrap._replace(horizon="end"))
        assert torch.equal(found, advantages(ended, bootstrap))
        assert torch.equal(found, advantages(cut, bootstrap)) == (baseline == "none")


def summed(given: Trajectories, values: Tensor, discount: float, gae_lambda: float) -> Tensor:
    """The definition: Σ_k (γλ)^k δ_{t+k}, term by term."""
    found = torch.zeros_like(given.rewards)
    for task, number in product(*map(range, given.taken.shape[:2])):
        length = int(given.taken[task, number].sum())
        value, errors = values[task, number].tolist(), []
        for step in range(length):
            last = step == length - 1 and bool(given.terminated[task, number])
            following = 0.0 if last else discount * value[step + 1]
            errors.append(float(given.rewards[task, number, step]) + following - value[step])
        for step in range(length):
            terms = ((discount * gae_lambda) ** k * error for k, error in enumerate(errors[step:]))
            found[task, number, step] = sum(terms)
    return found


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.9, 0.7), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5), (1.0, 0.3)])
@pytest.mark.parametrize("baseline", ["none", "value"])
def test_generalised_advantages_are_the_sum_they_are_defined_by(
    monkeypatch: pytest.MonkeyPatch, discount: float, gae_lambda: float, baseline: str
) -> None:
    known(monkeypatch)
    values = MIXED.observations[..., 0] if baseline == "value" else torch.zeros(3, 5, 6, dtype=torch.float64)
    found = advantages(MIXED, settings(discount, gae_lambda, baseline))
    torch.testing.assert_close(found, summed(MIXED, values, discount, gae_lambda), rtol=1e-13, atol=1e-14)


def test_lambda_of_one_gives_returns_less_values_and_of_zero_errors_of_one_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(monkeypatch)
    whole = drawn([[5, 5]], [[True, False]], horizon=5)
    values, rewards = whole.observations[..., 0], whole.rewards
    returns = torch.stack([sum(0.9 ** (k - t) * rewards[..., k] for k in range(t, 5)) for t in range(5)], dim=-1)
    behind = torch.tensor([0.0, 1.0]).double() * values[..., 5]  # nothing, where the end is the task's own
    returns = returns + 0.9 ** torch.arange(5, 0, -1).double() * behind[..., None]
    far, near = (advantages(whole, settings(0.9, one, "value")) for one in (1.0, 0.0))
    torch.testing.assert_close(far, returns - values[..., :-1], rtol=1e-13, atol=1e-14)
    following = values[..., 1:].clone()
    following[0, 0, -1] = 0
    torch.testing.assert_close(near, rewards + 0.9 * following - values[..., :-1], rtol=1e-13, atol=1e-14)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.floats(0, 1), st.floats(-10, 10))
def test_discounted_sums_end_in_their_tail(values: list[float], factor: float, tail: float) -> None:
    numbers = torch.tensor(values, dtype=torch.float64)
    for behind in (None, torch.tensor(tail, dtype=torch.float64)):
        terms = [*values, 0.0 if behind is None else tail]
        expected = [sum(factor**k * one for k, one in enumerate(terms[t:])) for t in range(len(values))]
        found = discounted(numbers, factor, behind)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def fitted_to(monkeypatch: pytest.MonkeyPatch, terminated: bool, value: float | None) -> list[Tensor]:
    """Targets that the baseline is fitted to where every reward is 2 and γ is 0.75; its values are ``value``."""
    seen: list[Tensor] = []

    def fit(observations: Tensor, targets: Tensor, taken: Tensor) -> Tensor:
        seen.append(targets.clone())
        return torch.full(observations.shape[:-1], float(targets.mean()) if value is None else value).double()

    monkeypatch.setitem(FITS, "value", fit)
    shape = (1, 3, 6)
    constant = Trajectories(
        observations=torch.zeros(1, 3, 7, 1, dtype=torch.float64),
        rewards=torch.full(shape, 2.0, dtype=torch.float64),
        taken=torch.ones(shape, dtype=torch.bool),
        terminated=torch.full((1, 3), terminated),
    )
    advantages(constant, settings(0.75, 1.0, "value"))
    return seen


def test_behind_a_cut_rewards_go_on_and_behind_an_end_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    forever = torch.tensor(2 / (1 - 0.75), dtype=torch.float64)
    until_the_end = forever * (1 - 0.75 ** torch.arange(6, 0, -1)).double()
    (ended,) = fitted_to(monkeypatch, True, None)
    torch.testing.assert_close(ended, until_the_end.expand(3, 6), rtol=1e-12, atol=0)
    first, second = fitted_to(monkeypatch, False, None)
    assert torch.equal(first, ended)
    # The first fit's values behind the cut bring every target nearer to that of a reward without end.
    assert ((forever - second) < (forever - first)).all()
    behind = float(first.mean())
    torch.testing.assert_close((forever - second)[:, -1], (0.75 * (forever - behind)).expand(3), rtol=1e-12, atol=0)
    _, second = fitted_to(monkeypatch, False, float(forever))
    torch.testing.assert_close(second, forever.expand(3, 6), rtol=1e-12, atol=0)


def test_a_linear_baseline_bootstraps_cuts_alone() -> None:
    """One step, one observation: V is r after the first fit, (1 + γ) r after the second."""
    for terminated, expected in ((True, 0.0), (False, 0.25 * 3)):  # r + γ V - V
        one = Trajectories(
            observations=torch.ones(1, 1000, 2, 1, dtype=torch.float64),
            rewards=torch.full((1, 1000, 1), 3.0, dtype=torch.float64),
            taken=torch.ones(1, 1000, 1, dtype=torch.bool),
            terminated=torch.full((1, 1000), terminated),
        )
        found = advantages(one, settings(0.5, 1.0, "linear"))
        # 1000 rows with three ones each: the ridge takes a share of 1e-5/3000 of every value.
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=3 * 3 * RIDGE / 3000)


def features(observations: Tensor) -> Tensor:
    time = torch.arange(observations.shape[1], dtype=torch.float64).expand(observations.shape[:2]) / TIME_UNIT
    bounded = observations.clamp(-LARGEST, LARGEST)
    columns = [*bounded.unbind(-1), *bounded.square().unbind(-1), time, time**2, time**3, torch.ones_like(time)]
    return torch.stack(columns, dim=-1)


def test_the_linear_baseline_sees_observations_cut_off_at_ten() -> None:
    """At ±10, as in the authors' code (rllab's LinearFeatureBaseline), whatever the constant here says."""
    observations, targets = 8 * normal(0, 30, 6, 2), normal(1, 30, 5)
    taken = torch.ones(30, 5, dtype=torch.bool)
    assert (observations.abs() > 10).any()
    found = linear_baseline(observations, targets, taken)
    assert torch.equal(linear_baseline(observations.clamp(-10, 10), targets, taken), found)
    closer = linear_baseline(observations.clamp(-9.9, 9.9), targets, taken)
    assert (closer - found).abs().max() > 1e-6
    further = torch.where(observations.abs() > 10, 1e6 * observations, observations)
    assert torch.equal(linear_baseline(further, targets, taken), found)


def test_the_linear_baseline_is_the_authors_own() -> None:
    """rllab's LinearFeatureBaseline: o, o², (t/100), its square and cube, 1; ridge 1e-5; observations within ±10."""
    observations, targets, taken = 6 * normal(3, 7, 13, 2), normal(4, 7, 12), normal(5, 7, 12) > -0.5
    rows = []
    for trajectory in observations.clamp(-10, 10):
        time = torch.arange(13).double() / 100
        columns = [trajectory, trajectory**2, *(part[:, None] for part in (time, time**2, time**3, time**0))]
        rows.append(torch.cat(columns, dim=1))
    table = torch.stack(rows)
    used, goals = table[:, :-1][taken], targets[taken]
    inverse = torch.linalg.inv(used.T @ used + 1e-5 * torch.eye(8).double())
    expected = table @ (inverse @ used.T @ goals)
    torch.testing.assert_close(linear_baseline(observations, targets, taken), expected, rtol=1e-6, atol=1e-6)


def test_the_linear_baseline_is_exact_on_targets_in_its_span() -> None:
    observations, weights = normal(0, 40, 101, 2), torch.tensor([2.0, -1.0, 0.5, 0.3, 4.0, -2.0, 1.0, 3.0]).double()
    observations[3, 7] = torch.tensor([1000.0, -11.0])
    taken = torch.arange(100) < torch.arange(61, 101)[:, None]
    rows = features(observations)
    found = linear_baseline(observations, (rows @ weights)[:, :-1] * taken, taken)
    used = rows[:, :-1][taken]
    # The ridge moves the weights by λ (XᵀX + λ)⁻¹ w.
    moved = RIDGE / float(torch.linalg.eigvalsh(used.T @ used)[0]) * float(weights.norm())
    assert moved < 1e-3
    error = (found - rows @ weights).abs()
    assert (error <= moved * rows.norm(dim=-1)).all()
    assert error[found.abs() < 50].max() < 1e-4


def test_the_linear_baseline_minimises_the_penalised_error() -> None:
    observations, targets, taken = normal(0, 6, 9, 2), normal(1, 6, 8), normal(2, 6, 8) > -0.5
    rows = features(observations)
    used = torch.cat([rows[:, :-1][taken], RIDGE**0.5 * torch.eye(8, dtype=torch.float64)])
    goals = torch.cat([targets[taken], torch.zeros(8, dtype=torch.float64)])
    weights = torch.linalg.lstsq(used, goals[:, None]).solution
    found = linear_baseline(observations, targets, taken)
    torch.testing.assert_close(found, (rows @ weights).squeeze(-1), rtol=0, atol=1e-8)  # condition number 1e7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_value_network_reduces_the_squared_error_and_is_deterministic(dtype: torch.dtype) -> None:
    observations = normal(0, 20, 11, 2).to(dtype)
    targets = 30 + 5 * torch.sin(2 * observations[:, :-1, 0]) * observations[:, :-1, 1]
    taken = torch.arange(10) < torch.arange(1, 21)[:, None]
    found = value_network(observations, targets, taken)
    assert found.dtype == dtype
    assert found.shape == (20, 11)
    error, spread = (found[:, :-1] - targets)[taken], targets[taken].var()
    assert error.square().mean() < 0.2 * spread
    straight = linear_baseline(observations, targets, taken)[:, :-1]
    assert error.square().mean() < 0.5 * (straight - targets)[taken].square().mean()
    state = torch.get_rng_state()
    assert torch.equal(value_network(observations, targets, taken), found)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_value_network_knows_a_constant() -> None:
    observations, taken = normal(0, 5, 7, 2), torch.ones(5, 6, dtype=torch.bool)
    found = value_network(observations, torch.full((5, 6), 7.0, dtype=torch.float64), taken)
    torch.testing.assert_close(found, torch.full((5, 7), 7.0, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("baseline", ["none", "linear"])
def test_normalised_advantages_have_mean_zero_and_deviation_one(baseline: str) -> None:
    plain, centred, standard = (advantages(MIXED, settings(0.9, 0.8, baseline, how)) for how in NORMALISATIONS)
    for task in range(3):
        taken = MIXED.taken[task]
        raw = plain[task][taken]
        torch.testing.assert_close(centred[task][taken], raw - raw.mean(), rtol=1e-12, atol=1e-13)
        expected = (raw - raw.mean()) / (raw.std(correction=0) + 1e-8)
        torch.testing.assert_close(standard[task][taken], expected, rtol=1e-12, atol=1e-13)
        assert standard[task][taken].std(correction=0) == pytest.approx(1, rel=1e-6)
        for one in (plain, centred, standard):
            assert torch.equal(one[task][~taken], torch.zeros(int((~taken).sum()), dtype=torch.float64))


def test_equal_advantages_are_normalised_to_zero() -> None:
    same = MIXED._replace(rewards=torch.ones_like(MIXED.rewards) * MIXED.taken)
    found = advantages(same, settings(0.0, 1.0, "none", "standardise"))
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("baseline", "normalise"), [*product(("none", "linear"), NORMALISATIONS), ("value", "standardise")]
)
def test_a_task_s_advantages_are_the_same_bits_alone_and_among_others(
    baseline: str, normalise: str, dtype: torch.dtype
) -> None:
    given_to = Trajectories(MIXED.observations.to(dtype), MIXED.rewards.to(dtype), MIXED.taken, MIXED.terminated)
    chosen = settings(0.9, 0.8, baseline, normalise)
    together = advantages(given_to, chosen)
    assert together.dtype == dtype
    for task in range(3):
        alone = advantages(Trajectories(*(part[task : task + 1].clone() for part in given_to)), chosen)
        assert torch.equal(alone[0], together[task])


@pytest.mark.parametrize("baseline", BASELINES)
def test_what_stands_behind_an_end_does_not_matter(baseline: str) -> None:
    chosen = settings(0.9, 0.8, baseline, "standardise")
    observations = MIXED.observations.clone()
    behind = torch.cat([torch.ones(3, 5, 1, dtype=torch.bool), MIXED.taken], dim=-1).logical_not()
    observations[behind] = 1e3
    assert torch.equal(advantages(MIXED._replace(observations=observations), chosen), advantages(MIXED, chosen))
    if baseline == "value":
        return  # it is given time as a share of the horizon
    longer = Trajectories(
        observations=torch.cat([MIXED.observations, MIXED.observations[:, :, -1:].expand(3, 5, 4, 2)], dim=2),
        rewards=torch.cat([MIXED.rewards, torch.zeros(3, 5, 4, dtype=torch.float64)], dim=2),
        taken=torch.cat([MIXED.taken, torch.zeros(3, 5, 4, dtype=torch.bool)], dim=2),
        terminated=MIXED.terminated,
    )
    found, expected = advantages(longer, chosen), advantages(MIXED, chosen)
    assert torch.equal(found[:, :, 5:], torch.zeros(3, 5, 4, dtype=torch.float64))
    torch.testing.assert_close(found[:, :, :5], expected, rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device")
@pytest.mark.parametrize("baseline", BASELINES)
def test_a_gpu_gives_the_processor_s_advantages(baseline: str) -> None:
    chosen = settings(0.9, 0.8, baseline, "standardise")
    found = advantages(Trajectories(*(part.to("cuda") for part in MIXED)), chosen)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), advantages(MIXED, chosen), rtol=0, atol=1e-8)

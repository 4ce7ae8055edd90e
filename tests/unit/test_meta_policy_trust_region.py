"""Trust-region steps on problems whose solution is known."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from meta.policy.trust_region import Product, Search, TrustRegion, conjugate_gradient, full_step, line_search


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_eigenvalues(values: list[float], seed: int) -> Tensor:
    basis = torch.linalg.qr(normal(seed, len(values), len(values))).Q
    matrix = basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T
    return (matrix + matrix.T) / 2


def counted(matrix: Tensor) -> tuple[Product, list[Tensor]]:
    given_to: list[Tensor] = []

    def product(vector: Tensor) -> Tensor:
        given_to.append(vector.clone())
        return matrix @ vector

    return product, given_to


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8), st.integers(0, 10**6))
def test_conjugate_gradient_solves_p_equations_in_p_iterations(values: list[float], seed: int) -> None:
    matrix, target = with_eigenvalues(values, seed), normal(seed + 1, len(values))
    product, given_to = counted(matrix)
    solution = conjugate_gradient(product, target, len(values), tolerance=0.0)
    assert len(given_to) <= len(values)
    expected = torch.linalg.solve(matrix, target)
    # Roundoff 1e-16 grows by the condition number, at most 100, and by the loss of conjugacy over eight directions.
    torch.testing.assert_close(solution, expected, rtol=0, atol=1e-9 * float(expected.norm()))


@pytest.mark.parametrize("different", [1, 2, 3])
def test_it_takes_as_many_iterations_as_there_are_different_eigenvalues(different: int) -> None:
    matrix, target = with_eigenvalues([1.0, 2.5, 7.0][:different] * 4, 0), normal(1, 4 * different)
    product, given_to = counted(matrix)
    solution = conjugate_gradient(product, target, 20)
    assert len(given_to) == different
    torch.testing.assert_close(matrix @ solution, target, rtol=0, atol=1e-12)
    fewer = conjugate_gradient(product, target, different - 1)
    assert (matrix @ fewer - target).norm() > 0.01 * target.norm()


def test_it_stops_where_the_residual_is_small_enough() -> None:
    matrix, target = with_eigenvalues([0.1 * 1.1**power for power in range(20)], 0), normal(1, 20)
    counts, residuals = [], []
    for tolerance in (1e-2, 1e-4, 1e-8):
        product, given_to = counted(matrix)
        solution = conjugate_gradient(product, target, 20, tolerance)
        counts.append(len(given_to))
        residuals.append(float((target - matrix @ solution).norm() / target.norm()))
        assert residuals[-1] <= tolerance**0.5
    assert counts == sorted(set(counts)), residuals
    assert counts[-1] < 20


@pytest.mark.parametrize("damping", [0.0, 1e-5, 0.3])
@pytest.mark.parametrize("kl", [0.01, 2.0])
def test_the_full_step_is_the_natural_gradient_on_the_bound(
    damping: float, kl: float, close: Callable[..., None]
) -> None:
    matrix, gradient = with_eigenvalues([0.5, 1.0, 2.0, 3.0], 0), normal(1, 4)
    settings = TrustRegion(kl=kl, iterations=4, damping=damping)
    step = full_step(lambda vector: matrix @ vector, gradient, settings)
    damped = matrix + damping * torch.eye(4, dtype=torch.float64)
    close(step @ damped @ step / 2, torch.tensor(kl, dtype=torch.float64))
    natural = torch.linalg.solve(damped, gradient)
    close(step / step.norm(), -natural / natural.norm())


def test_no_step_on_the_bound_descends_further() -> None:
    matrix, gradient = with_eigenvalues([0.5, 1.0, 2.0, 3.0], 0), normal(1, 4)
    step = full_step(lambda vector: matrix @ vector, gradient, TrustRegion(iterations=4, damping=0.0))
    others = normal(2, 1000, 4)
    lengths = torch.sqrt(2 * 0.01 / torch.einsum("ni,ij,nj->n", others, matrix, others))
    assert gradient @ step < (lengths[:, None] * others @ gradient).min() < 0


def test_a_gradient_of_zero_gives_a_step_of_zero() -> None:
    step = full_step(lambda vector: 2 * vector, torch.zeros(3), TrustRegion())
    assert torch.equal(step, torch.zeros(3))


def test_a_divergence_without_curvature_gives_a_finite_step() -> None:
    step = full_step(torch.zeros_like, torch.tensor([3.0, 4.0]), TrustRegion(kl=0.02, damping=0.25))
    torch.testing.assert_close(step, -torch.tensor([0.6, 0.8]) * math.sqrt(2 * 0.02 / 0.25))


PARAMS, STEP = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 8.0])


def searched(answers: list[tuple[float, float]], settings: TrustRegion) -> tuple[Search, list[Tensor]]:
    """A search from a surrogate of 1.0 whose candidates are judged by ``answers``."""
    seen: list[Tensor] = []

    def judge(candidate: Tensor) -> tuple[float, float]:
        seen.append(candidate.clone())
        return answers[len(seen) - 1]

    return line_search(judge, PARAMS, STEP, 1.0, settings), seen


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize(
    "refused",
    [(1.5, 0.001), (1.0, 0.001), (0.5, 0.0101), (1.5, 0.5), (math.nan, 0.001), (0.5, math.nan), (0.5, math.inf)],
)
def test_the_search_takes_the_first_admissible_share(first: int, refused: tuple[float, float]) -> None:
    answers = [*[refused] * first, (0.9, 0.01), (0.1, 0.001)]
    search, seen = searched(answers, TrustRegion(kl=0.01, backtracks=5, shrink=0.5))
    share = 0.5**first
    assert [one.tolist() for one in seen] == [(PARAMS + 0.5**number * STEP).tolist() for number in range(first + 1)]
    assert search.accepted
    assert search.params.tolist() == (PARAMS + share * STEP).tolist()
    assert search[2:] == (0.9, 0.01, share)


def test_without_an_admissible_share_nothing_moves() -> None:
    search, seen = searched([(1.5, 0.001)] * 3 + [(0.5, 0.001)], TrustRegion(backtracks=3))
    assert len(seen) == 3
    assert not search.accepted
    assert torch.equal(search.params, PARAMS)
    assert search[2:] == (1.0, 0.0, 0.0)


def test_a_step_of_zero_is_not_accepted() -> None:
    search = line_search(lambda candidate: (float(candidate.sum()), 0.0), PARAMS, torch.zeros(2), -1.0, TrustRegion())
    assert not search.accepted


def test_a_search_shortens_a_step_whose_quadratic_model_is_wrong() -> None:
    """The divergence x²/2 + x⁴ has the model's curvature and outgrows it; the surrogate is linear."""
    settings = TrustRegion(kl=0.5)
    gradient, product = torch.tensor([2.0], dtype=torch.float64), torch.clone
    step = full_step(product, gradient, settings._replace(damping=0.0))
    torch.testing.assert_close(step, torch.tensor([-1.0], dtype=torch.float64))

    def judge(candidate: Tensor) -> tuple[float, float]:
        x = float(candidate)
        return 2 * x, x**2 / 2 + x**4

    search = line_search(judge, torch.zeros(1, dtype=torch.float64), step, 0.0, settings)
    assert search.accepted
    # 0.8 gives 0.73 and 0.64 gives 0.37.
    assert search.share == 0.8**2
    assert search.surrogate == pytest.approx(-2 * 0.64)
    assert search.kl == pytest.approx(0.64**2 / 2 + 0.64**4)


def test_the_settings_are_the_papers() -> None:
    """δ = 0.01, ten iterations, damping 1e-5, at most 15 step sizes, each 0.8 of the one before."""
    assert TrustRegion() == (0.01, 10, 1e-5, 15, 0.8)
    assert TrustRegion._fields == ("kl", "iterations", "damping", "backtracks", "shrink")

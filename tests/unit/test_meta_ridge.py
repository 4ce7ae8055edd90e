"""Ridge regression per task: the closed form, its gradient with respect to the strength, and every strategy."""

import pytest
import torch
from torch import Tensor

from meta.algorithms.ridge import STRENGTH, Ridge, ridge
from meta.engine.strategies import build
from meta.episode import Episode, Examples, stack, unstack
from meta.inner import Inner
from meta.models import MLP
from meta.objectives import CROSS_ENTROPY, MSE


def examples(count: int, seed: int, inputs: int = 4, outputs: int = 2) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    shape = {"generator": generator, "dtype": torch.float64}
    return Examples(torch.randn(count, inputs, **shape) + 3, torch.randn(count, outputs, **shape) - 5)


def algorithm() -> Ridge:
    return Ridge(model=MLP(inputs=(4,), outputs=2), objective=MSE, inner=Inner(lr=0.1, steps=3))


@pytest.fixture
def episodes() -> Episode:
    return stack([Episode(examples(6, seed), examples(9, 100 + seed), torch.zeros(0)) for seed in range(3)])


@pytest.mark.parametrize("rows", [3, 40], ids=["fewer rows than columns", "more"])
def test_predictions_minimise_the_penalised_squares(rows: int) -> None:
    support, queries, strength = examples(rows, 0), examples(5, 1).inputs, torch.tensor(0.3, dtype=torch.float64)
    mean, level = support.inputs.mean(dim=0), support.targets.mean(dim=0)
    centred = support.inputs - mean
    normal = centred.T @ centred + 0.3 * rows * torch.eye(4, dtype=torch.float64)
    weights = torch.linalg.solve(normal, centred.T @ (support.targets - level))
    torch.testing.assert_close(ridge(support, queries, strength), level + (queries - mean) @ weights)


def test_without_a_penalty_it_is_least_squares_and_with_all_of_it_the_mean() -> None:
    support, queries = examples(30, 0), examples(5, 1).inputs
    design = torch.cat([support.inputs, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(design, support.targets).solution
    expected = torch.cat([queries, torch.ones(5, 1, dtype=torch.float64)], dim=1) @ solution
    loose, tight = (ridge(support, queries, torch.tensor(value, dtype=torch.float64)) for value in (1e-10, 1e12))
    torch.testing.assert_close(loose, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tight, support.targets.mean(dim=0).expand(5, 2))
    one = Examples(support.inputs[:1], support.targets[:1])
    torch.testing.assert_close(ridge(one, queries, torch.tensor(0.1)), one.targets.expand(5, 2))


@pytest.mark.parametrize("strategy", ["vmap", "trace", "loop", "eager"])
def test_the_gradient_agrees_with_central_differences(strategy: str, episodes: Episode) -> None:
    method = algorithm()
    params = method.init(torch.Generator(), torch.float64)

    def loss(shift: float) -> Tensor:
        moved = {STRENGTH: params[STRENGTH] + shift}
        return torch.stack([method.meta_loss(moved, unstack(episodes, task))[0] for task in range(3)]).sum()

    expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
    gradient, _ = build(strategy, method).meta_gradient(params, episodes)
    torch.testing.assert_close(gradient[STRENGTH].sum(), expected, rtol=1e-6, atol=1e-12)
    scores = build(strategy, method).scores(params, episodes, (0, 5))
    assert tuple(scores.shape) == (3, 2)
    torch.testing.assert_close(scores.sum(dim=0), loss(0).expand(2))


def test_inputs_of_several_dimensions_are_flattened() -> None:
    support, queries = examples(6, 0), examples(5, 1)
    folded = Examples(support.inputs.reshape(6, 2, 2), support.targets)
    strength = torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(
        ridge(folded, queries.inputs.reshape(5, 2, 2), strength), ridge(support, queries.inputs, strength)
    )


def test_classes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"algorithm ridge expects tasks of regression \(objective mse\), received CrossEntropy"
    ):
        Ridge(model=MLP(inputs=(4,), outputs=2), objective=CROSS_ENTROPY, inner=Inner())

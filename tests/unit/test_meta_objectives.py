import math

import pytest
import torch

from meta.objectives import CROSS_ENTROPY, MSE, OBJECTIVES, is_diverged


def test_squared_error_is_the_mean_over_all_elements() -> None:
    outputs, targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 8.0]])
    assert float(MSE.loss(outputs, targets)) == (0 + 4 + 9 + 16) / 4
    assert MSE.score is MSE.loss


def test_cross_entropy_is_the_mean_negative_log_likelihood() -> None:
    outputs, targets = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64), torch.tensor([0, 1])
    expected = (math.log(2) + math.log(1 + math.exp(2))) / 2
    assert float(CROSS_ENTROPY.loss(outputs, targets)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("targets", "expected"), [([0, 2, 1, 1], 1.0), ([0, 2, 1, 0], 0.75), ([1, 1, 0, 0], 0.0)])
def test_accuracy_is_the_fraction_of_largest_logits_at_the_target(targets: list[int], expected: float) -> None:
    outputs = torch.tensor([[3.0, 1.0, 2.0], [-3.0, -2.0, -1.0], [0.0, 1.0, 0.0], [0.0, 9.0, 1.0]])
    score = CROSS_ENTROPY.score(outputs, torch.tensor(targets))
    assert float(score) == expected
    assert score.dtype == outputs.dtype


def test_objectives_are_found_by_their_names() -> None:
    assert OBJECTIVES == {"mse": MSE, "cross_entropy": CROSS_ENTROPY}
    assert (MSE.higher_is_better, CROSS_ENTROPY.higher_is_better) == (False, True)


@pytest.mark.parametrize(
    ("scores", "mse", "cross_entropy"),
    [
        ([1.0, 0.5], False, False),
        ([1.0, 10.0], False, False),
        ([1.0, 10.5], True, False),
        ([1.0, math.inf], True, True),
        ([1.0, math.nan], True, True),
    ],
)
def test_a_task_has_diverged_if_its_score_is_lost_or_its_error_tenfold(
    scores: list[float], mse: bool, cross_entropy: bool
) -> None:
    table = torch.tensor([scores, [1.0, 1.0]])
    assert is_diverged(table, MSE).tolist() == [[False, mse], [False, False]]
    assert is_diverged(table, CROSS_ENTROPY).tolist() == [[False, cross_entropy], [False, False]]

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch import Tensor

from meta.objectives import (
    CROSS_ENTROPY,
    MSE,
    OBJECTIVES,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    GaussianNLL,
    Huber,
    MeanAbsoluteError,
    Objective,
    PoissonNLL,
    Quantile,
    is_diverged,
    measured,
)
from meta.objectives.scores import (
    AUROC,
    MAE,
    R2,
    RMSE,
    Accuracy,
    BalancedAccuracy,
    CalibrationError,
    MacroF1,
    TaskScore,
)


def test_squared_error_is_the_mean_over_all_elements() -> None:
    outputs, targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 8.0]])
    assert float(MSE.loss(outputs, targets)) == (0 + 4 + 9 + 16) / 4
    assert MSE.score(outputs, targets).equal(MSE.loss(outputs, targets))


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


def test_families_name_every_objective_that_needs_no_keys() -> None:
    assert sorted(OBJECTIVES) == [
        *("bce", "cross_entropy", "focal", "gaussian_nll", "huber", "mae", "mse", "poisson"),
    ]
    assert (OBJECTIVES["mse"], OBJECTIVES["cross_entropy"]) == (MSE, CROSS_ENTROPY)
    assert (MSE.higher_is_better, CROSS_ENTROPY.higher_is_better) == (False, True)


def real(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CLASSES = torch.tensor([0, 2, 1, 1, 0, 2])
OTHERS: dict[str, tuple[Objective, int, Tensor]] = {
    "mae": (MeanAbsoluteError(), 2, real(6, 2, seed=1)),
    "huber": (Huber(delta=0.7), 2, real(6, 2, seed=1)),
    "gaussian_nll": (GaussianNLL(), 4, real(6, 2, seed=1)),
    "poisson": (PoissonNLL(), 2, real(6, 2, seed=1).abs().ceil()),
    "quantile": (Quantile(levels=(0.1, 0.5, 0.9)), 6, real(6, 2, seed=1)),
    "bce": (BinaryCrossEntropy(), 3, (real(6, 3, seed=1) > 0).double()),
    "focal": (Focal(gamma=1.5), 3, CLASSES),
    "smoothed": (CrossEntropy(label_smoothing=0.1), 3, CLASSES),
}


def reference(name: str, outputs: Tensor, targets: Tensor) -> float:
    """The same by scipy's distributions, torch's own functions, or the definition."""
    x, y = outputs.numpy(), targets.numpy()
    if name == "mae":
        return float(np.abs(x - y).mean())
    if name == "huber":
        return float(torch.nn.functional.huber_loss(outputs, targets, delta=0.7))
    if name == "gaussian_nll":
        return float(-stats.norm(x[:, :2], np.exp(x[:, 2:])).logpdf(y).mean())
    if name == "poisson":
        return float((-stats.poisson(np.exp(x)).logpmf(y) - np.vectorize(math.lgamma)(y + 1)).mean())
    if name == "quantile":
        taus, quantiles = np.array([0.1, 0.5, 0.9]), x.reshape(6, 2, 3)
        return float(np.mean([metrics.mean_pinball_loss(y, quantiles[:, :, n], alpha=t) for n, t in enumerate(taus)]))
    if name == "bce":
        return float(torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets))
    if name == "focal":
        p = torch.softmax(outputs, dim=1)[torch.arange(6), targets]
        return float((-((1 - p) ** 1.5) * p.log()).mean())
    return float(torch.nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1))


@pytest.mark.parametrize("name", OTHERS)
def test_losses_are_what_other_libraries_compute(name: str) -> None:
    objective, width, targets = OTHERS[name]
    outputs = real(6, width)
    assert objective.width(targets.shape[1] if targets.dim() == 2 else 3) == width
    assert float(objective.loss(outputs, targets)) == pytest.approx(reference(name, outputs, targets), rel=1e-12)


@pytest.mark.parametrize("name", OTHERS)
def test_first_and_second_derivatives_are_those_of_finite_differences(name: str) -> None:
    objective, width, targets = OTHERS[name]
    outputs = real(6, width).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective.loss(x, targets), outputs)
    assert torch.autograd.gradgradcheck(lambda x: objective.loss(x, targets), outputs)


@pytest.mark.parametrize("name", OTHERS)
def test_derivatives_are_exact_at_the_zeros_of_a_fresh_head(name: str) -> None:
    objective, width, targets = OTHERS[name]
    if objective.targets == "values":  # errors of these are nowhere zero here
        targets = targets + 0.5
    outputs = torch.zeros(6, width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: objective.loss(x, targets), outputs)


def test_focal_loss_has_finite_derivatives_where_all_is_certain() -> None:
    outputs = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = Focal(gamma=0.5).loss(outputs, torch.tensor([0]))
    (first,) = torch.autograd.grad(loss, outputs, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), outputs)
    assert first.isfinite().all()
    assert second.isfinite().all()


@pytest.mark.parametrize("name", OTHERS)
def test_outputs_of_another_width_are_refused(name: str) -> None:
    objective, width, targets = OTHERS[name]
    wrong = real(6, width - 1) if objective.targets != "classes" else real(5, width)
    with pytest.raises(ValueError, match=r"expected outputs.*received outputs \([56], \d\)"):
        objective.loss(wrong, targets)


def test_predictions_are_what_outputs_stand_for() -> None:
    outputs = torch.tensor([[1.0, -1.0, math.log(2.0), 0.0]], dtype=torch.float64)
    gaussian, quantile = GaussianNLL(), Quantile(levels=(0.2, 0.6))
    assert gaussian.predictions(outputs)[0].tolist() == pytest.approx([1.0, -1.0, 2.0, 1.0])
    assert gaussian.point(gaussian.predictions(outputs))[0].tolist() == [1.0, -1.0]
    assert quantile.point(quantile.predictions(outputs))[0].tolist() == [-1.0, 0.0]
    assert PoissonNLL().predictions(outputs).equal(outputs.exp())
    assert CROSS_ENTROPY.predictions(outputs).sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Huber(delta=0.0), "delta: expected a finite number above 0"),
        (lambda: Quantile(levels=()), "levels: expected increasing numbers"),
        (lambda: Quantile(levels=(0.5, 0.1)), "levels: expected increasing numbers"),
        (lambda: Quantile(levels=(0.5, 1.0)), "levels: expected increasing numbers"),
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing: expected"),
        (lambda: Focal(gamma=-1.0), "gamma: expected"),
        (lambda: PoissonNLL().check(torch.tensor([[-1.0]])), "poisson: expected counts"),
        (lambda: BinaryCrossEntropy().check(torch.tensor([[0.5]])), "bce: expected labels"),
    ],
)
def test_settings_and_targets_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_classes_are_those_of_scikit_learn(seed: int) -> None:
    outputs = (2 * real(40, 3, seed=seed)).round(decimals=1)  # with ties
    targets = torch.randint(3, (40,), generator=torch.Generator().manual_seed(seed))
    p, y = torch.softmax(outputs, dim=1).numpy(), targets.numpy()
    chosen = p.argmax(axis=1)
    expected = {
        Accuracy(): metrics.accuracy_score(y, chosen),
        BalancedAccuracy(): metrics.balanced_accuracy_score(y, chosen),
        MacroF1(): metrics.f1_score(y, chosen, average="macro"),
        AUROC(): metrics.roc_auc_score(y, p, multi_class="ovr"),
    }
    scores = measured(list(expected), CROSS_ENTROPY, outputs[None, None], targets[None])
    assert scores.shape == (1, 1, 4)
    assert scores.flatten().tolist() == pytest.approx(list(expected.values()), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_numbers_are_those_of_scikit_learn(seed: int) -> None:
    outputs, targets = real(30, 1, seed=seed), real(30, 1, seed=seed + 10)
    x, y = outputs.numpy(), targets.numpy()
    expected = [metrics.r2_score(y, x), metrics.mean_absolute_error(y, x), metrics.root_mean_squared_error(y, x)]
    assert measured([R2(), MAE(), RMSE()], MSE, outputs[None, None], targets[None]).flatten().tolist() == (
        pytest.approx(expected, rel=1e-12)
    )


def test_scores_of_labels_are_those_of_scikit_learn() -> None:
    outputs, targets = real(30, 4), (real(30, 4, seed=1) > 0).double()
    p, y = torch.sigmoid(outputs).numpy(), targets.numpy()
    chosen = p > 0.5
    expected = {
        Accuracy(): (chosen == (y > 0.5)).mean(),
        BalancedAccuracy(): np.mean([metrics.balanced_accuracy_score(y[:, n], chosen[:, n]) for n in range(4)]),
        MacroF1(): metrics.f1_score(y, chosen, average="macro"),
        AUROC(): metrics.roc_auc_score(y, p, average="macro"),
    }
    scores = measured(list(expected), BinaryCrossEntropy(), outputs[None, None], targets[None])
    assert scores.flatten().tolist() == pytest.approx(list(expected.values()), rel=1e-12)


def test_calibration_error_is_the_gap_by_bin_of_confidence() -> None:
    logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.2, 0.0], [0.2, 0.0]], dtype=torch.float64)
    targets = torch.tensor([0, 1, 1, 1])
    sure, unsure = (1 / (1 + math.exp(-z)) for z in (4.0, 0.2))
    expected = 0.5 * (sure - 0.5) + 0.5 * unsure
    score = measured([CalibrationError()], CROSS_ENTROPY, logits[None, None], targets[None])
    assert score.item() == pytest.approx(expected, rel=1e-12)


def test_scores_are_each_tasks_own_at_each_number_of_steps() -> None:
    outputs = real(3, 2, 10, 2)
    targets = torch.randint(2, (3, 10), generator=torch.Generator().manual_seed(0))
    every: list[TaskScore] = [Accuracy(), BalancedAccuracy(), MacroF1(), AUROC(), CalibrationError()]
    scores = measured(every, CROSS_ENTROPY, outputs, targets)
    for task in range(3):
        for number in range(2):
            alone = measured(every, CROSS_ENTROPY, outputs[task, number][None, None], targets[task][None])
            assert alone.flatten().equal(scores[task, number])


def test_undefined_scores_are_nan_and_lost_ones_infinite() -> None:
    outputs, one_class = real(1, 1, 4, 2), torch.zeros(1, 4, dtype=torch.int64)
    assert measured([AUROC()], CROSS_ENTROPY, outputs, one_class).isnan().all()
    assert measured([R2()], MSE, real(1, 1, 4, 1), torch.ones(1, 4, 1)).isnan().all()
    outputs[0, 0, 0, 0] = math.nan
    assert measured([AUROC(), Accuracy()], CROSS_ENTROPY, outputs, torch.tensor([[0, 1, 0, 1]])).isinf().all()


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


def test_scores_that_may_be_negative_are_not_compared_with_a_multiple() -> None:
    assert is_diverged(torch.tensor([[-1.0, 50.0], [-1.0, math.nan]]), GaussianNLL()).tolist() == [
        [False, False],
        [False, True],
    ]

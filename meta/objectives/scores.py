"""Scores that evaluations report beside the one that selects θ: each a number for every task, not differentiated.

Shapes: [..., Q, N] predictions of Q query examples, with any leading dimensions; a score keeps those. A score that a
task's targets leave undefined (AUROC where all examples are of one class) is NaN.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from meta.objectives.base import Objective, Targets

BINS = 15  # of the calibration error, as in Guo et al. 2017


class TaskScore(ABC):
    """A score of one task's query predictions.

    A score of your own is a subclass with :meth:`measure` and these attributes, named in ``eval.scores`` by its import
    path; its constructor takes no arguments.

    Attributes:
        metric: name in tables and files.
        higher_is_better: whether a larger score is better.
        signed: whether good scores may be negative.
        suits: kinds of targets that it can be computed for, see :class:`meta.objectives.Objective`.
    """

    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    signed: ClassVar[bool] = False
    suits: ClassVar[tuple[Targets, ...]] = ("classes", "labels")

    @abstractmethod
    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the scores, [...].

        Args:
            predictions: numbers [..., Q, O], or probabilities of classes or labels [..., Q, N], float64.
            targets: of the same shape; class numbers are int64 [..., Q].
        """


class Accuracy(TaskScore):
    """The share of examples, or of labels, that are classified rightly."""

    metric: ClassVar[str] = "accuracy"

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the shares, [...]."""
        if targets.dim() < predictions.dim():
            return (predictions.argmax(dim=-1) == targets).double().mean(dim=-1)
        return ((predictions > 0.5) == (targets > 0.5)).double().mean(dim=(-2, -1))


class BalancedAccuracy(TaskScore):
    """The mean over classes of the share of their examples that are classified rightly.

    Classes without examples are left out. For labels it is the mean over labels of that of their two classes.
    """

    metric: ClassVar[str] = "balanced_accuracy"

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the means, [...]."""
        predicted, actual = _indicators(predictions, targets)
        if targets.dim() < predictions.dim():
            return _recall(predicted, actual).nanmean(dim=-1)
        both = torch.stack([_recall(predicted, actual), _recall(1 - predicted, 1 - actual)])
        return both.nanmean(dim=0).mean(dim=-1)


class MacroF1(TaskScore):
    """The mean over classes, or labels, of F1, 2 · right / (predicted + actual), left out where both are zero."""

    metric: ClassVar[str] = "macro_f1"

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the means, [...]."""
        predicted, actual = _indicators(predictions, targets)
        right, whole = (predicted * actual).sum(dim=-2), predicted.sum(dim=-2) + actual.sum(dim=-2)
        return (2 * right / whole).nanmean(dim=-1)  # 0 / 0 is NaN


class AUROC(TaskScore):
    """The area under the curve of true against false positives, of each class against the others, a mean over classes.

    It is the chance that an example of the class has a larger probability of it than an example of another class,
    half of it where they are equal. Classes, or labels, that all or none of the examples have are left out.
    """

    metric: ClassVar[str] = "auroc"

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the means, [...]."""
        _, actual = _indicators(predictions, targets)
        values = predictions.transpose(-2, -1).contiguous()  # [..., N, Q]
        members = actual.transpose(-2, -1)
        order = values.sort(dim=-1).values
        below, upto = (torch.searchsorted(order, values, right=right).double() for right in (False, True))
        ranks = (below + upto + 1) / 2  # means over equal values, from 1 on
        inside = members.sum(dim=-1)
        outside = members.shape[-1] - inside
        wins = (ranks * members).sum(dim=-1) - inside * (inside + 1) / 2
        return (wins / (inside * outside)).nanmean(dim=-1)


class CalibrationError(TaskScore):
    """The expected calibration error (Guo et al. 2017, eq. 3): |confidence - accuracy| over 15 bins of confidence.

    The confidence is the probability of the predicted class, or of the predicted value of a label.
    """

    metric: ClassVar[str] = "calibration_error"
    higher_is_better: ClassVar[bool] = False

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the errors, [...]."""
        if targets.dim() < predictions.dim():
            confidence, chosen = predictions.max(dim=-1)
            right = chosen == targets
        else:
            confidence = torch.maximum(predictions, 1 - predictions).flatten(-2)
            right = ((predictions > 0.5) == (targets > 0.5)).flatten(-2)
        bins = F.one_hot((confidence * BINS).ceil().long().clamp(1, BINS) - 1, BINS).double()
        excess = (confidence - right.double())[..., None] * bins
        return excess.sum(dim=-2).abs().sum(dim=-1) / confidence.shape[-1]


class R2(TaskScore):
    """The coefficient of determination, 1 - Σ (y - ŷ)² / Σ (y - ȳ)², a mean over targets that vary in the task."""

    metric: ClassVar[str] = "r2"
    signed: ClassVar[bool] = True
    suits: ClassVar[tuple[Targets, ...]] = ("values",)

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the coefficients, [...]."""
        rest = ((targets - predictions) ** 2).sum(dim=-2)
        whole = ((targets - targets.mean(dim=-2, keepdim=True)) ** 2).sum(dim=-2)
        return torch.where(whole > 0, 1 - rest / whole, torch.nan).nanmean(dim=-1)


class MAE(TaskScore):
    """The mean absolute error over examples and targets."""

    metric: ClassVar[str] = "mae"
    higher_is_better: ClassVar[bool] = False
    suits: ClassVar[tuple[Targets, ...]] = ("values",)

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the errors, [...]."""
        return (predictions - targets).abs().mean(dim=(-2, -1))


class RMSE(TaskScore):
    """The root of the mean squared error over examples and targets."""

    metric: ClassVar[str] = "rmse"
    higher_is_better: ClassVar[bool] = False
    suits: ClassVar[tuple[Targets, ...]] = ("values",)

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Returns the errors, [...]."""
        return ((predictions - targets) ** 2).mean(dim=(-2, -1)).sqrt()


def measured(scores: Sequence[TaskScore], objective: Objective, outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns scores of T tasks after K numbers of inner steps, [T, K, number of scores], float64.

    A score of a task whose outputs are not finite is infinite; one that its targets leave undefined is NaN.

    Args:
        scores: to compute.
        objective: says what the outputs stand for.
        outputs: of the model for the query inputs, [T, K, Q, ...].
        targets: of the query examples, [T, Q, ...].
    """
    predictions = objective.point(objective.predictions(outputs.double()))
    lost = ~torch.isfinite(predictions).flatten(2).all(dim=2)
    targets = targets[:, None].expand(-1, outputs.shape[1], *targets.shape[1:])
    targets = targets if objective.targets == "classes" else targets.double()
    # Where a class would be counted NaN has no place.
    safe = torch.where(torch.isfinite(predictions), predictions, 0.0)
    columns = [torch.where(lost, torch.inf, score.measure(safe, targets)) for score in scores]
    return torch.stack(columns, dim=-1)


def _indicators(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns predicted and actual classes, or labels, as zeros and ones, [..., Q, N] each, float64."""
    if targets.dim() == predictions.dim():
        return (predictions > 0.5).double(), (targets > 0.5).double()
    classes = predictions.shape[-1]
    return F.one_hot(predictions.argmax(dim=-1), classes).double(), F.one_hot(targets, classes).double()


def _recall(predicted: Tensor, actual: Tensor) -> Tensor:
    """Returns the share of each class's examples that are predicted as such, [..., N]; NaN for one without examples."""
    return (predicted * actual).sum(dim=-2) / actual.sum(dim=-2)

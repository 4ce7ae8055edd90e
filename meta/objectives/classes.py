"""Objectives of classification: targets are class numbers [B], or several labels [B, N]."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from meta.objectives.base import Objective, Targets, require_same_shape


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean negative log-likelihood of class labels, a scalar (Finn et al. 2017, eq. 3 as a mean).

    Args:
        outputs: logits [B, N].
        targets: int64 class numbers [B].

    Raises:
        ValueError: if the shapes or the targets' type differ from these.
    """
    _require_classes("cross_entropy", outputs, targets)
    return F.cross_entropy(outputs, targets)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the fraction of examples whose largest logit is that of the target, a scalar in [0, 1].

    Args:
        outputs: logits [B, N].
        targets: int64 class numbers [B].

    Raises:
        ValueError: if the shapes or the targets' type differ from these.
    """
    _require_classes("accuracy", outputs, targets)
    return (outputs.argmax(dim=-1) == targets).to(outputs.dtype).mean()


def _require_classes(name: str, outputs: Tensor, targets: Tensor) -> None:
    if outputs.dim() != 2 or targets.shape != outputs.shape[:1]:
        raise ValueError(
            f"{name}: expected outputs [B, N] and targets [B], received outputs {tuple(outputs.shape)} and "
            f"targets {tuple(targets.shape)}; a row of N logits belongs to each example, and one class number"
        )
    if targets.dtype != torch.int64:
        raise ValueError(
            f"{name}: expected targets of type torch.int64, class numbers from 0 to N - 1, received "
            f"{targets.dtype}; convert them in the task family"
        )


class _OfClasses(Objective):
    """An objective of logits and one class: the score is the accuracy, registered models answer probabilities."""

    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    targets: ClassVar[Targets] = "classes"

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the accuracy, a scalar.

        Args:
            outputs: logits [B, N].
            targets: int64 class numbers [B].
        """
        return accuracy(outputs, targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns the probabilities of the classes, [..., N].

        Args:
            outputs: logits [..., N].
        """
        return torch.softmax(outputs, dim=-1)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(_OfClasses):
    """The cross-entropy of logits and classes; the score is the accuracy. Registered models answer probabilities.

    The authors' code of MAML divides the summed loss by the shots K only, so its inner gradient is N (the way) times
    that of the mean used here.

    Attributes:
        label_smoothing: ε in [0, 1): the share of the target's probability that all classes divide among them
            (Szegedy et al. 2016, section 7).
    """

    name: ClassVar[str] = "cross_entropy"

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Checks ε."""
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a number from 0 to below 1, received {self.label_smoothing}")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns (1 - ε) times the mean of -log p(target) plus ε times that of -log p over all classes, a scalar.

        Args:
            outputs: logits [B, N].
            targets: int64 class numbers [B].
        """
        likelihood = cross_entropy(outputs, targets)
        if not self.label_smoothing:
            return likelihood
        even = -torch.log_softmax(outputs, dim=-1).mean()
        return (1 - self.label_smoothing) * likelihood + self.label_smoothing * even


@dataclass(frozen=True, kw_only=True)
class Focal(_OfClasses):
    """The focal loss (Lin et al. 2017, eq. 4): the mean of -(1 - p)^γ log p, with p the target's probability.

    With γ = 0 it is the cross-entropy.

    Attributes:
        gamma: γ ≥ 0: how much less examples count that are classified well already.
    """

    name: ClassVar[str] = "focal"

    gamma: float = 2.0

    def __post_init__(self) -> None:
        """Checks γ."""
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma: expected a finite number of at least 0, received {self.gamma}")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over the examples, a scalar.

        Args:
            outputs: logits [B, N].
            targets: int64 class numbers [B].
        """
        _require_classes(self.name, outputs, targets)
        log_p = -F.cross_entropy(outputs, targets, reduction="none")
        # 1 - p is zero where rounding leaves nothing else, and derivatives of its power are infinite there.
        missing = (1 - torch.exp(log_p)).clamp(min=torch.finfo(outputs.dtype).eps)
        return -(missing**self.gamma * log_p).mean()


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(Objective):
    """The cross-entropy of each of several labels on its own; the score is the share of labels that are right.

    Registered models answer the probability of each label.
    """

    name: ClassVar[str] = "bce"
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    targets: ClassVar[Targets] = "labels"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean of log(1 + exp(z)) - y z over all labels, a scalar.

        Args:
            outputs: logits z, [B, N].
            targets: y, 0 or 1, [B, N], floating-point.
        """
        require_same_shape(self.name, outputs, targets)
        return (softplus(outputs) - targets * outputs).mean()

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the share of labels whose logit has the sign of the target, a scalar.

        Args:
            outputs: logits [B, N].
            targets: 0 or 1, [B, N].
        """
        require_same_shape(self.name, outputs, targets)
        return ((outputs > 0) == (targets > 0.5)).to(outputs.dtype).mean()

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns the probabilities of the labels, [..., N].

        Args:
            outputs: logits [..., N].
        """
        return torch.sigmoid(outputs)

    def check(self, targets: Tensor) -> None:
        """Checks that every target is 0 or 1.

        Args:
            targets: labels.
        """
        if targets.numel() and not bool(((targets == 0) | (targets == 1)).all()):
            raise ValueError(
                f"bce: expected labels as targets, each 0 or 1, received numbers from {float(targets.min()):g} to "
                f"{float(targets.max()):g}; let the family give labels, or choose another objective"
            )


def softplus(values: Tensor) -> Tensor:
    """Returns log(1 + exp(values)), without overflow and with exact derivatives, also at zero.

    Either branch gets the values that suit it: relu(z) + log(1 + exp(-|z|)) has a wrong derivative at zero, where the
    outputs of a fresh head lie.

    Args:
        values: of any shape.
    """
    negative, positive = values.clamp(max=0), values.clamp(min=0)
    return torch.where(values > 0, positive + torch.log1p(torch.exp(-positive)), torch.log1p(torch.exp(negative)))

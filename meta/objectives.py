"""Objectives: the loss that is differentiated and the score that is reported.

Both are means over the examples of one task. Note for cross-entropy: the authors' code divides the summed
loss by the shots K only, so its inner gradient is N (the way) times that of the mean used here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A measure of a task's performance.

    Attributes:
        name: the name by which families refer to it.
        metric: name of the score in tables and files.
        higher_is_better: whether a larger score is better.
    """

    name: str
    metric: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Objective(Score):
    """A differentiable loss and the score reported beside it.

    Attributes:
        loss: (outputs [B, ...], targets [B, ...]) -> scalar.
        score: (outputs, targets) -> scalar, not necessarily differentiable.
    """

    loss: Measure
    score: Measure


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean of (outputs - targets)² over all elements, a scalar (Finn et al. 2017, eq. 2 as a mean).

    Args:
        outputs: [B, ...].
        targets: [B, ...], of the same shape.

    Raises:
        ValueError: if the shapes differ; they are never broadcast.
    """
    if outputs.shape != targets.shape:
        raise ValueError(
            f"mse: expected outputs and targets of one shape [B, ...], received outputs {tuple(outputs.shape)} and "
            f"targets {tuple(targets.shape)}; let the model return an output for every target, without a squeeze"
        )
    return ((outputs - targets) ** 2).mean()


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean negative log-likelihood of class labels, a scalar (Finn et al. 2017, eq. 3 as a mean).

    Args:
        outputs: logits [B, N].
        targets: int64 class numbers [B].

    Raises:
        ValueError: if the shapes or the targets' type differ from these.
    """
    _require_classes(outputs, targets)
    return F.cross_entropy(outputs, targets)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the fraction of examples whose largest logit is that of the target, a scalar in [0, 1].

    Args:
        outputs: logits [B, N].
        targets: int64 class numbers [B].

    Raises:
        ValueError: if the shapes or the targets' type differ from these.
    """
    _require_classes(outputs, targets)
    return (outputs.argmax(dim=-1) == targets).to(outputs.dtype).mean()


def _require_classes(outputs: Tensor, targets: Tensor) -> None:
    if outputs.dim() != 2 or targets.shape != outputs.shape[:1]:
        raise ValueError(
            f"cross_entropy: expected outputs [B, N] and targets [B], received outputs {tuple(outputs.shape)} and "
            f"targets {tuple(targets.shape)}; a row of N logits belongs to each example, and one class number"
        )
    if targets.dtype != torch.int64:
        raise ValueError(
            f"cross_entropy: expected targets of type torch.int64, class numbers from 0 to N - 1, received "
            f"{targets.dtype}; convert them in the task family"
        )


MSE = Objective(name="mse", loss=mean_squared_error, metric="mse", score=mean_squared_error, higher_is_better=False)
CROSS_ENTROPY = Objective(
    name="cross_entropy", loss=cross_entropy, metric="accuracy", score=accuracy, higher_is_better=True
)
OBJECTIVES = {objective.name: objective for objective in (MSE, CROSS_ENTROPY)}
# The score of RL tasks: the sum of a trajectory's rewards. It is not differentiated; see meta.policy.
RETURN = Score(name="return", metric="return", higher_is_better=True)


DIVERGED = 10.0  # factor on a task's error before adaptation above which the task counts as diverged


def is_diverged(scores: Tensor, objective: Score, factor: float = DIVERGED, before: Tensor | None = None) -> Tensor:
    """Returns the mask of diverged tasks, bool [T, K], from scores [T, K] after K numbers of inner steps.

    A task has diverged after some inner steps if its score is not finite or, for errors, larger than ``factor`` times
    the
    task's error before adaptation. An error before adaptation below 1 / ``factor`` of the tasks' median is raised to
    that
    value: a task that is solved before adaptation has diverged only if it ends above the median.

    Args:
        scores: [T, K].
        objective: the measure of ``scores``; errors are those where lower is better.
        factor: ratio to the error before adaptation above which a task has diverged.
        before: scores after 0 inner steps, [T]; by default the first column of ``scores``.

    >>> is_diverged(torch.tensor([[1.0, 0.5], [1.0, 500.0], [0.0, 0.5]]), MSE).tolist()
    [[False, False], [False, True], [False, False]]
    """
    diverged = ~torch.isfinite(scores)
    if not objective.higher_is_better:
        reference = scores[:, 0] if before is None else before
        known = reference[torch.isfinite(reference) & (reference > 0)]
        typical = known.median() if len(known) else reference.new_ones(())  # of no scale: errors in units
        reference = torch.where(torch.isfinite(reference), reference, typical)
        diverged |= scores > factor * reference.clamp(min=float(typical) / factor)[:, None]
    return diverged

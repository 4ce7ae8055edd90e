"""The interface of an objective, and what evaluations ask of any score."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

Measure = Callable[[Tensor, Tensor], Tensor]
Targets = Literal["values", "classes", "labels"]
KINDS: dict[Targets, str] = {
    "values": "numbers [B, O]",
    "classes": "class numbers [B], int64",
    "labels": "labels [B, N], each 0 or 1",
}


class Score(Protocol):
    """The name and the direction of a measure of a task's performance."""

    @property
    def metric(self) -> str:
        """Name of the score in tables and files."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Tells whether a larger score is better."""
        ...

    @property
    def signed(self) -> bool:
        """Tells whether good scores may be negative, so that a multiple of one says nothing."""
        ...


class Objective(ABC):
    """A differentiable loss, and the score that is reported beside it and selects θ.

    An objective of your own is a subclass with :meth:`loss` and ``metric``, named in the configuration by its import
    path; its constructor's arguments become keys. The rest has defaults. The loss is a mean over the examples of one
    task, twice differentiable; engines record it, so it may not depend on values in Python.

    Attributes:
        name: by which configurations and families refer to it, for built-in ones.
        metric: name of the score in tables and files.
        higher_is_better: whether a larger score is better.
        signed: whether good scores may be negative: a task then counts as diverged only if its score is not finite.
        targets: kind of the targets: ``values``, numbers [B, O]; ``classes``, int64 class numbers [B]; ``labels``,
            [B, N], each 0 or 1.
    """

    name: ClassVar[str] = ""
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    targets: ClassVar[Targets] = "values"

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of a task's examples, a scalar.

        Args:
            outputs: of the model, [B, :meth:`width`].
            targets: [B, ...].

        Raises:
            ValueError: if the shapes do not suit; they are never broadcast.
        """

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the score of a task's examples, a scalar; by default the loss. It need not be differentiable.

        Args:
            outputs: of the model, [B, :meth:`width`].
            targets: [B, ...].
        """
        return self.loss(outputs, targets)

    def width(self, targets: int) -> int:
        """Returns how many numbers the model has to return per example, by default as many as targets.

        Args:
            targets: numbers of a target, or classes.
        """
        return targets

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns what a registered model answers, [..., width]: the outputs, or what they stand for.

        Args:
            outputs: of the model, [..., width].
        """
        return outputs

    def point(self, predictions: Tensor) -> Tensor:
        """Returns one number for each target, [..., O], or the probability of each class, [..., N].

        Args:
            predictions: as :meth:`predictions` returns them.
        """
        return predictions

    def names(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Returns the names of the numbers of a prediction, by default those of the targets, or classes.

        Args:
            targets: names of the targets, or classes.
        """
        return tuple(targets)

    def in_units(self, predictions: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Returns predictions in the units of targets that were standardised as (y - mean) / deviation.

        Args:
            predictions: as :meth:`predictions` returns them, [..., width].
            mean: of each target, [O].
            deviation: of each target, [O].
        """
        return predictions * deviation + mean

    def check(self, targets: Tensor) -> None:  # noqa: B027 - most objectives have nothing to check
        """Checks the values of targets when they are drawn, before any computation.

        Args:
            targets: of any number of tasks.

        Raises:
            ValueError: if the loss makes no sense for them.
        """


def require_same_shape(name: str, outputs: Tensor, targets: Tensor) -> None:
    """Checks that there is an output for every target.

    Args:
        name: of the objective, for the message.
        outputs: [B, ...].
        targets: [B, ...].

    Raises:
        ValueError: if the shapes differ.
    """
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{name}: expected outputs and targets of one shape [B, ...], received outputs {tuple(outputs.shape)} and "
            f"targets {tuple(targets.shape)}; let the model return an output for every target, without a squeeze"
        )


class _Return:
    """The sum of a trajectory's rewards."""

    name: ClassVar[str] = "return"
    metric: ClassVar[str] = "return"
    higher_is_better: ClassVar[bool] = True
    signed: ClassVar[bool] = True


# The score of RL tasks. It is not differentiated; see meta.policy.
RETURN: Score = _Return()


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
        objective: the measure of ``scores``; errors are those where lower is better and which are never negative.
        factor: ratio to the error before adaptation above which a task has diverged.
        before: scores after 0 inner steps, [T]; by default the first column of ``scores``.

    >>> from meta.objectives import MSE
    >>> is_diverged(torch.tensor([[1.0, 0.5], [1.0, 500.0], [0.0, 0.5]]), MSE).tolist()
    [[False, False], [False, True], [False, False]]
    """
    diverged = ~torch.isfinite(scores)
    if not (objective.higher_is_better or objective.signed):
        reference = scores[:, 0] if before is None else before
        known = reference[torch.isfinite(reference) & (reference > 0)]
        typical = known.median() if len(known) else reference.new_ones(())  # of no scale: errors in units
        reference = torch.where(torch.isfinite(reference), reference, typical)
        diverged |= scores > factor * reference.clamp(min=float(typical) / factor)[:, None]
    return diverged

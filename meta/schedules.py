"""Schedules: numbers as functions of the outer step alone, so that a resumed run needs to know nothing but its step.

The functions give a number that goes from one value to another; the classes give the share of a step size, with a
linear warm-up before. Steps count from 0: step s is the outer step after s others.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


def linear(step: int, begin: int, end: int, *, first: float = 1.0, final: float = 0.0) -> float:
    """A number that goes in a straight line from ``first`` at step ``begin`` to ``final`` at step ``end``.

    Args:
        step: number of the outer step.
        begin: the last step that has ``first``.
        end: the first step that has ``final``.
        first: value at ``begin`` and before.
        final: value at ``end`` and after.

    >>> [linear(step, 1, 3) for step in range(5)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    if step <= begin:
        return first
    if step >= end:
        return final
    return first + (final - first) * (step - begin) / (end - begin)


def cosine(step: int, begin: int, end: int, *, first: float = 1.0, final: float = 0.0) -> float:
    """A number that goes by half a cosine from ``first`` at step ``begin`` to ``final`` at step ``end``.

    v(s) = final + (first - final) · (1 + cos(π (s - begin) / (end - begin))) / 2: Loshchilov and Hutter 2017,
    equation 5, without restarts.

    Args:
        step: number of the outer step.
        begin: the last step that has ``first``.
        end: the first step that has ``final``.
        first: value at ``begin`` and before.
        final: value at ``end`` and after.

    >>> [round(cosine(step, 0, 4, final=0.2), 6) for step in range(6)]
    [1.0, 0.882843, 0.6, 0.317157, 0.2, 0.2]
    """
    if step <= begin:
        return first
    if step >= end:
        return final
    return final + (first - final) * (0.5 * (1 + math.cos(math.pi * (step - begin) / (end - begin))))


def staircase(step: int, at: Sequence[int], *, factor: float) -> float:
    """``factor`` to the power of the number of stairs at or before a step.

    Args:
        step: number of the outer step.
        at: steps from each of which on the number is ``factor`` times what it was.
        factor: ratio of two stairs.

    >>> [staircase(step, [2, 3], factor=0.5) for step in range(5)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    return float(factor ** sum(step >= stair for stair in at))


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """The step size of an outer step as a share of its full value.

    In the warm-up of w steps the shares are 1/(w + 1), …, w/(w + 1); step number w is the first of full size.

    Attributes:
        warmup: number w of steps of the warm-up.
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the one that is out of range.
        """
        if self.warmup < 0:
            raise ValueError(f"warmup: expected 0 or more outer steps, received {self.warmup}")

    def share(self, step: int, total: int) -> float:
        """The share of outer step number ``step``.

        Args:
            step: number of the outer step.
            total: outer steps of the training, for schedules that span it.
        """
        return (step + 1) / (self.warmup + 1) if step < self.warmup else self.warm_share(step, total)

    @abstractmethod
    def warm_share(self, step: int, total: int) -> float:
        """The share of a step that is not of the warm-up.

        Args:
            step: number of the outer step.
            total: outer steps of the training.
        """

    def require_room(self, total: int) -> None:
        """Raise an error if the warm-up takes as long as the training.

        Args:
            total: outer steps of the training.

        Raises:
            ValueError: naming the key.
        """
        if self.warmup >= total:
            raise ValueError(f"warmup: expected fewer than the {total} outer steps there are, received {self.warmup}")


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The full step size from the warm-up on.

    >>> [Constant(warmup=3).share(step, 10) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def warm_share(self, step: int, total: int) -> float:
        """One.

        Args:
            step: number of the outer step.
            total: outer steps of the training.
        """
        del step, total
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Staircase(Schedule):
    """``factor`` times the step size from each of some outer steps on.

    Attributes:
        at: these steps, increasing; steps of the training, the warm-up included.
        factor: ratio of a stair to the one before.

    >>> [Staircase(at=(2, 3)).share(step, 10) for step in range(4)]
    [1.0, 1.0, 0.1, 0.010000000000000002]
    """

    at: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the one that is out of range.
        """
        super().__post_init__()
        if not self.at or list(self.at) != sorted(set(self.at)) or self.at[0] <= self.warmup:
            raise ValueError(f"at: expected increasing outer steps after the warm-up, received {list(self.at)}")
        if self.factor <= 0:
            raise ValueError(f"factor: expected a number above 0, received {self.factor:g}")

    def warm_share(self, step: int, total: int) -> float:
        """The stair's share.

        Args:
            step: number of the outer step.
            total: outer steps of the training.
        """
        del total
        return staircase(step, self.at, factor=self.factor)


@dataclass(frozen=True, kw_only=True)
class Fading(Schedule):
    """A step size that goes from full after the warm-up to a share of it at the end.

    Attributes:
        final: the share at the end and after.
        steps: outer steps from the first one to the end, the warm-up included; ``None``: those of the training.
    """

    final: float = 0.0
    steps: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the one that is out of range.
        """
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ValueError(f"final: expected a share from 0 to 1, received {self.final:g}")
        if self.steps is not None and self.steps <= self.warmup:
            raise ValueError(f"steps: expected more than those of the warm-up ({self.warmup}), received {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Linear(Fading):
    """A straight line from full to ``final``.

    >>> [Linear(warmup=1, final=0.5).share(step, 5) for step in range(6)]
    [0.5, 1.0, 0.875, 0.75, 0.625, 0.5]
    """

    def warm_share(self, step: int, total: int) -> float:
        """The share on the line; see :func:`linear`.

        Args:
            step: number of the outer step.
            total: outer steps of the training.
        """
        return linear(step, self.warmup, self.steps or total, final=self.final)


@dataclass(frozen=True, kw_only=True)
class Cosine(Fading):
    """Half a cosine from full to ``final``.

    >>> [round(Cosine(steps=2).share(step, 100), 6) for step in range(4)]
    [1.0, 0.5, 0.0, 0.0]
    """

    def warm_share(self, step: int, total: int) -> float:
        """The share on the curve; see :func:`cosine`.

        Args:
            step: number of the outer step.
            total: outer steps of the training.
        """
        return cosine(step, self.warmup, self.steps or total, final=self.final)

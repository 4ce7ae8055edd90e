"""Means over tasks and their intervals: the one place where a half-width is computed.

T tasks; K kinds of task, where a family has few.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Values = NDArray[np.floating[Any]]

TAIL = 0.025  # probability on either side of a 95 % interval
MANY = 99  # degrees of freedom from which on Student's t is taken as normal: those of 100 tasks
NORMAL = 1.96  # the normal quantile at 1 - TAIL
INTERVAL = "t·s/√n, t of Student's distribution below 100 tasks and 1.96 from there on"  # as pages explain ±


@dataclass(frozen=True, kw_only=True, eq=False)
class Kinds:
    """The kinds of T tasks, of a family whose tasks are of few kinds.

    Attributes:
        names: the K kinds, each once.
        weights: the probability of each kind under the family, [K].
        of: number of each task's kind, [T].
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    of: NDArray[np.int64]

    @classmethod
    def among(cls, kinds: Sequence[str], tasks: Sequence[str]) -> "Kinds":
        """The kinds of T tasks. Elements of ``kinds`` are equally likely: a name that stands there twice counts twice.

        Args:
            kinds: names of the kinds, as in a family's spec.
            tasks: the name of each task's kind, T of them.
        """
        counts = Counter(kinds)
        names = tuple(counts)
        return cls(
            names=names,
            weights=tuple(count / len(kinds) for count in counts.values()),
            of=np.array([names.index(task) for task in tasks], dtype=np.int64),
        )

    def rows(self, name: str) -> NDArray[np.bool_]:
        """Mask of the tasks of one kind, [T]."""
        return np.asarray(self.of == self.names.index(name))

    def where(self, mask: NDArray[np.bool_]) -> "Kinds":
        """The kinds of some of the tasks.

        Args:
            mask: of the tasks, [T].
        """
        return Kinds(names=self.names, weights=self.weights, of=self.of[mask])

    @property
    def task_weights(self) -> NDArray[np.float64]:
        """The weight of each task in the mean over kinds, [T], in all 1; a kind without a task has none."""
        counts = np.bincount(self.of, minlength=len(self.names))
        weights = np.asarray(self.weights)[self.of] / counts[self.of]
        return np.asarray(weights / weights.sum())


class Estimate(NamedTuple):
    """A mean over tasks, the variance of that mean (None where too few tasks give one), degrees of freedom."""

    mean: float
    variance: float | None
    degrees: float

    def half_width(self, comparisons: int = 1) -> float | None:
        """Half-width of the 95 % interval, null if there is no variance, as with one task.

        Args:
            comparisons: number of intervals that are to hold at once: the probability to miss is divided among them
                (Bonferroni).

        >>> Estimate(0.0, 1.0, 9).half_width()
        2.262...
        >>> Estimate(0.0, 1.0, 99).half_width()
        1.96
        >>> Estimate(0.0, None, 0).half_width() is None
        True
        """
        if self.variance is None:
            return None
        return quantile(self.degrees, TAIL / comparisons) * float(np.sqrt(self.variance))


@cache
def quantile(degrees: float, tail: float) -> float:
    """Number of standard errors that a mean exceeds by chance with probability ``tail``.

    Args:
        degrees: degrees of freedom of Student's distribution.
        tail: probability on one side.
    """
    if degrees < MANY:
        return float(-stdtrit(degrees, tail))
    return NORMAL if tail == TAIL else float(-ndtri(tail))


def estimate(values: Values, kinds: Kinds | None = None) -> Estimate:
    """The mean of values [T] and its variance: s²/n, or with kinds Σ w_k² s_k²/n_k around Σ w_k mean_k.

    With kinds the mean is the family's whatever share of the tasks happens to be of which kind. The degrees of freedom
    of a sum are Satterthwaite's (1946).

    Args:
        values: finite scores, [T].
        kinds: of the T tasks, None where the family has none.
    """
    if kinds is None:
        return _alone(values)
    strata = [(weight, values[kinds.of == number]) for number, weight in enumerate(kinds.weights)]
    present = [(weight, part) for weight, part in strata if len(part)]
    total = sum(weight for weight, _ in present)
    parts = [(weight / total, _alone(part)) for weight, part in present]
    mean = sum(weight * part.mean for weight, part in parts)
    if len(present) < len(strata):
        return Estimate(mean, None, 0.0)  # nothing is known of the kind that is missing
    return _combined(mean, [(weight, part) for weight, part in parts])


def contrast(
    better: Values, worse: Values, *, paired: bool, kinds: tuple[Kinds | None, Kinds | None] = (None, None)
) -> Estimate:
    """The difference of two means over finite values [T], task by task where they are paired.

    Args:
        better: scores [T].
        worse: scores that are subtracted, [T].
        paired: whether both are of the same tasks.
        kinds: of the tasks of either.
    """
    if paired:
        return estimate(better - worse, kinds[0])
    one, other = estimate(better, kinds[0]), estimate(worse, kinds[1])
    return _combined(one.mean - other.mean, [(1.0, one), (1.0, other)])


def _alone(values: Values) -> Estimate:
    count = len(values)
    variance = float(values.var(ddof=1)) / count if count > 1 else None
    return Estimate(float(values.mean()), variance, count - 1.0)


def _combined(mean: float, parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """The estimate of a weighted sum of independent means."""
    terms = [(weight**2 * part.variance, part.degrees) for weight, part in parts if part.variance is not None]
    if len(terms) < len(parts):
        return Estimate(mean, None, 0.0)
    variance = sum(term for term, _ in terms)
    least = min(degrees for _, degrees in terms)
    if variance == 0:
        return Estimate(mean, 0.0, least)
    shares = sum((term / variance) ** 2 / degrees for term, degrees in terms)
    return Estimate(mean, variance, max(1.0 / shares, least))

"""Axes of a search as places from 0 to 1, and the ticks on them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from cluster.reports.figures.searches import Axis, Kind, Trial, plain, shortened
from cluster.reports.figures.style import Array

FEW_DECADES = 1.5  # below which a logarithmic axis has ticks at 2 and 5 as well
MARGIN = 0.02  # of an axis beyond its ends, for the tolerance of ticks


class Ruler(NamedTuple):
    """Positions of settings between the ends of an axis.

    Attributes:
        low, high: the ends, in logarithms where ``kind`` is ``log``; positions of the first and the last category.
        labels: the categories, as YAML.
    """

    key: str
    kind: str
    low: float
    high: float
    labels: tuple[str, ...]

    def number(self, value: Any) -> float:
        """The value on the axis before it is scaled; NaN where it has no place."""
        if self.kind == "categories":
            return float(self.labels.index(plain(value))) if plain(value) in self.labels else math.nan
        if not is_number(value) or (self.kind == "log" and value <= 0):
            return math.nan
        return math.log10(value) if self.kind == "log" else float(value)

    def places(self, trials: Sequence[Trial]) -> Array:
        """From 0 to 1, one for each trial; NaN for one that lacks the key."""
        values = [self.number(trial.values[self.key]) if self.key in trial.values else math.nan for trial in trials]
        return self._unit(np.array(values, dtype=np.float64))

    @property
    def subs(self) -> tuple[float, ...]:
        """Multiples of powers of ten at which a logarithmic axis has ticks."""
        return (1.0, 2.0, 5.0) if self.high - self.low < FEW_DECADES else (1.0,)

    def ticks(self) -> list[tuple[float, str]]:
        """Places of ticks and their labels."""
        if self.kind == "categories":
            return [(float(self._unit(np.array(float(at)))), shortened(label)) for at, label in enumerate(self.labels)]
        if self.kind == "log":
            values = LogLocator(subs=self.subs, numticks=9).tick_values(10**self.low, 10**self.high)
        else:
            values = MaxNLocator(6, integer=self.kind == "integer").tick_values(self.low, self.high)
        worded = [(float(self._unit(np.array(self.number(float(value))))), f"{value:.4g}") for value in values]
        return [(at, words) for at, words in worded if -MARGIN <= at <= 1 + MARGIN]

    def _unit(self, values: Array) -> Array:
        if self.low == self.high:
            return np.where(np.isfinite(values), 0.5, math.nan)
        return np.asarray((values - self.low) / (self.high - self.low))


def ruler(axis: Axis, trials: Sequence[Trial]) -> Ruler:
    """The ruler of an axis, as long as the axis's space, and longer where a trial lies outside of it.

    Args:
        axis: a searched key with its space.
        trials: of the search.
    """
    values = [trial.values[axis.key] for trial in trials if axis.key in trial.values]
    if axis.kind == "categories":
        labels = tuple(dict.fromkeys(plain(value) for value in [*axis.choices, *values]))
        return Ruler(axis.key, axis.kind, 0.0, float(max(len(labels) - 1, 0)), labels)
    endless = Ruler(axis.key, axis.kind, 0.0, 1.0, ())
    numbers = [number for value in [axis.low, axis.high, *values] if math.isfinite(number := endless.number(value))]
    return endless._replace(low=min(numbers, default=0.0), high=max(numbers, default=1.0))


def numeric(axis: Axis) -> Axis | None:
    """An axis of numbers: the axis itself, or categories that are numbers, such as those of a grid; or None."""
    if axis.kind != "categories":
        return axis
    numbers = sorted({choice for choice in axis.choices if is_number(choice)})
    if len(numbers) < 2 or len(numbers) != len(axis.choices):
        return None
    low, high = numbers[0], numbers[-1]
    kind: Kind = (
        "log" if low > 0 and high >= 10 * low else "integer" if all(isinstance(n, int) for n in numbers) else "linear"
    )
    return Axis(key=axis.key, kind=kind, low=low, high=high)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

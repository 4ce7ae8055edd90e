"""Mean, interval, median and diverged tasks of a table of scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.evaluation.intervals import Kinds, estimate
from meta.objectives import Score, is_diverged

Scores = NDArray[np.float64]


def interval(scores: Scores, kinds: Kinds | None = None) -> dict[str, float | None]:
    """Mean over tasks and half-width of its 95 % interval; null where a score is not finite.

    One task alone, or one alone of a kind, has a mean but no interval: ``ci95`` is null.

    Args:
        scores: [T].
        kinds: of the T tasks.

    >>> interval(np.array([1.0, 3.0]))
    {'mean': 2.0, 'ci95': 12.706...}
    >>> interval(np.array([1.0]))
    {'mean': 1.0, 'ci95': None}
    """
    if not np.isfinite(scores).all():
        return {"mean": None, "ci95": None}
    mean = estimate(scores, kinds)
    return {"mean": mean.mean, "ci95": mean.half_width()}


def summary(
    scores: Scores,
    steps: Sequence[int],
    objective: Score,
    *,
    kinds: Kinds | None = None,
    shown: Sequence[int] | None = None,
) -> dict[str, dict[str, Any]]:
    """Mean, half-width of the 95 % interval, median and diverged tasks for each number of inner steps.

    Mean, median and interval are over all tasks, weighted by kind where there are kinds; where a task's score is not
    finite mean and interval are null and the count of diverged tasks says why.

    Args:
        scores: [T, K].
        steps: the K numbers of inner steps.
        objective: what was scored.
        kinds: of the tasks.
        shown: the numbers of inner steps to give rows for, by default all.

    >>> from meta.objectives import MSE
    >>> summary(np.array([[4.0, 1.0], [4.0, 3.0]]), [0, 5], MSE, shown=[5])["5"]["mean"]
    2.0
    """
    diverged = diverged_tasks(scores, steps, objective)
    rows = {}
    for number in steps if shown is None else shown:
        column = list(steps).index(number)
        values = scores[:, column]
        median = _median(values, kinds)
        rows[str(number)] = {
            **interval(values, kinds),
            "median": median if np.isfinite(median) else None,
            "diverged": int(diverged[:, column].sum()),
        }
    return rows


def diverged_tasks(scores: Scores, steps: Sequence[int], objective: Score) -> NDArray[np.bool_]:
    """Mask of diverged tasks, [T, K]; see :func:`meta.objectives.is_diverged`.

    Without a column for 0 inner steps only tasks whose score is not finite count.

    Args:
        scores: [T, K].
        steps: the K numbers of inner steps.
        objective: what was scored.
    """
    if 0 not in steps:
        return np.asarray(~np.isfinite(scores))
    before = torch.from_numpy(scores[:, list(steps).index(0)])
    return np.asarray(is_diverged(torch.from_numpy(scores), objective, before=before).numpy())


def _median(values: Scores, kinds: Kinds | None) -> float:
    """The median, of tasks weighted by kind where there are kinds; NaN if a value is."""
    if kinds is None or np.isnan(values).any():
        return float("nan") if np.isnan(values).any() else float(np.median(values))
    order = np.argsort(values)
    reached = np.cumsum(kinds.task_weights[order])
    low = int(np.searchsorted(reached, 0.5 - 1e-9))
    high = int(np.searchsorted(reached, 0.5 + 1e-9))
    return float((values[order[low]] + values[order[min(high, len(values) - 1)]]) / 2)

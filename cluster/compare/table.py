"""The arithmetic of a comparison's table: means over seeds and tasks, intervals over either, paired differences.

S seeds; T test tasks, the same for every row and seed; K numbers of inner steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.evaluation.intervals import Estimate, Kinds, estimate
from cluster.evaluation.summary import Scores, diverged_tasks, summary
from meta.objectives import Score


def row_figures(
    scores: Sequence[Scores], steps: Sequence[int], objective: Score, kinds: Kinds | None, shown: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Mean over seeds and tasks by number of inner steps, with the interval over tasks and the one over seeds.

    ``ci95`` is over tasks: of each task the mean over seeds counts. ``ci95_seeds`` is over seeds: of each seed the mean
    over tasks counts; it is null for one seed. ``median`` is that of the tasks' means, ``diverged`` a sum over seeds.

    Args:
        scores: [T, K] of each of S seeds.
        steps: the K numbers of inner steps.
        objective: what was scored.
        kinds: of the T tasks, None where the family has none.
        shown: the numbers of inner steps to give rows for.
    """
    averaged = np.mean(scores, axis=0)
    rows = summary(averaged, steps, objective, kinds=kinds, shown=shown)
    for number in shown:
        column = list(steps).index(number)
        diverged = sum(int(diverged_tasks(one, steps, objective)[:, column].sum()) for one in scores)
        seeds = over_seeds([one[:, column] for one in scores], kinds)
        rows[str(number)] |= {"ci95_seeds": None if seeds is None else seeds.half_width(), "diverged": diverged}
    return rows


def over_seeds(scores: Sequence[Scores], kinds: Kinds | None) -> Estimate | None:
    """The mean over S seeds of the mean over tasks, and its variance among seeds; None if a score is not finite.

    Args:
        scores: [T] of each seed.
        kinds: of the T tasks.
    """
    if not all(np.isfinite(one).all() for one in scores):
        return None
    return estimate(np.array([estimate(one, kinds).mean for one in scores]))


def advantage(
    row: Sequence[Scores],
    first: Sequence[Scores],
    *,
    higher_is_better: bool,
    kinds: Kinds | None = None,
    comparisons: int = 1,
) -> dict[str, Any] | None:
    """The advantage of a row over the first one, seed by seed and task by task; positive is better.

    The difference of a task is the mean over seeds, that of a seed the mean over tasks. ``corrected`` and
    ``corrected_seeds`` are half-widths with which the intervals of all differences to the first row hold at once
    (Bonferroni); the advantage is ``sure`` if it is further from zero than either: other tasks, and other seeds, would
    most likely show its sign too.

    Args:
        row: scores [T] of each of S seeds.
        first: scores [T] of the first row from the same seeds.
        higher_is_better: whether a larger score is a better one.
        kinds: of the T tasks.
        comparisons: number of rows that are compared with the first.

    Returns:
        None if a score is not finite.

    >>> ones = np.ones(4)
    >>> advantage([ones + 1, ones + 3], [ones, ones], higher_is_better=True)["mean"]
    2.0
    """
    sign = 1.0 if higher_is_better else -1.0
    differences = [sign * (one - other) for one, other in zip(row, first, strict=True)]
    seeds = over_seeds(differences, kinds)
    if seeds is None:
        return None
    tasks = estimate(np.mean(differences, axis=0), kinds)
    corrected = [one.half_width(comparisons) for one in (tasks, seeds)]
    return {
        "mean": tasks.mean,
        "ci95": tasks.half_width(),
        "ci95_seeds": seeds.half_width(),
        "corrected": corrected[0],
        "corrected_seeds": corrected[1],
        "comparisons": comparisons,
        "sure": all(half is not None and abs(tasks.mean) > half for half in corrected),
    }


def row_usage(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Cost of the runs of a row: mean outer steps and seconds, the largest peak of memory, the size of θ.

    Args:
        outcomes: of the seeds.
    """
    return {
        "steps": round(float(np.mean([one["steps"] for one in outcomes]))),
        "seconds": float(np.mean([one["seconds"] for one in outcomes])),
        "peak_memory_mb": max(one["peak_memory_mb"] for one in outcomes),
        "parameters": outcomes[0]["parameters"],
    }

"""Scores that an evaluation reports beside the one that selects θ: ``eval.scores``."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.evaluation.intervals import Kinds
from cluster.evaluation.summary import summary
from cluster.setups.build import Setup
from cluster.workers.messages import Reply, ScoresReply

Further = NDArray[np.float64]


def further_table(replies: Iterable[Reply]) -> Further:
    """The further scores of all tasks in order of their index, [T, K, number of scores], float64."""
    parts = {reply.request.shard: reply.further for reply in replies if isinstance(reply, ScoresReply)}
    return np.concatenate([parts[shard].astype(np.float64) for shard in sorted(parts)])


def further_figures(
    setup: Setup, scores: Further, steps: Sequence[int], *, kinds: Kinds | None, shown: Sequence[int]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows by name of the score and number of inner steps, as those of the selecting score.

    A score that a task's own targets leave undefined, AUROC of one class for one, is left out of mean, median and
    interval, and counted: ``undefined``.

    Args:
        setup: names the scores.
        scores: [T, K, number of scores]; NaN where undefined, infinite where outputs are not finite.
        steps: the K numbers of inner steps.
        kinds: of the T tasks.
        shown: the numbers of inner steps to give rows for.
    """
    figures = {}
    for position, score in enumerate(getattr(setup, "scores", ())):
        table = scores[:, :, position]
        defined = np.asarray(~np.isnan(table).any(axis=1))
        of_defined = None if kinds is None else kinds.where(defined)
        rows = summary(table[defined], steps, score, kinds=of_defined, shown=shown) if defined.any() else _none(shown)
        figures[score.metric] = {number: row | {"undefined": int((~defined).sum())} for number, row in rows.items()}
    return figures


def _none(shown: Sequence[int]) -> dict[str, dict[str, Any]]:
    """The rows of a score that no task defines."""
    return {str(number): {"mean": None, "ci95": None, "median": None, "diverged": 0} for number in shown}

"""Conversion of a comparison's result to its picture and its page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compare.clock import seconds_at
from cluster.compare.result import Result
from cluster.evaluation.protocol import conditions
from cluster.reports.compare_page import draw_comparison, write_compare_page
from cluster.reports.figures.compared import Compared, Curve, Mean, Row
from cluster.reports.figures.searches import setting
from cluster.reports.html import interval
from cluster.runs.folder import RunFolder
from cluster.runs.metrics import records
from cluster.search.trials import scores


def draw(result: Result) -> None:
    """Draw the picture of a comparison and write its page; the picture's path is added to the result."""
    drawn, folder = compared(result), result.folder
    figure = draw_comparison(drawn, folder.path / "figures")
    evaluation = next(row["evaluation"] for row in result.rows if row["evaluation"] is not None)
    facts = {
        "budget of a run": str(result.comparison.settings.budget),
        "seeds": ", ".join(map(str, result.comparison.seeds)),
        "protocol": ", ".join(conditions(evaluation)),
        "machine": folder.info["hardware"],
        "folder": str(folder.path),
    }
    write_compare_page(
        drawn,
        folder.path,
        figure,
        name=folder.info["name"],
        usage=[row | {"changes": changes_in_words(row["changes"])} for row in result.rows],
        runs=[_run(row["name"], run, drawn.metric) for row in result.rows for run in row["runs"]],
        facts=facts,
        warnings=result.warnings,
    )
    result.figures.append(figure)


def compared(result: Result) -> Compared:
    """The result as figures take it: curves of the runs, scores and differences of the rows."""
    seconds = result.comparison.settings.budget.seconds is not None
    return Compared(
        rows=[
            Row(
                name=row["name"],
                curves=_curves(result, row, seconds=seconds),
                score=_score(row),
                advantage=_mean(row["difference"]),
                sure=row["difference"] is not None and row["difference"]["sure"],
            )
            for row in result.rows
        ],
        metric=result.objective.metric,
        higher_is_better=result.objective.higher_is_better,
        axis="seconds of training" if seconds else "outer step",
        seeds=len(result.comparison.seeds),
        tasks=result.comparison.base.eval.tasks,
    )


def changes_in_words(changes: Mapping[str, Any]) -> str:
    """A row's changes by key, in a line.

    >>> changes_in_words({"algorithm": "fomaml", "inner.lr": 0.02})
    'algorithm fomaml, inner.lr 0.02'
    """
    return ", ".join(f"{key} {setting(value)}" for key, value in changes.items()) or "none"


def _score(row: Mapping[str, Any]) -> Mean:
    evaluation = row["evaluation"]
    mean = None if evaluation is None else _mean(evaluation["steps"][str(row["inner_steps"])])
    return mean or Mean(None, None, None)


def _mean(figures: Mapping[str, Any] | None) -> Mean | None:
    return None if figures is None else Mean(figures["mean"], figures["ci95"], figures["ci95_seeds"])


def _curves(result: Result, row: Mapping[str, Any], *, seconds: bool) -> list[Curve]:
    """Validation scores of a row's runs, without those that are not finite."""
    curves = []
    for run in row["runs"]:
        folder, metric = RunFolder(Path(run["run_dir"])), result.comparison.metric(run | {"row": row["name"]})
        # A run that was killed under a budget of seconds may have been further than where it ended.
        history = [one for one in scores(folder, metric) if one[1] is not None and one[0] <= run["steps"]]
        if history:
            steps, values = np.array(history, dtype=np.float64).T
            curves.append(Curve(seconds_at(records(folder.metrics_path), steps) if seconds else steps, values))
    return curves


def _run(row: str, run: Mapping[str, Any], metric: str) -> list[str]:
    score = "–" if run["mean"] is None else interval(run, metric)
    seconds = "–" if run["seconds"] is None else f"{run['seconds']:,.1f}"
    return [row, str(run["seed"]), run["status"], score, f"{run['steps']:,d}", seconds, run["run_dir"]]

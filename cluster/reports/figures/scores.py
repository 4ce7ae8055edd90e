"""Scores of a run: learning curves against outer steps, adaptation against inner steps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cluster.errors import MetarayError
from cluster.evaluation.protocol import conditions, is_rl
from cluster.reports.figures.style import (
    STYLE,
    Array,
    Record,
    dress,
    floats,
    legend,
    line_look,
    logarithmic,
    new_figure,
    score_axis,
    shades,
)

Scores = dict[int, tuple[str, Array, Array]]  # by number of inner steps: metric, outer steps, values


class Line(NamedTuple):
    """A curve of the training."""

    label: str
    look: dict[str, Any]
    steps: Array
    values: Array


BEFORE: dict[str, Any] = {"linestyle": (0, (1, 1)), "linewidth": 1.3, "alpha": 0.75}  # beside the look of its learner
SMALL: dict[str, Any] = {"fontsize": STYLE["text"] - 1, "color": STYLE["ink"]}
MOST_LABELS = 6  # points of one line that have their numbers beside them
MOST_STEPS = 11  # lines in one validation panel
FEW, DENSE = 20, 100  # records below which each is marked, above which their running mean is drawn over them


def learning_curves(series: Mapping[str, Sequence[Record]], best: Mapping[str, int] | None = None) -> Figure:
    """Training loss or return, and beside it one panel per label with the validation score by number of inner steps.

    Returns are those before and after adaptation; where there are any, losses are surrogates that say nothing.

    Args:
        series: label -> records of ``metrics.jsonl``; more than 100 lie faint under their running mean.
        best: label -> outer step of the checkpoint that validation chose, marked where it is given.

    Raises:
        MetarayError: if no record holds ``train/loss``, ``train/return`` or a validation score.
    """
    name, trained = _trained(series)
    scores = {label: curves for label, records in series.items() if (curves := _validation(records))}
    count = bool(trained) + len(scores)
    if not count:
        raise MetarayError(
            "learning curves: expected records with train/loss, train/return or val/<metric>_<inner steps>, received "
            "none; train for at least tracking.every steps"
        )
    columns = 2 if count in (2, 4) else min(count, 3)
    rows = -(-count // columns)
    figure = new_figure(STYLE["width"] if count > 1 else 5.5, 3.1 * rows + 0.3)
    panels = [figure.add_subplot(rows, columns, 1 + position) for position in range(count)]
    if trained:
        axes = panels.pop(0)
        _training_panel(axes, trained, name)
        if len(trained) > 1:
            legend(figure, axes, "outside lower center", ncols=4 if count > 1 else 2)
    if scores:
        _score_panels(panels, scores, best or {})
        fullest = max(panels, key=lambda axes: len(axes.lines))
        legend(figure, fullest, "outside right center", title="inner\nsteps")
    return figure


def adaptation(evaluation: Mapping[str, Any], label: str) -> Figure:
    """Figure of the score against inner steps with its 95 % interval, of this run and of its baselines.

    Args:
        evaluation: as in ``evaluation.json``.
        label: name of this run.
    """
    figure = new_figure(6.6, 4.1)
    axes = figure.add_subplot()
    metric = evaluation["metric"]
    for position, (name, scores) in enumerate(learners(evaluation, label)):
        numbers = sorted(scores, key=int)
        x = np.array([int(number) for number in numbers], dtype=np.float64)
        mean = floats(scores[number]["mean"] for number in numbers)
        half = floats(scores[number]["ci95"] for number in numbers)
        look = line_look(position)
        axes.plot(x, mean, label=name, marker=STYLE["markers"][position % 6], markersize=5, **look)
        axes.fill_between(x, mean - half, mean + half, color=look["color"], alpha=0.18, linewidth=0)
    tasks = f"{evaluation['tasks']} {evaluation['split']} tasks"
    dress(axes, title=f"Adaptation to {tasks}", x="inner steps", y=metric)
    if metric == "accuracy" or is_rl(evaluation):
        _state(axes, evaluation)
    if metric == "accuracy":
        _accuracy_axis(axes, evaluation)
    score_axis([axes], metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(evaluation["steps"]) <= MOST_STEPS:
        axes.set_xticks(sorted(int(number) for number in evaluation["steps"]))
    legend(figure, axes, "outside lower center", ncols=4)
    return figure


def _state(axes: Axes, evaluation: Mapping[str, Any]) -> None:
    """Under the title what such numbers have to be read with."""
    _, *stated = conditions(evaluation)
    axes.set_title(f"{axes.get_title(loc='left')}\n", loc="left", fontsize=STYLE["title"], color=STYLE["ink"])
    axes.annotate(", ".join(stated), (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", **SMALL)


def _accuracy_axis(axes: Axes, evaluation: Mapping[str, Any]) -> None:
    """The numbers at this run's points, and chance as a line."""
    if evaluation.get("way"):
        chance = 1 / evaluation["way"]
        axes.axhline(chance, color=STYLE["frame"], linestyle=(0, (1, 3)), linewidth=1.4, label="chance", zorder=1)
    axes.margins(y=0.12)
    scores = evaluation["steps"]
    shown = sorted((number for number in scores if scores[number]["mean"] is not None), key=int)
    means = [scores[number]["mean"] for number in shown]
    for place, mean in list(enumerate(means))[0 if len(means) <= MOST_LABELS else -1 :]:
        # Away from the line where it climbs from here.
        below = place + 1 < len(means) and means[place + 1] - mean > 0.1 * (max(means) - min(means))
        where: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "top" if below else "bottom"}
        axes.annotate(f"{100 * mean:.1f}", (int(shown[place]), mean), (0, -6 if below else 6), **where, **SMALL)


def curve(records: Sequence[Record], key: str) -> tuple[Array, Array]:
    """Steps and values of one metric in order of steps, [N] each; the last record of a step counts.

    What is not finite becomes NaN, a gap in the line.

    Args:
        records: lines of ``metrics.jsonl``.
        key: name of the metric.

    >>> records = [{"step": 2, "values": {"a": 1.0}}, {"step": 1, "values": {"a": None, "b": 2.0}}]
    >>> curve(records, "a")
    (array([1., 2.]), array([nan,  1.]))
    """
    values = {record["step"]: record["values"][key] for record in records if key in record["values"]}
    return np.array(sorted(values), dtype=np.float64), floats(values[step] for step in sorted(values))


def learners(evaluation: Mapping[str, Any], label: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and scores by number of inner steps of this run, of its other parameters and of each baseline.

    Args:
        evaluation: as in ``evaluation.json``.
        label: name of this run.
    """
    others = {**evaluation.get("beside", {}), **evaluation.get("baselines", {})}
    return [(label, evaluation["steps"]), *others.items()]


def _validation(records: Sequence[Record]) -> Scores:
    """The curves under keys ``val/<metric>_<inner steps>``."""
    curves = {}
    for key in {key for record in records for key in record["values"]}:
        metric, _, number = key.removeprefix("val/").rpartition("_")
        if key.startswith("val/") and metric and number.isdecimal():
            curves[int(number)] = (metric, *curve(records, key))
    return dict(sorted(curves.items()))


def _trained(series: Mapping[str, Sequence[Record]]) -> tuple[str, list[Line]]:
    """Name and curves of the training metric: losses, or returns, with those before adaptation where there is any."""
    returns = any("train/return" in record["values"] for records in series.values() for record in records)
    name = "return" if returns else "loss"
    lines = []
    for position, (label, records) in enumerate(series.items()):
        before, look = curve(records, "train/return_before"), line_look(position)
        adapts = len(before[0]) > 0
        lines.append(Line(f"{label}, before adaptation", look | BEFORE, *before))
        lines.append(Line(f"{label}, adapted" if adapts else label, look, *curve(records, f"train/{name}")))
    return name, [line for line in lines if len(line.steps)]


def _training_panel(axes: Axes, lines: Sequence[Line], name: str) -> None:
    for label, look, steps, values in lines:
        if len(values) > DENSE:
            window = len(values) // 40
            axes.plot(steps, values, color=look["color"], alpha=0.2, linewidth=0.7, label=f"_{label}", zorder=1)
            values = np.convolve(values, np.full(window, 1 / window), mode="valid")
            steps = steps[(window - 1) // 2 :][: len(values)]
        axes.plot(steps, values, label=label, marker="." if len(values) < FEW else None, **look)
    alone = f", {lines[0].label}" if len(lines) == 1 else ""
    dress(axes, title=f"Training{alone}", x="outer step", y=f"training {name}")
    finite = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    if name == "loss" and len(finite) and finite.min() > 0:
        logarithmic(axes)


def _score_panels(panels: Sequence[Axes], scores: Mapping[str, Scores], best: Mapping[str, int]) -> None:
    numbers = sorted({number for curves in scores.values() for number in curves})
    places = np.linspace(0, len(numbers) - 1, min(len(numbers), MOST_STEPS)).round().astype(int)
    numbers = [numbers[position] for position in places]
    for axes in panels[1:]:
        axes.sharey(panels[0])
    for axes, (label, curves) in zip(panels, scores.items(), strict=True):
        for number, colour in zip(numbers, shades(len(numbers)), strict=True):
            if number in curves:
                _, x, y = curves[number]
                mark = "." if len(x) < FEW else None
                axes.plot(x, y, color=colour, linewidth=1.6, marker=mark, label=str(number))
        if label in best:
            axes.axvline(best[label], color=STYLE["ink"], linestyle=":", linewidth=1.4, label="best", zorder=1)
        metric = next(iter(curves.values()))[0]
        dress(axes, title=f"Validation, {label}", x="outer step", y=metric)
    score_axis(panels, metric)

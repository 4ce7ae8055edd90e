"""The picture of a comparison: validation scores as rows were trained, and what they reach on test tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cluster.reports.figures.style import (
    STYLE,
    WIDE,
    Array,
    decades,
    dress,
    floats,
    legend,
    new_figure,
    percent,
    score_axis,
    widened,
)

GRID = 200  # points of a curve that is the mean of runs validated at different times


class Curve(NamedTuple):
    """Validation scores of one run: positions [N] in increasing order, scores [N]."""

    at: Array
    scores: Array


class Mean(NamedTuple):
    """A mean with the half-widths of its 95 % intervals over tasks and over seeds, None where there is none."""

    mean: float | None
    tasks: float | None
    seeds: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a comparison.

    Attributes:
        name: of the row.
        curves: of its runs, one for each seed; those without a validation are left out.
        score: on test tasks.
        advantage: over the first row, positive where it is better; None for the first and where there is none.
        sure: whether other tasks and other seeds would most likely show the sign of the advantage too.
    """

    name: str
    curves: Sequence[Curve]
    score: Mean
    advantage: Mean | None = None
    sure: bool = False


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison as figures and pages take it.

    Attributes:
        rows: in the order of the file.
        metric: name of the score.
        higher_is_better: whether larger scores are better.
        axis: what curves are drawn over, such as ``outer step``.
        seeds: number of runs of a row.
        tasks: number of test tasks.
    """

    rows: Sequence[Row]
    metric: str
    higher_is_better: bool
    axis: str
    seeds: int
    tasks: int


def comparison(compared: Compared) -> Figure:
    """Validation scores over the training, beside the final scores with their intervals.

    Where no run was validated the figure has the final scores alone.

    Args:
        compared: the comparison.
    """
    curves = any(row.curves for row in compared.rows)
    figure = new_figure(STYLE["width"] if curves else 5.5, max(3.4, 1.7 + 0.34 * len(compared.rows)))
    panels = figure.subplots(1, 2 if curves else 1, squeeze=False, width_ratios=(1.25, 1) if curves else None)[0]
    if curves:
        _training_panel(panels[0], compared)
    _score_panel(panels[-1], compared)
    legend(figure, panels[-1], "outside lower center", ncols=2)
    return figure


def row_look(position: int) -> dict[str, Any]:
    """Colour, dashes and marker of row number ``position``: another set for each of 36."""
    turn = (position + position // 6) % 6
    colour = STYLE["series"][position % 6]
    return {"color": colour, "linestyle": STYLE["dashes"][turn], "marker": STYLE["markers"][turn]}


def mean_curve(curves: Sequence[Curve]) -> tuple[Array, Array, Array, Array]:
    """Positions [N] with the mean, the lowest and the highest score of S runs there, [N] each.

    Runs that were validated at other positions than each other are interpolated linearly where all have scores.

    Args:
        curves: of the S runs, at least one.
    """
    at = curves[0].at
    values = [curve.scores for curve in curves]
    if any(not np.array_equal(curve.at, at) for curve in curves):
        low, high = max(curve.at[0] for curve in curves), min(curve.at[-1] for curve in curves)
        at = np.linspace(low, max(low, high), GRID)
        values = [np.interp(at, curve.at, curve.scores) for curve in curves]
    table = np.stack(values)
    return at, table.mean(axis=0), table.min(axis=0), table.max(axis=0)


def _training_panel(axes: Axes, compared: Compared) -> None:
    for position, row in enumerate(compared.rows):
        if not row.curves:
            continue
        look = row_look(position)
        at, mean, lowest, highest = mean_curve(row.curves)
        mark = {"marker": look["marker"], "markersize": 4} if len(at) < 12 else {"marker": ""}
        axes.plot(at, mean, linewidth=1.7, **(look | mark))
        axes.fill_between(at, lowest, highest, color=look["color"], alpha=0.15, linewidth=0)
    dress(axes, title="Validation while training", x=compared.axis, y=compared.metric)
    score_axis([axes], compared.metric)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=compared.axis == "outer step"))


def _score_panel(axes: Axes, compared: Compared) -> None:
    """One line a row, the first uppermost: the mean, a thick line over tasks, a thin one with caps over seeds."""
    labels = {"tasks": "95 % interval over test tasks", "seeds": f"95 % interval over {compared.seeds} seeds"}
    for position, row in enumerate(compared.rows):
        look, (mean, tasks, seeds) = row_look(position), floats(row.score).tolist()
        if not np.isfinite(mean):
            axes.text(0.02, position, "no score", transform=axes.get_yaxis_transform(), va="center", color=STYLE["ink"])
            continue
        thin = {"color": STYLE["ink"], "elinewidth": 1, "capsize": 4}
        thick = {"color": look["color"], "elinewidth": 4}
        for over, half, line in (("seeds", seeds, thin), ("tasks", tasks, thick)):
            if np.isfinite(half):
                label = labels.pop(over, f"_{over} of {position}")  # explained once
                bar: dict[str, Any] = {"xerr": [half], "linestyle": "none", "zorder": 3, "label": label, **line}
                axes.errorbar([mean], [position], **bar)
        axes.plot([mean], [position], marker=look["marker"], color=look["color"], markeredgecolor="white", zorder=4)
    axes.set_yticks(range(len(compared.rows)), [row.name for row in compared.rows], parse_math=False)
    axes.set_ylim(len(compared.rows) - 0.4, -0.6)
    better = "right" if compared.higher_is_better else "left"
    dress(axes, title=f"{compared.tasks} test tasks (better to the {better})", x=compared.metric, y="")
    axes.grid(visible=False, axis="y")
    _score_range(axes, compared)


def _score_range(axes: Axes, compared: Compared) -> None:
    """Percent for an accuracy; a logarithmic axis for errors that differ much.

    The range is that of the intervals over tasks and a margin: one over few seeds may be far wider, and is cut off.
    """
    means, tasks = (floats(values) for values in zip(*(row.score[:2] for row in compared.rows), strict=True))
    scored = np.isfinite(means)
    if compared.metric == "accuracy":
        percent(axes.xaxis)
    if not scored.any():
        return
    means, halves = means[scored], np.nan_to_num(tasks[scored])
    if compared.metric not in ("accuracy", "return") and 0 < WIDE * means.min() < means.max():
        axes.set_xscale("log", nonpositive="clip")
        decades(axes.xaxis)
        axes.set_xlim(widened(float(means.min()), float(means.max()), 0.2, log=True))
    else:
        axes.set_xlim(widened(float((means - halves).min()), float((means + halves).max()), 0.3))

"""All keys of a search side by side: a line for each trial, through its settings to its score.

Optuna's ``plot_parallel_coordinate`` (5.0) draws completed trials alone, of scores on one linear scale, and every line
through a category in one point. This figure also shows trials that were stopped early or diverged, cuts its logarithmic
scale of errors off at outliers, spreads lines through one category, and marks the best trial and the present setting.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.reports.figures.rulers import Ruler, ruler
from cluster.reports.figures.searches import (
    LOST,
    Axis,
    Scale,
    Searched,
    explain,
    key_of,
    known,
    metric_of,
    scale_of,
    trial_look,
)
from cluster.reports.figures.style import STYLE, Array, new_figure

APART = 1.35  # inches between neighbouring axes, at least
NARROW = 14  # letters above which the title of an axis has two lines
FAN = 0.07  # of an axis over which lines through one category are spread, at most
APART_TICKS = 0.08  # of the axis, between two ticks
DIVERGED_AT = -0.1  # on the axis of scores


def parallel_coordinates(searched: Searched) -> Figure | str:
    """A line for each trial that has a score or diverged, coloured by the former; or why there is none."""
    scale = scale_of(searched)
    ranked = searched.ranked()
    diverged = [trial for trial in searched.trials if trial.status == "diverged"]
    trials = [*diverged, *reversed(ranked)]
    if not searched.axes or not trials:
        return "Parallel coordinates are left out: no trial has a score."
    rulers = [ruler(axis, searched.trials) for axis in searched.axes]
    figure = new_figure(max(STYLE["width"], 1.2 + APART * len(rulers)), 4.8)
    panel = figure.add_subplot()
    panel.set_axis_off()
    panel.set(xlim=(-0.35, len(rulers) + 0.35), ylim=(-0.16, 1.2))
    ends = np.full(len(trials), DIVERGED_AT)
    if scale is not None:
        ends[len(diverged) :] = scale.upwards(known(trial) for trial in reversed(ranked))
    heights = np.stack([_fanned(one, one.places(trials)) for one in rulers] + [ends], axis=1)
    for place, (axis, one) in enumerate(zip(searched.axes, rulers, strict=True)):
        _axis(panel, place, _title(axis), one.ticks())
    _axis(panel, len(rulers), metric_of(searched)[0] + "\n(better upwards)", _score_ticks(scale), right=True)
    if diverged:
        panel.text(len(rulers) + 0.06, DIVERGED_AT, "diverged", va="center", color=LOST, fontsize=STYLE["text"] - 1)
    for trial, line in zip(trials, heights, strict=True):
        marker = "o" if trial.number in (searched.best, searched.base) else None
        look = trial_look(searched, trial, scale)
        panel.plot(range(len(line)), line, marker=marker, markersize=5, clip_on=False, **look)
    explain(figure, panel)
    return figure


def _fanned(one: Ruler, places: Array) -> Array:
    """Places on an axis of few values, spread around each in the order of the lines, so that each line can be seen."""
    if one.kind not in ("categories", "integer"):
        return places
    values = np.unique(places[np.isfinite(places)])
    width = min(FAN, 0.6 * np.diff(values).min()) if len(values) > 1 else FAN
    spread = places.copy()
    for value in values:
        here = np.flatnonzero(places == value)
        if len(here) > 1:
            spread[here] += width * np.linspace(-0.5, 0.5, len(here))
    return spread


def _axis(panel: Axes, x: int, title: str, ticks: Sequence[tuple[float, str]], *, right: bool = False) -> None:
    """An upright axis with its title above and its ticks on one side."""
    panel.plot([x, x], [0, 1], color=STYLE["frame"], linewidth=1.2, zorder=4)
    words: dict[str, Any] = {"color": STYLE["ink"], "parse_math": False, "zorder": 8}
    panel.text(x, 1.06, title, ha="center", va="bottom", fontsize=STYLE["text"], **words)
    side = 1 if right else -1
    back = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    for height, label in ticks:
        panel.plot([x, x + side * 0.025], [height, height], color=STYLE["frame"], linewidth=1.2, zorder=4)
        align = "left" if right else "right"
        size = STYLE["text"] - 1.5
        panel.text(x + side * 0.045, height, label, ha=align, va="center", fontsize=size, bbox=back, **words)


def _title(axis: Axis) -> str:
    """The key of an axis, in two lines if it is long."""
    section, dot, name = key_of(axis).rpartition(".")
    end = "\n" if len(axis.key) > NARROW else ""
    return f"{section}{dot}{end}{name}"


def _score_ticks(scale: Scale | None) -> list[tuple[float, str]]:
    """Ticks on the axis of scores, on which better is upwards."""
    if scale is None:
        return []
    worst = scale.low if scale.higher_is_better else scale.high
    values = [value for value in scale.locator.tick_values(scale.low, scale.high) if scale.low <= value <= scale.high]
    ticks = [(float(place), scale.words(value)) for place, value in zip(scale.upwards(values), values, strict=True)]
    return (
        [(0.0, f"{scale.words(worst)}\nor worse"), *((at, words) for at, words in ticks if at > APART_TICKS)]
        if scale.beyond
        else ticks
    )

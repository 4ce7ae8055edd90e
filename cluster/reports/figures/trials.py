"""Trials of a search one by one: how their scores developed, and what the best few reach on fresh tasks.

Optuna's ``plot_intermediate_values`` (5.0) has a legend with a row for each trial, one colour for all trials after the
twentieth, and linear axes. The curves here are coloured by score, and their axes are logarithmic where values are wide.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cluster.reports.figures.searches import (
    BASE,
    BEST,
    LOST,
    SPREAD,
    Searched,
    Trial,
    colour_bar,
    explain,
    known,
    metric_of,
    robust,
    scale_of,
    settings,
    trial_look,
)
from cluster.reports.figures.style import (
    STYLE,
    Array,
    decades,
    dress,
    floats,
    legend,
    logarithmic,
    new_figure,
    percent,
    widened,
)

ROOM = 0.05  # of the axis of scores beyond each end
EARLY = 8  # the axis of steps is logarithmic where half of the trials end before one part in so many
ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "stopped": ("stopped early", {"marker": "o", "markersize": 4.5, "markeredgecolor": "white", "color": "#444444"}),
    "diverged": ("diverged", {"marker": "x", "markersize": 6, "color": LOST, "markeredgewidth": 1.6}),
    "failed": ("failed", {"marker": "+", "markersize": 7, "color": LOST, "markeredgewidth": 1.6}),
}


def trial_curves(searched: Searched) -> Figure | str:
    """The score of every trial against outer steps, or why there is none."""
    curves = {trial.number: _curve(trial) for trial in searched.trials}
    curves = {number: curve for number, curve in curves.items() if np.isfinite(curve[1]).any()}
    if not curves:
        return "Learning curves of the trials are left out: none has a validation score."
    scale, (_, words) = scale_of(searched), metric_of(searched)
    figure = new_figure(STYLE["width"], 4.6)
    axes = figure.add_subplot()
    for trial in [*(trial for trial in searched.trials if known(trial) is None), *reversed(searched.ranked())]:
        if trial.number in curves:
            steps, values = curves[trial.number]
            mark = "." if len(steps) == 1 else None
            axes.plot(steps, values, marker=mark, **trial_look(searched, trial, scale))
    dress(axes, title="Trials as they were trained", x="outer step", y=words)
    _curve_axes(axes, searched, curves)
    _mark_ends(axes, searched, curves)
    if scale is not None:
        colour_bar(figure, axes, scale, "best score")
    explain(figure, axes)
    return figure


def _curve(trial: Trial) -> tuple[Array, Array]:
    history = dict(trial.history)
    return np.array(sorted(history), dtype=np.float64), floats(history[step] for step in sorted(history))


def _curve_axes(axes: Axes, searched: Searched, curves: Mapping[int, tuple[Array, Array]]) -> None:
    """Logarithmic where values are wide, and limited to where those that got a score mostly are."""
    scored = {trial.number for trial in searched.ranked()} & curves.keys() or set(curves)
    values = np.concatenate([curves[number][1] for number in sorted(scored)])
    values = values[np.isfinite(values)]
    low, high = robust(values, higher_is_better=searched.higher_is_better)
    log = not searched.higher_is_better and 0 < SPREAD * low < high
    if log:
        logarithmic(axes)
    axes.set_ylim(widened(low, high, ROOM, log=log))
    if metric_of(searched)[0] == "accuracy":
        percent(axes.yaxis)
    ends = np.array([steps[-1] for steps, _ in curves.values()])
    if EARLY * np.median(ends) < ends.max() and min(steps[0] for steps, _ in curves.values()) > 0:
        axes.set_xscale("log")
        decades(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _mark_ends(axes: Axes, searched: Searched, curves: Mapping[int, tuple[Array, Array]]) -> None:
    """Mark where trials were stopped, diverged or failed; a mark outside the panel is drawn at its edge."""
    for status, (words, look) in ENDS.items():
        ends = []
        for trial in searched.trials:
            if trial.status == status and trial.number in curves:
                steps, values = curves[trial.number]
                last = np.flatnonzero(np.isfinite(values))[-1]
                ends.append((steps[last], values[last]))
        if ends:
            x, y = np.array(ends).T
            low, high = sorted(axes.get_ylim())
            y = np.clip(y, low, high)
            words = f"{words} ({len(ends)})"
            axes.plot(x, y, linestyle="none", label=words, zorder=7, clip_on=False, **look)


def confirmation(searched: Searched) -> Figure | str:
    """The best few on fresh validation tasks, the best of them uppermost, or why there are none.

    Beside each is the score that the search chose it by.
    """
    name, words = metric_of(searched)
    ranked = searched.confirmed_ranked()
    if not ranked:
        return "The figure of the best few on fresh tasks is left out: none has a score on them."
    rows = np.arange(len(ranked))
    figure = new_figure(STYLE["width"], 1.5 + 0.55 * len(ranked))
    axes = figure.add_subplot()
    for row, (trial, mean, half, *_) in zip(rows, ranked, strict=True):
        number = trial.number
        colour = BEST if number == searched.best else BASE if number == searched.base else STYLE["series"][0]
        look: dict[str, Any] = {"color": colour, "capsize": 4, "elinewidth": 2, "markersize": 8, "linestyle": "none"}
        label = "on fresh validation tasks, with its 95 % interval" if row == 0 else f"_#{number}"
        axes.errorbar([mean], [row], xerr=[half], marker="o", label=label, zorder=4, **look)
        if (chosen_by := known(trial)) is not None:
            label = "in the search, by which it was chosen" if row == 0 else f"_chosen #{number}"
            axes.plot(
                [chosen_by], [row], "D", color="white", markeredgecolor=colour, markersize=6, label=label, zorder=3
            )
    mean, half = ranked[0].mean, ranked[0].half
    axes.axvspan(mean - half, mean + half, color=STYLE["frame"], alpha=0.18, linewidth=0, zorder=1)
    labels = [f"{searched.named(trial)}\n{settings(searched.axes[:3], trial)}" for trial, *_ in ranked]
    axes.set_yticks(rows, labels, parse_math=False)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    dress(axes, title="The best few on fresh validation tasks", x=words, y="")
    axes.grid(visible=False, axis="y")
    if name == "accuracy":
        percent(axes.xaxis)
    legend(figure, axes, "outside lower center", ncols=2)
    return figure

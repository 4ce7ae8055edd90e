"""The landscape of a search: scores over two of its keys, or over the only one that is a number.

Optuna's ``plot_contour`` (5.0) draws completed trials alone, all with the same mark, and fills the whole rectangle with
an interpolated surface, also where other keys were searched. This figure has marks for finished, stopped, diverged and
failed trials, a surface only between neighbouring trials and only where no other key was searched, a scale that
outliers do not stretch, and the line on which scores equal the present setting's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D
from matplotlib.tri import TriAnalyzer, Triangulation

from cluster.reports.figures.rulers import Ruler, numeric, ruler
from cluster.reports.figures.searches import (
    BASE,
    BEST,
    GREEK,
    LOST,
    SMALL,
    Axis,
    Scale,
    Searched,
    Trial,
    colour_bar,
    explain,
    key_of,
    known,
    metric_of,
    scale_of,
    score_ticks,
    settings,
)
from cluster.reports.figures.style import STYLE, Array, decades, dress, new_figure, widened

Points = Mapping[int, tuple[float, float]]  # number of a trial -> where its mark lies, in the units of the axes

ROOM = 0.06  # of an axis beyond each end
REACH = 0.75  # of an axis: longer sides of triangles are not drawn; those of a grid of three by three are shorter
FLAT = 0.01  # ratio of radii below which a triangle at the border is dropped
WORDS, GAP = np.array([0.17, 0.09]), np.array([0.02, 0.02])  # size of a name and its distance, in parts of the panel
LEVELS = 24  # of the surface's colours
PALE = 0.55  # share of white in them, so that the marks stand out
MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "finished": ("finished", {"s": 75, "marker": "o", "edgecolors": STYLE["ink"], "linewidths": 0.9}),
    "running": ("running", {"s": 45, "marker": "D", "edgecolors": STYLE["ink"], "linewidths": 0.6}),
    "stopped": ("stopped early", {"s": 26, "marker": "o", "edgecolors": "white", "linewidths": 0.5}),
    "diverged": ("diverged", {"s": 42, "marker": "x", "color": LOST, "linewidths": 1.8}),
    "failed": ("failed", {"s": 48, "marker": "+", "color": LOST, "linewidths": 1.8}),
}
UNSCORED = "#aaaaaa"  # marks in the legend
LOST_MARKS = ("diverged", "failed")  # those without a score
AS_BASE: dict[str, Any] = {
    "color": BASE,
    "linestyle": (0, (4, 2)),
    "linewidth": 1.4,
    "label": "as good as the present setting",
    "zorder": 2,
}


def landscape(searched: Searched) -> Figure | str:
    """Scores over α and β if both were searched, else over the first two keys that are numbers, or over the only one.

    Returns:
        The figure, or in a sentence why there is none.
    """
    axes = [scaled for axis in searched.axes if (scaled := numeric(axis)) is not None]
    if not axes:
        return "The landscape is left out: no key that was searched is a number."
    if not any(known(trial) is not None or trial.status == "diverged" for trial in searched.trials):
        return "The landscape is left out: no trial has a score."
    steps = [axis for axis in axes if axis.key in GREEK]
    chosen = sorted(steps, key=lambda axis: list(GREEK).index(axis.key)) if len(steps) == 2 else axes[:2]
    figure = new_figure(STYLE["width"], 5.9 if len(chosen) == 2 else 4.6)
    panel = figure.add_subplot()
    _, words = metric_of(searched)
    over = " and ".join(GREEK.get(axis.key, axis.key) for axis in chosen)
    y = key_of(chosen[1]) if len(chosen) == 2 else words
    dress(panel, title=f"{words[0].upper()}{words[1:]} over {over}\n", x=key_of(chosen[0]), y=y)
    panel.annotate(
        _summary(searched, chosen), (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", **SMALL
    )
    (_plane if len(chosen) == 2 else _slice)(figure, panel, searched, chosen)
    explain(figure, panel)
    return figure


def _summary(searched: Searched, axes: Sequence[Axis]) -> str:
    """The best and the present setting in numbers."""
    scale = scale_of(searched)
    parts = []
    for number in dict.fromkeys((searched.best, searched.base)):
        trial = searched.trial(number)
        if trial is not None:
            parts.append(f"{searched.named(trial)}: {_result(trial, scale)} at {settings(axes, trial)}")
    return "; ".join(parts) or "no trial has a score"


def _result(trial: Trial, scale: Scale | None) -> str:
    score = known(trial)
    return trial.status if score is None or scale is None else scale.words(score)


def _plane(figure: Figure, panel: Axes, searched: Searched, axes: Sequence[Axis]) -> None:
    """Marks over two keys, over a surface if no others were searched."""
    scale = scale_of(searched)
    rulers = [ruler(axis, searched.trials) for axis in axes]
    _lay(panel, rulers[0], "x")
    _lay(panel, rulers[1], "y")
    places = np.stack([one.places(searched.trials) for one in rulers], axis=1)
    points = {
        trial.number: (float(trial.values[axes[0].key]), float(trial.values[axes[1].key]))
        for trial, place in zip(searched.trials, places, strict=True)
        if np.isfinite(place).all()
    }
    if scale is not None:
        if len(searched.axes) == 2:
            _surface(panel, searched, scale, rulers)
        colour_bar(figure, panel, scale, metric_of(searched)[1])
    _marks(panel, searched, points, scale)
    _highlight(panel, searched, points, scale)


def _slice(_: Figure, panel: Axes, searched: Searched, axes: Sequence[Axis]) -> None:
    """Scores against one key; those beyond the scale, and trials that diverged, at its worse edge."""
    scale = scale_of(searched)
    one = ruler(axes[0], searched.trials)
    _lay(panel, one, "x")
    panel.set_ylim(0, 1)
    worst, low, high = 1.0, 0.0, 1.0
    if scale is None:
        panel.set_yticks([])
    else:
        if scale.log:
            panel.set_yscale("log")
        low, high = widened(scale.low, scale.high, ROOM, log=scale.log)
        panel.set_ylim(low, high)
        worst = low if scale.higher_is_better else high
        score_ticks(panel, scale)
        if (base := searched.score(searched.base)) is not None:
            panel.axhline(base, **AS_BASE)
    points = {
        trial.number: (float(trial.values[axes[0].key]), worst if score is None else float(np.clip(score, low, high)))
        for trial, place in zip(searched.trials, one.places(searched.trials), strict=True)
        if np.isfinite(place) and ((score := known(trial)) is not None or trial.status in LOST_MARKS)
    }
    _marks(panel, searched, points, scale)
    _highlight(panel, searched, points, scale)


def _lay(panel: Axes, one: Ruler, side: Literal["x", "y"]) -> None:
    """An axis of the panel as a ruler lies, with room at its ends."""
    low, high = widened(one.low, one.high, ROOM)
    axis = panel.xaxis if side == "x" else panel.yaxis
    if one.kind == "log":
        panel.set(**{f"{side}scale": "log"})
        low, high = 10**low, 10**high
    panel.set(**{f"{side}lim": (low, high)})
    if one.kind == "log":
        decades(axis, one.subs)
    elif one.kind == "integer":
        axis.set_major_locator(MaxNLocator(integer=True))


def _marks(panel: Axes, searched: Searched, points: Points, scale: Scale | None) -> None:
    """One mark for each trial, the best uppermost."""
    for status, (words, look) in MARKS.items():
        ranked = reversed(searched.ranked()) if status not in LOST_MARKS else searched.trials
        trials = [trial for trial in ranked if trial.status == status and trial.number in points]
        if trials:
            x, y = np.array([points[trial.number] for trial in trials]).T
            scores = [score for trial in trials if (score := known(trial)) is not None]
            colours: dict[str, Any] = (
                {"c": [scale.colour(score) for score in scores]} if scale and status not in LOST_MARKS else {}
            )
            panel.scatter(x, y, zorder=4, gid=status, clip_on=False, **look, **colours)
            panel.scatter([], [], label=f"{words} ({len(trials)})", **{"color": UNSCORED} | look)


def _surface(panel: Axes, searched: Searched, scale: Scale, rulers: Sequence[Ruler]) -> None:
    """Colours between neighbouring trials, and the line on which scores are the present setting's."""
    heights: dict[tuple[float, float], float] = {}  # of several trials in one place the best counts
    for trial in [*(one for one in searched.trials if one.status == "diverged"), *reversed(searched.ranked())]:
        x, y = (float(one.places([trial])[0]) for one in rulers)
        if math.isfinite(x) and math.isfinite(y):
            heights[x, y] = float(scale.height([known(trial)])[0])
    mesh, z = _mesh(np.array(list(heights)).reshape(-1, 2), np.array(list(heights.values())))
    if mesh is None:
        return
    # Triangles lie between the ends of the rulers, so that what is straight is so in the scales of the axes.
    inside = Affine2D().translate(ROOM, ROOM).scale(1 / (1 + 2 * ROOM)) + panel.transAxes
    pale = ListedColormap(PALE + (1 - PALE) * scale.colours(np.linspace(0, 1, 256)))
    look: dict[str, Any] = {"transform": inside, "zorder": 1}
    panel.tricontourf(mesh, z, levels=np.linspace(0, 1, LEVELS + 1), extend="both", cmap=pale, vmin=0, vmax=1, **look)
    if (base := searched.score(searched.base)) is not None:
        level = float(scale.height([base])[0])
        if z.min() < level < z.max():
            style = {"colors": [AS_BASE["color"]], "linestyles": [AS_BASE["linestyle"]]}
            panel.tricontour(mesh, z, levels=[level], linewidths=AS_BASE["linewidth"], **style, **look | {"zorder": 2})
            panel.plot([], [], **AS_BASE)


def _mesh(places: Array, heights: Array) -> tuple[Triangulation | None, Array]:
    """Triangles between neighbours [N, 2] of known height, none of them wide or flat; None where there are no such."""
    if np.linalg.matrix_rank(places - places.mean(axis=0) if len(places) else places, tol=1e-6) < 2:
        return None, heights
    mesh = Triangulation(*places.T)
    corners = places[mesh.triangles]
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    unknown = np.isnan(heights[mesh.triangles]).any(axis=1)
    mask = unknown | (sides.max(axis=1) > REACH) | TriAnalyzer(mesh).get_flat_tri_mask(FLAT, rescale=False)
    mesh.set_mask(mask)
    return (None if mask.all() else mesh), np.nan_to_num(heights)


def _highlight(panel: Axes, searched: Searched, points: Points, scale: Scale | None) -> None:
    """Ring and name the best and the present setting, with an arrow from the latter to the former."""
    best, base = (number if number in points else None for number in (searched.best, searched.base))
    rings = {base: ("s", 170, BASE), best: ("o", 230, BEST)}  # the best counts where they are one
    to_unit = panel.transData + panel.transAxes.inverted()
    taken = to_unit.transform(list(points.values())) if points else np.empty((0, 2))
    places = {}
    for number, (marker, size, colour) in rings.items():
        if number is not None:
            look: dict[str, Any] = {"marker": marker, "s": size, "facecolors": "none", "edgecolors": colour}
            panel.scatter(*points[number], linewidths=2.2, zorder=5, gid=f"ring {number}", **look)
            places[number] = to_unit.transform(points[number])
    if best is not None and base is not None and best != base:
        arrow = {"arrowstyle": "-|>", "color": BASE, "alpha": 0.75, "shrinkA": 9, "shrinkB": 10, "linewidth": 1.2}
        taken = np.concatenate([taken, np.linspace(places[base], places[best], 8)])
        panel.annotate("", points[best], points[base], arrowprops=arrow, zorder=3)
    for number in places:
        trial = searched.trial(number)
        assert trial is not None
        side, taken = _free_side(places[number], taken)
        _name(panel, f"{searched.named(trial)}\n{_result(trial, scale)}", points[number], side, rings[number][2])


def _free_side(place: Array, taken: Array) -> tuple[tuple[int, int], Array]:
    """To which side of a place words cover least of what lies in the panel, and what is taken with them.

    All in parts of the panel; a side is (1 or -1, 1 or -1), to the right or left and above or below.
    """
    offers = []
    for side in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        near = place + np.array(side) * GAP
        corners = np.stack([near, near + np.array(side) * WORDS])
        low, high = corners.min(axis=0), corners.max(axis=0)
        covered = ((taken > low - GAP / 2) & (taken < high + GAP / 2)).all(axis=1).sum()
        outside = (low < 0).any() or (high > 1).any()
        offers.append((covered + len(taken) * outside, side, low, high))
    _, side, low, high = min(offers, key=lambda offer: offer[0])
    grid = np.stack(np.meshgrid(*np.linspace(low, high, 4).T), axis=-1).reshape(-1, 2)
    return side, np.concatenate([taken, grid])


def _name(panel: Axes, words: str, point: tuple[float, float], side: tuple[int, int], colour: str) -> None:
    """Words beside a point."""
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour, "alpha": 0.9, "linewidth": 1.0}
    where: dict[str, Any] = {"ha": "left" if side[0] > 0 else "right", "va": "bottom" if side[1] > 0 else "top"}
    offset = (11 * side[0], 9 * side[1])
    panel.annotate(words, point, offset, textcoords="offset points", bbox=box, zorder=8, **where, **SMALL)

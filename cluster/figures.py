"""Figures of a run. Pure functions from numbers to matplotlib figures: no pyplot, no global state."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from cluster.builder import Setup
from cluster.errors import MetarayError
from cluster.storage import write_file
from meta.episode import place, stack, unstack
from meta.params import Params
from tasks.family import TaskKey

Array = NDArray[np.float64]
Record = Mapping[str, Any]
Learned = Mapping[str, tuple[Setup, Params]]
Scores = dict[int, tuple[str, Array, Array]]  # by number of inner steps: metric, outer steps, values

# Sizes in points, widths in inches: legible where a page shows the figure 800 pixels wide.
STYLE: dict[str, Any] = {
    "dpi": 150,
    "width": 8.2,
    "title": 11,
    "text": 9.5,
    "ink": "#222222",
    "frame": "#888888",
    "grid": "#dddddd",
    # Okabe and Ito's colours, told apart with every common colour blindness.
    "series": ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    "markers": ("o", "s", "D", "^", "v", "P"),
    "dashes": ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2))),
    "points": "#d55e00",
}
MOST_STEPS = 11  # lines in one validation panel
FEW, DENSE = 20, 100  # records below which each is marked, above which their running mean is drawn over them
GRID = 401  # inputs at which curves are drawn
WIDE = 20.0  # ratio of largest to smallest error above which the axis is logarithmic


def learning_curves(series: Mapping[str, Sequence[Record]]) -> Figure:
    """Training loss, and beside it one panel per label with the validation score by number of inner steps.

    ``series`` maps labels to records of ``metrics.jsonl``; more than 100 lie faint under their running mean.

    Raises:
        MetarayError: if no record holds ``train/loss`` or a validation score.
    """
    curves = {label: curve(records, "train/loss") for label, records in series.items()}
    losses = {label: found for label, found in curves.items() if len(found[0])}
    scores = {label: found for label, records in series.items() if (found := _validation(records))}
    count = bool(losses) + len(scores)
    if not count:
        raise MetarayError(
            "learning curves: expected records with train/loss or val/<metric>_<inner steps>, received none; "
            "train for at least tracking.every steps"
        )
    columns = 2 if count in (2, 4) else min(count, 3)
    rows = -(-count // columns)
    figure = _figure(STYLE["width"] if count > 1 else 5.5, 3.1 * rows + 0.3)
    panels = [figure.add_subplot(rows, columns, 1 + position) for position in range(count)]
    if losses:
        axes = panels.pop(0)
        _loss_panel(axes, losses)
        if len(losses) > 1:
            _legend(figure, axes, "outside lower center", ncols=4)
    if scores:
        _score_panels(panels, scores)
        fullest = max(panels, key=lambda axes: len(axes.lines))
        _legend(figure, fullest, "outside right center", title="inner\nsteps")
    return figure


def adaptation(evaluation: Mapping[str, Any], label: str) -> Figure:
    """The score against inner steps with its 95 % interval, of this run, ``label``, and of its baselines."""
    figure = _figure(6.6, 3.9)
    axes = figure.add_subplot()
    for position, (name, scores) in enumerate(learners(evaluation, label)):
        numbers = sorted(scores, key=int)
        x = np.array([int(number) for number in numbers], dtype=np.float64)
        mean = _floats(scores[number]["mean"] for number in numbers)
        half = _floats(scores[number]["ci95"] for number in numbers)
        look = _look(position)
        axes.plot(x, mean, label=name, marker=STYLE["markers"][position % 6], markersize=5, **look)
        axes.fill_between(x, mean - half, mean + half, color=look["color"], alpha=0.18, linewidth=0)
    tasks = f"{evaluation['tasks']} {evaluation['split']} tasks"
    _dress(axes, title=f"Adaptation to {tasks}", x="inner steps", y=evaluation["metric"])
    _score_axis([axes], evaluation["metric"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(evaluation["steps"]) <= MOST_STEPS:
        axes.set_xticks(sorted(int(number) for number in evaluation["steps"]))
    _legend(figure, axes, "outside lower center", ncols=4)
    return figure


def regression(learned: Learned, *, task_indices: Sequence[int] = (0, 1), steps: Sequence[int] = (0, 1, 10)) -> Figure:
    """Curves before and after adaptation, a row per task, a column per label (Finn et al. 2017, figure 2).

    Args:
        learned: label -> what it was built from, and its θ.
        task_indices: numbers of the test tasks.
        steps: numbers of inner steps after which to predict.

    Raises:
        MetarayError: if there is nothing to draw; see :func:`can_draw_regression`.
    """
    unfit = [label for label, (setup, _) in learned.items() if not can_draw_regression(setup)]
    if unfit or not learned or not task_indices:
        raise MetarayError(
            "regression figure: expected tasks of one input and output whose family offers function(key), "
            f"received {len(task_indices)} tasks of {list(learned)}, unfit {unfit}; leave the figure out"
        )
    rows, columns = len(task_indices), len(learned)
    figure = _figure(max(4.8, min(4.1 * columns, 12.0)), 2.5 * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="row")
    for row, index in enumerate(task_indices):
        ranges = []
        for axes, (label, (setup, params)) in zip(grid[row], learned.items(), strict=True):
            ranges.append(_task_panel(axes, setup, params, index, steps))
            y = f"y, test task {index}" if axes is grid[row, 0] else ""
            _dress(axes, title="" if row else label, x="x" if row == rows - 1 else "", y=y)
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        margin = 0.06 * max(high - low, 1e-6)
        grid[row, 0].set_ylim(low - margin, high + margin)
    _legend(figure, grid[0, 0], "outside lower center", ncols=5 if columns > 1 else 3)
    return figure


def can_draw_regression(setup: Setup) -> bool:
    """Whether the family maps a number to a number and offers ``function(key)``, a task's true curve."""
    spec, function = setup.family.spec, getattr(setup.family, "function", None)
    return spec.input_shape == (1,) and spec.outputs == 1 and callable(function)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of 150 dots per inch: whole or not at all, equal bytes for equal figures."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=STYLE["dpi"], facecolor="white", metadata={"Software": None})
    write_file(path, png.getvalue())


def curve(records: Sequence[Record], key: str) -> tuple[Array, Array]:
    """Steps and values of one metric in order of steps, [N] each; the last record of a step counts.

    What is not finite becomes NaN, a gap in the line.

    >>> records = [{"step": 2, "values": {"a": 1.0}}, {"step": 1, "values": {"a": None, "b": 2.0}}]
    >>> curve(records, "a")
    (array([1., 2.]), array([nan,  1.]))
    """
    found = {record["step"]: record["values"][key] for record in records if key in record["values"]}
    return np.array(sorted(found), dtype=np.float64), _floats(found[step] for step in sorted(found))


def learners(evaluation: Mapping[str, Any], label: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and scores by number of inner steps of this run and of each baseline in an evaluation."""
    return [(label, evaluation["steps"]), *evaluation.get("baselines", {}).items()]


def _floats(values: Iterable[float | None]) -> Array:
    array = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    array[~np.isfinite(array)] = math.nan
    return array


def _validation(records: Sequence[Record]) -> Scores:
    """The curves under keys ``val/<metric>_<inner steps>``."""
    found = {}
    for key in {key for record in records for key in record["values"]}:
        metric, _, number = key.removeprefix("val/").rpartition("_")
        if key.startswith("val/") and metric and number.isdecimal():
            found[int(number)] = (metric, *curve(records, key))
    return dict(sorted(found.items()))


def _loss_panel(axes: Axes, losses: Mapping[str, tuple[Array, Array]]) -> None:
    for position, (label, (steps, values)) in enumerate(losses.items()):
        look = _look(position)
        if len(values) > DENSE:
            window = len(values) // 40
            axes.plot(steps, values, color=look["color"], alpha=0.2, linewidth=0.7, label=f"_{label}", zorder=1)
            values = np.convolve(values, np.full(window, 1 / window), mode="valid")
            steps = steps[(window - 1) // 2 :][: len(values)]
        axes.plot(steps, values, label=label, marker="." if len(values) < FEW else None, **look)
    alone = f", {next(iter(losses))}" if len(losses) == 1 else ""
    _dress(axes, title=f"Training{alone}", x="outer step", y="training loss")
    found = np.concatenate([values[np.isfinite(values)] for _, values in losses.values()])
    if len(found) and found.min() > 0:
        _logarithmic(axes)


def _score_panels(panels: Sequence[Axes], scores: Mapping[str, Scores]) -> None:
    numbers = sorted({number for found in scores.values() for number in found})
    places = np.linspace(0, len(numbers) - 1, min(len(numbers), MOST_STEPS)).round().astype(int)
    numbers = [numbers[position] for position in places]
    for axes in panels[1:]:
        axes.sharey(panels[0])
    for axes, (label, found) in zip(panels, scores.items(), strict=True):
        for number, colour in zip(numbers, _shades(len(numbers)), strict=True):
            if number in found:
                _, x, y = found[number]
                mark = "." if len(x) < FEW else None
                axes.plot(x, y, color=colour, linewidth=1.6, marker=mark, label=str(number))
        metric = next(iter(found.values()))[0]
        _dress(axes, title=f"Validation, {label}", x="outer step", y=metric)
    _score_axis(panels, metric)


def _task_panel(axes: Axes, setup: Setup, params: Params, index: int, steps: Sequence[int]) -> tuple[float, float]:
    """Draw one task; returns the range of y worth showing."""
    key = TaskKey(setup.seed, "test", index)
    device = next(iter(params.values())).device
    episode = unstack(place(stack([setup.family.draw(key)]), setup.dtype, device))
    points = torch.cat([episode.support.inputs, episode.query.inputs])
    interval = getattr(setup.family, "inputs", None)
    low, high = interval if isinstance(interval, tuple | list) else (float(points.min()), float(points.max()))
    x = np.linspace(low, high, GRID)
    truth = _floats(np.asarray(setup.family.function(key)(x)).tolist())  # type: ignore[attr-defined]
    axes.plot(x, truth, color=STYLE["ink"], linewidth=3.2, alpha=0.3, label="truth")
    inputs = torch.from_numpy(x).to(device=device, dtype=setup.dtype)[:, None]
    shown = [truth]
    for position, (number, colour) in enumerate(zip(steps, _shades(len(steps)), strict=True)):
        outputs = setup.algorithm.predict(params, episode, inputs, number)[:, 0]
        shown.append(_floats(outputs.tolist()))
        name = "before adaptation" if number == 0 else f"{number} step{'s' if number > 1 else ''}"
        dashes = (":", "--", "-")[min(position, 2)]
        axes.plot(x, shown[-1], color=colour, linestyle=dashes, linewidth=1.7, label=name)
    support = [leaf[:, 0].tolist() for leaf in episode.support]
    axes.plot(*support, "^", markersize=6, color=STYLE["points"], label="support points", zorder=4)
    # A prediction that was thrown off must not press the others flat.
    bottom, top = float(np.nanmin(truth)), float(np.nanmax(truth))
    room = 5 * max(top - bottom, 1e-6)
    drawn = np.clip(np.concatenate(shown), bottom - room, top + room)
    return float(np.nanmin(drawn)), float(np.nanmax(drawn))


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=STYLE["dpi"], layout="constrained", facecolor="white")


def _look(position: int) -> dict[str, Any]:
    which = position % 6
    return {"color": STYLE["series"][which], "linestyle": STYLE["dashes"][which], "linewidth": 1.8}


def _shades(count: int) -> list[tuple[float, ...]]:
    """Colours for increasing numbers of inner steps, light to dark."""
    return [tuple(mpl.colormaps["viridis"](shade)) for shade in np.linspace(0.78, 0.05, count)]


def _dress(axes: Axes, *, title: str, x: str, y: str) -> None:
    look = {"color": STYLE["ink"], "parse_math": False}  # a name may hold a dollar sign
    axes.set_title(title, fontsize=STYLE["title"], loc="left", **look)
    axes.set_xlabel(x, fontsize=STYLE["text"], **look)
    axes.set_ylabel(y, fontsize=STYLE["text"], **look)
    axes.tick_params(which="both", labelsize=STYLE["text"] - 1, color=STYLE["frame"], labelcolor=STYLE["ink"])
    axes.grid(visible=True, color=STYLE["grid"], linewidth=0.7)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(STYLE["frame"])


def _legend(figure: Figure, axes: Axes, where: Any, *, title: str | None = None, ncols: int = 1) -> None:
    """One legend outside all panels, so that it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    look = {"frameon": False, "fontsize": STYLE["text"], "title_fontsize": STYLE["text"], "handlelength": 2.6}
    legend = figure.legend(handles, labels, loc=where, title=title, ncols=min(ncols, len(labels)), **look)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _score_axis(panels: Sequence[Axes], metric: str) -> None:
    """Percent for an accuracy; a logarithmic axis for errors that differ much."""
    drawn = _floats(value for axes in panels for line in axes.lines for value in np.asarray(line.get_ydata()))
    values = drawn[np.isfinite(drawn)]
    for axes in panels:
        if metric == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        elif metric != "return" and len(values) and 0 < WIDE * values.min() < values.max():
            _logarithmic(axes)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())

"""Style of all figures: sizes, colours, axes, legends, and saving to a file."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from cluster.runs.storage import write_file
from cluster.setups.build import Setup
from cluster.setups.episodes import EpisodeSetup
from cluster.setups.policies import PolicySetup
from meta.episode import Episode, unstack
from meta.params import Params
from tasks.family import draw_batch

Array = NDArray[np.float64]
Record = Mapping[str, Any]
Trained = Mapping[str, tuple[Setup, Params]]
Learned = Mapping[str, tuple[EpisodeSetup, Params]]
Policies = Mapping[str, tuple[PolicySetup, Params]]

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
WIDE = 20.0  # ratio of largest to smallest error above which the axis is logarithmic


def held_out(setup: EpisodeSetup, params: Params, index: int) -> Episode:
    """Test task number ``index`` as the algorithm takes it, on the device of the parameters.

    Args:
        setup: holds family and algorithm.
        params: θ by name.
        index: of the task.
    """
    device = next(iter(params.values())).device
    return unstack(draw_batch(setup.family, setup.seed, "test", range(index, index + 1), setup.dtype, device))


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of 150 dots per inch: whole or not at all, equal bytes for equal figures.

    Args:
        figure: the figure.
        path: the PNG file.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=STYLE["dpi"], facecolor="white", metadata={"Software": None})
    write_file(path, png.getvalue())


def floats(values: Iterable[float | None]) -> Array:
    """An array in which what is not finite, or None, is NaN."""
    array = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    array[~np.isfinite(array)] = math.nan
    return array


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    return Figure(figsize=(width, height), dpi=STYLE["dpi"], layout="constrained", facecolor="white")


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure to write and to lay images on; its axes are inches from the upper left corner."""
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.set_axis_off()
    return figure, axes


def write(
    axes: Axes,
    x: float,
    y: float,
    words: str,
    *,
    size: float,
    align: str = "center",
    colour: str = STYLE["ink"],
    weight: str = "normal",
) -> None:
    """Write words on a canvas, their middle at height ``y``.

    Args:
        axes: of the canvas, in inches from the upper left corner.
        x: position of the left end, the middle or the right end, by ``align``.
        y: height of the middle.
        words: the text.
        size: of the letters, in points.
        align: ``left``, ``center`` or ``right``.
        colour: of the letters.
        weight: of the letters.
    """
    look: dict[str, Any] = {"fontsize": size, "color": colour, "fontweight": weight, "fontfamily": "DejaVu Sans"}
    axes.text(x, y, words, ha=align, va="center", parse_math=False, **look)


def line_look(position: int) -> dict[str, Any]:
    """Colour and dashes of line number ``position``."""
    which = position % 6
    return {"color": STYLE["series"][which], "linestyle": STYLE["dashes"][which], "linewidth": 1.8}


def shades(count: int) -> list[tuple[float, ...]]:
    """Colours for increasing numbers of inner steps, light to dark."""
    return [tuple(mpl.colormaps["viridis"](shade)) for shade in np.linspace(0.78, 0.05, count)]


def stage(number: int) -> str:
    """Label of a learner after a number of inner steps."""
    return "before adaptation" if number == 0 else f"{number} step{'s' if number > 1 else ''}"


def stage_looks(count: int) -> list[dict[str, Any]]:
    """Colours and dashes for increasing numbers of inner steps."""
    return [
        {"color": shade, "linestyle": (":", "--", "-")[min(position, 2)], "linewidth": 1.7}
        for position, shade in enumerate(shades(count))
    ]


def dress(axes: Axes, *, title: str, x: str, y: str) -> None:
    """Set the title, the names of the axes and the grid.

    Args:
        axes: the panel.
        title: of the panel.
        x: name of the axis.
        y: name of the axis.
    """
    look = {"color": STYLE["ink"], "parse_math": False}  # a name may hold a dollar sign
    axes.set_title(title, fontsize=STYLE["title"], loc="left", **look)
    axes.set_xlabel(x, fontsize=STYLE["text"], **look)
    axes.set_ylabel(y, fontsize=STYLE["text"], **look)
    axes.tick_params(which="both", labelsize=STYLE["text"] - 1, color=STYLE["frame"], labelcolor=STYLE["ink"])
    axes.grid(visible=True, color=STYLE["grid"], linewidth=0.7)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(STYLE["frame"])


def legend(figure: Figure, axes: Axes, where: Any, *, title: str | None = None, ncols: int = 1) -> None:
    """Draw one legend outside all panels, so that it covers no data.

    Args:
        figure: gets the legend.
        axes: its panel with the lines to explain.
        where: position in Matplotlib's words, such as ``outside lower center``.
        title: of the legend.
        ncols: number of columns.
    """
    handles, labels = axes.get_legend_handles_labels()
    look = {"frameon": False, "fontsize": STYLE["text"], "title_fontsize": STYLE["text"], "handlelength": 2.6}
    legend = figure.legend(handles, labels, loc=where, title=title, ncols=min(ncols, len(labels)), **look)
    for text in legend.get_texts():
        text.set_parse_math(False)


def score_axis(panels: Sequence[Axes], metric: str) -> None:
    """Label an accuracy in percent, and take a logarithmic axis for errors that differ much.

    Args:
        panels: with scores in y.
        metric: name of the score.
    """
    lines = [line for axes in panels for line in axes.lines if line.get_transform() == axes.transData]
    drawn = floats(value for line in lines for value in np.asarray(line.get_ydata()))
    values = drawn[np.isfinite(drawn)]
    for axes in panels:
        if metric == "accuracy":
            percent(axes.yaxis)
        elif metric != "return" and len(values) and 0 < WIDE * values.min() < values.max():
            logarithmic(axes)


def logarithmic(axes: Axes) -> None:
    """A logarithmic axis of y with plain numbers."""
    axes.set_yscale("log")
    decades(axes.yaxis)


def widened(low: float, high: float, part: float, *, log: bool = False) -> tuple[float, float]:
    """A range with room at both ends, a part of its length, in logarithms if ``log``; there is room around a point too.

    >>> widened(1.0, 2.0, 0.5), widened(1.0, 100.0, 0.5, log=True), widened(2.0, 2.0, 0.5)
    ((0.5, 2.5), (0.1, 1000.0), (1.0, 3.0))
    """
    if log:
        margin = (high / low) ** part
        return low / margin, high * margin
    room = part * (high - low) or part * abs(high) or part
    return low - room, high + room


def decades(axis: Axis, subs: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Label a logarithmic axis with plain numbers, in each decade at its multiples ``subs``."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def percent(axis: Axis) -> None:
    """Label an axis of accuracies in percent."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))

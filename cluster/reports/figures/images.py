"""Image classification: one task's support and query images, and what is predicted before and after adaptation."""

from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cluster.errors import MetarayError
from cluster.reports.figures.style import STYLE, Array, canvas, held_out, write
from cluster.setups.build import Setup
from cluster.setups.episodes import EpisodeSetup
from meta.params import Params
from tasks.family import gives_classes

MOST_CLASSES, MOST_SUPPORT, MOST_QUERY = 10, 5, 7  # rows, and images of each kind in a row
CELL, IMAGE, ROW = 0.86, 0.70, 1.02  # inches: width of a cell, side of the image in it, height of a row
NARROWEST = 6.3  # inches that title and key take
LABEL, GAP, HEAD, FOOT = 0.55, 0.30, 1.12, 0.40  # inches: row labels, between support and query, above, below
# By whether a prediction was right; never by colour alone.
MARKS = {True: "✓", False: "✗"}
FRAMES: dict[bool, dict[str, Any]] = {
    True: {"edgecolor": STYLE["series"][0], "linewidth": 2.2, "linestyle": "-"},
    False: {"edgecolor": STYLE["series"][1], "linewidth": 2.2, "linestyle": (0, (2, 1))},
}


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One task as it is drawn: RGB images [B, H, W, 3] in [0, 1], and classes by number [B]."""

    support: Array
    support_classes: Array
    query: Array
    query_classes: Array
    before: Array
    after: Array


def episode(setup: EpisodeSetup, params: Params, *, index: int = 0, steps: int) -> Figure:
    """One test task: support and query images by class, each query image with its prediction before and after.

    Predictions are made for the whole query set, as in an evaluation, also where only some of it is shown.

    Args:
        setup: what the parameters were built from.
        params: θ.
        index: number of the test task.
        steps: inner steps of the adaptation.

    Raises:
        MetarayError: if the tasks are not of classifying images; see :func:`can_draw_episode`.
    """
    if not can_draw_episode(setup):
        raise MetarayError(
            "episode figure: expected tasks of classifying images [1 or 3, height, width], received "
            f"{setup.family.spec}; leave the figure out"
        )
    task = _task(setup, params, index, steps)
    way = setup.family.spec.outputs
    rows = min(way, MOST_CLASSES)
    shots = min(int((task.support_classes == 0).sum()), MOST_SUPPORT)
    queries = min(int((task.query_classes == 0).sum()), MOST_QUERY)
    width = max(LABEL + (shots + queries) * CELL + GAP + 0.1, NARROWEST)
    height = HEAD + rows * ROW + FOOT
    figure, axes = canvas(width, height)
    for row in range(rows):
        top = HEAD + row * ROW
        write(axes, LABEL / 2, top + IMAGE / 2, _letter(row), size=14, weight="bold")
        for column, place_ in enumerate(np.flatnonzero(task.support_classes == row)[:shots]):
            _image(axes, task.support[place_], LABEL + column * CELL, top)
        left = LABEL + shots * CELL + GAP
        for column, place_ in enumerate(np.flatnonzero(task.query_classes == row)[:queries]):
            _query(axes, task, int(place_), left + column * CELL, top)
    _headings(axes, task, index=index, steps=steps, shown=(rows, shots, queries), way=way)
    _key(axes, height - FOOT / 2)
    return figure


def can_draw_episode(setup: Setup) -> TypeGuard[EpisodeSetup]:
    """Whether the tasks are to tell classes of grey or RGB images apart, and the algorithm can predict."""
    spec = setup.family.spec
    if not callable(getattr(setup.algorithm, "predict", None)):  # one of the user's own may lack it
        return False
    return gives_classes(spec) and len(spec.input_shape) == 3 and spec.input_shape[0] in (1, 3)


def _task(setup: EpisodeSetup, params: Params, index: int, steps: int) -> _Task:
    drawn = held_out(setup, params, index)
    before, after = (
        setup.algorithm.predict(params, drawn.support, drawn.query.inputs, number, setup.context(None)).argmax(dim=-1)
        for number in (0, steps)
    )
    images = _shown(np.concatenate([part.tensor.double().cpu().numpy() for part in (drawn.support, drawn.query)]))
    count = len(drawn.support.tensor)
    return _Task(
        support=images[:count],
        support_classes=drawn.support.targets.cpu().numpy(),
        query=images[count:],
        query_classes=drawn.query.targets.cpu().numpy(),
        before=before.cpu().numpy(),
        after=after.cpu().numpy(),
    )


def _shown(inputs: Array) -> Array:
    """Inputs [B, C, H, W] as RGB [B, H, W, 3] in [0, 1]; those of another range are brought into it."""
    low, high = min(0.0, float(inputs.min())), max(1.0, float(inputs.max()))
    pixels = ((inputs - low) / (high - low)).transpose(0, 2, 3, 1)
    if pixels.shape[-1] == 3:
        return pixels
    # Strokes on an empty ground look like writing when they are dark.
    writing = float((pixels == pixels.min()).mean()) > 0.5
    return np.repeat(1 - pixels if writing else pixels, 3, axis=-1)


def _letter(number: int) -> str:
    """A name for a class of the task, which has none of its own: A to Z, then numbers."""
    return chr(ord("A") + number) if number < 26 else str(number)


def _image(axes: Axes, pixels: Array, left: float, top: float, right: bool | None = None) -> None:
    """An image with a frame that says whether the prediction was right; a thin one where there is none."""
    axes.imshow(pixels, extent=(left, left + IMAGE, top + IMAGE, top), interpolation="nearest", aspect="auto")
    look: dict[str, Any] = {"edgecolor": STYLE["frame"], "linewidth": 0.8} if right is None else FRAMES[right]
    axes.add_patch(Rectangle((left, top), IMAGE, IMAGE, fill=False, **look))


def _query(axes: Axes, task: _Task, number: int, left: float, top: float) -> None:
    """A query image, framed by the final prediction, over «before → after»."""
    true, before, after = (int(classes[number]) for classes in (task.query_classes, task.before, task.after))
    _image(axes, task.query[number], left, top, after == true)
    middle, line = left + IMAGE / 2, top + IMAGE + 0.13
    write(axes, middle, line, "→", size=8.5)
    for predicted, side in ((before, -1), (after, 1)):
        right = predicted == true
        words = f"{_letter(predicted)} {MARKS[right]}"
        write(axes, middle + side * 0.23, line, words, size=9, colour=FRAMES[right]["edgecolor"])


def _headings(axes: Axes, task: _Task, *, index: int, steps: int, shown: tuple[int, int, int], way: int) -> None:
    rows, shots, queries = shown
    number = f"{steps} inner step{'' if steps == 1 else 's'}"
    before, after = (100 * float((predicted == task.query_classes).mean()) for predicted in (task.before, task.after))
    support, query = len(task.support) // way, len(task.query) // way
    title = f"Test task {index}: {way}-way {support}-shot"
    title += "" if rows == way else f", {rows} of {way} classes shown"
    write(axes, 0.12, 0.24, title, size=12, align="left", weight="bold")
    scores = f"Accuracy on all {len(task.query)} query images: {before:.0f} % before, {after:.0f} % after {number}"
    write(axes, 0.12, 0.52, scores, size=9.5, align="left")
    left = LABEL + shots * CELL + GAP
    write(axes, LABEL, 0.92, _counted("support", shots, support), size=9.5, align="left")
    write(axes, left, 0.92, _counted("query", queries, query), size=9.5, align="left")


def _counted(kind: str, shown: int, count: int) -> str:
    return kind if shown == count else f"{kind}, {shown} of {count} per class"


def _key(axes: Axes, line: float) -> None:
    """Draw the key of right and wrong predictions."""
    write(
        axes,
        0.12,
        line,
        "Class predicted before → after adaptation; the frame shows the latter:",
        size=8.5,
        align="left",
    )
    for left, right, word in ((4.5, True, "right"), (5.4, False, "wrong")):
        axes.add_patch(Rectangle((left, line - 0.09), 0.18, 0.18, fill=False, **FRAMES[right]))
        words = f"{MARKS[right]} {word}"
        write(axes, left + 0.28, line, words, size=8.5, align="left", colour=FRAMES[right]["edgecolor"])

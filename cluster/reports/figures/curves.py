"""Regression tasks: true and predicted curves of a number against a number."""

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.errors import MetarayError
from cluster.reports.figures.style import (
    STYLE,
    Learned,
    dress,
    floats,
    held_out,
    legend,
    new_figure,
    stage,
    stage_looks,
)
from cluster.setups.build import Setup
from cluster.setups.episodes import EpisodeSetup
from meta.params import Params
from tasks.family import TaskKey

GRID = 401  # inputs at which curves are drawn


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
    figure = new_figure(max(4.8, min(4.1 * columns, 12.0)), 2.5 * rows + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="row")
    for row, index in enumerate(task_indices):
        ranges = []
        for axes, (label, (setup, params)) in zip(grid[row], learned.items(), strict=True):
            ranges.append(_task_panel(axes, setup, params, index, steps))
            y = f"y, test task {index}" if axes is grid[row, 0] else ""
            dress(axes, title="" if row else label, x="x" if row == rows - 1 else "", y=y)
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        margin = 0.06 * max(high - low, 1e-6)
        grid[row, 0].set_ylim(low - margin, high + margin)
    legend(figure, grid[0, 0], "outside lower center", ncols=5 if columns > 1 else 3)
    return figure


def can_draw_regression(setup: Setup) -> TypeGuard[EpisodeSetup]:
    """Whether the family maps a number to a number and offers ``function(key)``, a task's true curve."""
    spec, function = setup.family.spec, getattr(setup.family, "function", None)
    return spec.input_shape == (1,) and spec.outputs == 1 and callable(function)


def _task_panel(
    axes: Axes, setup: EpisodeSetup, params: Params, index: int, steps: Sequence[int]
) -> tuple[float, float]:
    """Draw one task; returns the range of y worth showing."""
    key = TaskKey(setup.seed, "test", index)
    episode = held_out(setup, params, index)
    points = torch.cat([episode.support.tensor, episode.query.tensor])
    interval = getattr(setup.family, "inputs", None)
    low, high = interval if isinstance(interval, tuple | list) else (float(points.min()), float(points.max()))
    x = np.linspace(low, high, GRID)
    truth = floats(np.asarray(setup.family.function(key)(x)).tolist())  # type: ignore[attr-defined]
    axes.plot(x, truth, color=STYLE["ink"], linewidth=3.2, alpha=0.3, label="truth")
    inputs = torch.from_numpy(x).to(points)[:, None]
    if setup.algorithm.informed:
        inputs = torch.cat([inputs, episode.description.expand(len(inputs), -1)], dim=1)
    shown, objective = [truth], setup.algorithm.objective
    for number, look in zip(steps, stage_looks(len(steps)), strict=True):
        outputs = setup.algorithm.predict(params, episode.support, inputs, number, setup.context(None))
        shown.append(floats(objective.point(objective.predictions(outputs))[:, 0].tolist()))
        axes.plot(x, shown[-1], label=stage(number), **look)
    support = [leaf[:, 0].tolist() for leaf in (episode.support.tensor, episode.support.targets)]
    axes.plot(*support, "^", markersize=6, color=STYLE["points"], label="support points", zorder=4)
    # A prediction that was thrown off must not press the others flat.
    bottom, top = float(np.nanmin(truth)), float(np.nanmax(truth))
    room = 5 * max(top - bottom, 1e-6)
    drawn = np.clip(np.concatenate(shown), bottom - room, top + room)
    return float(np.nanmin(drawn)), float(np.nanmax(drawn))

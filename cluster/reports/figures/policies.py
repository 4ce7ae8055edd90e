"""Policies before and after adaptation: paths in the plane, positions against time, and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cluster.errors import MetarayError
from cluster.reports.figures.replay import Picture, film, gymnasium_tasks, replay
from cluster.reports.figures.style import (
    STYLE,
    Array,
    Policies,
    canvas,
    dress,
    legend,
    new_figure,
    stage,
    stage_looks,
    write,
)
from cluster.reports.figures.walks import Scene, Walk, asked_velocity, in_words, pictured, walk
from cluster.setups.build import Setup
from cluster.setups.policies import PolicySetup
from tasks.environments.contract import Numbers, RolloutError
from tasks.environments.navigation import Navigation

PLACES, ROBOTS = 3, 2  # tasks that are shown
REPEATED = 10  # trajectories whose positions are drawn
MARGIN = 0.15  # of the range of goals, around it
THIN: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.4, "linestyle": "-"}
THICK: dict[str, Any] = {"linewidth": 2.3}
PICTURES = 8  # of one trajectory
BAND = (0.28, 0.93)  # heights in a picture between which a robot is that its camera follows
SHOT, GAP, EDGE, HEAD, LINE, LINES = 1.02, 0.04, 0.1, 0.36, 0.24, 0.52  # inches: width of a picture, …, text above it


def can_draw_rollouts(setup: Setup) -> TypeGuard[PolicySetup]:
    """Whether the tasks are places in a plane, or environments of gymnasium."""
    return isinstance(setup.family, Navigation) or gymnasium_tasks(setup.family) is not None


def of_policies(learned: Policies, steps: int) -> tuple[dict[str, Figure], list[str]]:
    """All figures that the environments permit, by name, and in sentences why others are missing.

    Args:
        learned: label -> what it was built from, and its θ; all in the same environments.
        steps: most inner steps of an adaptation.
    """
    figures: dict[str, Figure] = {}
    notes: list[str] = []
    numbers = sorted({0, min(1, steps), steps})
    family = next((setup.family for setup, _ in learned.values()), None)
    try:
        if isinstance(family, Navigation):
            figures["paths"] = paths(
                {label: walk(*pair, tasks=PLACES, steps=numbers) for label, pair in learned.items()}
            )
        elif family is not None and gymnasium_tasks(family) is not None:
            notes += _of_robots(learned, numbers, figures)
    except (MetarayError, RolloutError) as error:
        notes.append(f"Figures of single tasks are left out: {error}.")
    return figures, notes


def _of_robots(learned: Policies, numbers: Sequence[int], figures: dict[str, Figure]) -> list[str]:
    """Add positions and a film strip of the first learner; returns why the latter is missing where it could be."""
    (label, first), *others = learned.items()
    walks = {label: walk(*first, tasks=ROBOTS, steps=numbers)}
    (probe,) = replay([walks[label].trajectory(0, 0, 0)])
    if probe.positions is not None:
        walks |= {name: walk(*pair, tasks=ROBOTS, steps=numbers) for name, pair in others}
        figures["positions"] = positions(walks)
    if not probe.renders:
        return []
    scenes = scenes_of(walks[label], mujoco=probe.mujoco)
    if isinstance(scenes, str):
        return [
            f"There is no film strip, because the environment could not be drawn here ({scenes}). Install what is "
            "missing, for MuJoCo EGL or OSMesa, and draw again with: metaray report"
        ]
    figures["film"] = film_strip(scenes, label)
    return []


def paths(walks: Mapping[str, Walk]) -> Figure:
    """Paths to goals in the plane, a row per learner, a column per task (after Finn et al. 2017, figure 4).

    Thick is the mean over trajectories at each step, thin is one of them; dots are where all of them end.

    Args:
        walks: label -> its rollouts, all of the same tasks.

    Raises:
        MetarayError: if there are none, or an observation is no position in a family of navigation.
    """
    if not walks or not all(isinstance(one.family, Navigation) for one in walks.values()):
        raise MetarayError(
            f"paths: expected rollouts of families of navigation, received {[one.family for one in walks.values()]}; "
            "leave the figure out"
        )
    figure, rows = _panels(walks, width=2.7, height=2.75)
    for panels, one in zip(rows, walks.values(), strict=True):
        assert isinstance(one.family, Navigation)
        for task, (axes, goal) in enumerate(zip(panels, one.family.describe(one.keys), strict=True)):
            for (number, rollouts), look in zip(one.rollouts.items(), stage_looks(len(one.rollouts)), strict=True):
                _path(axes, rollouts.observations[task], look, stage(number))
            _place(axes, (0.0, 0.0), "o", label="start", color="white", markeredgecolor=STYLE["ink"], markersize=7)
            _place(axes, goal, "*", label="goal", color=STYLE["points"], markeredgecolor="white", markersize=15)
        low, high = min(one.family.goal[0], 0.0), max(one.family.goal[1], 0.0)
        margin = MARGIN * (high - low) or 0.1
        for axes in panels:
            axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_locator(MaxNLocator(5))
    legend(figure, rows[0][0], "outside lower center", ncols=5)
    return figure


def positions(walks: Mapping[str, Walk]) -> Figure:
    """Forward positions against time, a row per learner, a column per task. Thick is the mean over trajectories.

    Args:
        walks: label -> its rollouts, all of the same tasks.

    Raises:
        MetarayError: if the environments tell no positions, or do not repeat themselves.
    """
    figure, rows = _panels(walks, width=4.1, height=2.5)
    for panels, (label, one) in zip(rows, walks.items(), strict=True):
        for task, axes in enumerate(panels):
            for number, look in zip(one.rollouts, stage_looks(len(one.rollouts)), strict=True):
                times, unit, moved = _moved(one, task, number)
                axes.plot(times, moved.T, **look | THIN, zorder=2)
                axes.plot(times, moved.mean(axis=0), **look | THICK, label=stage(number), zorder=3)
            velocity = asked_velocity(one.family, one.keys[task])
            if velocity is not None and unit == "s":
                axes.plot(times, velocity * times, color=STYLE["ink"], linewidth=3.2, alpha=0.3, label="asked for")
            axes.set_xlabel(f"time, {unit}" if panels is rows[-1] else "")
            axes.set_ylabel(f"{label}: x, m" if task == 0 else "")
    legend(figure, rows[0][0], "outside lower center", ncols=5)
    return figure


def scenes_of(one: Walk, *, mujoco: bool) -> list[Scene] | str:
    """A typical trajectory of each task before adaptation and one after the most inner steps; or why there are none.

    Args:
        one: rollouts of the tasks.
        mujoco: whether MuJoCo draws the environment.
    """
    places = [
        (task, number) for task in range(len(one.keys)) for number in sorted({min(one.rollouts), max(one.rollouts)})
    ]
    taken = [pictured(one, task, number, PICTURES) for task, number in places]
    replays = film([trajectory for _, trajectory in taken], mujoco=mujoco)
    if isinstance(replays, str):
        return replays
    return [
        Scene(task=in_words(one.family, one.keys[task]), inner_steps=number, steps=steps, replayed=replayed)
        for (task, number), (steps, _), replayed in zip(places, taken, replays, strict=True)
    ]


def film_strip(scenes: Sequence[Scene], label: str) -> Figure:
    """Pictures of trajectories in rows, with the time above each and the distance covered below.

    Args:
        scenes: the trajectories, those of one task one after another.
        label: whose they are.
    """
    shots = [[_cropped(picture, scene) for picture in scene.replayed.pictures] for scene in scenes]
    high = SHOT * shots[0][0].shape[0] / shots[0][0].shape[1]
    heads = [not before or before.task != scene.task for before, scene in zip([None, *scenes], scenes, strict=False)]
    figure, axes = canvas(
        2 * EDGE + PICTURES * (SHOT + GAP) - GAP, 2 * EDGE + sum(heads) * HEAD + len(scenes) * (high + LINES)
    )
    top = EDGE
    for scene, pictures, head in zip(scenes, shots, heads, strict=True):
        if head:
            write(axes, EDGE, top + HEAD / 2, scene.task, size=STYLE["title"], align="left", weight="bold")
            top += HEAD
        write(axes, EDGE, top + LINE / 2, _heading(scene, label), size=STYLE["text"], align="left")
        for column, picture in enumerate(pictures):
            left = EDGE + column * (SHOT + GAP)
            axes.imshow(picture, extent=(left, left + SHOT, top + LINE + high, top + LINE), aspect="auto")
            write(axes, left + SHOT / 2, top + LINE + high + 0.11, _when(scene, column), size=STYLE["text"] - 1.5)
        top += high + LINES
    return figure


def _heading(scene: Scene, label: str) -> str:
    number = scene.inner_steps
    after = f"after {number} inner step{'' if number == 1 else 's'}"
    return f"{label}, {'before adaptation' if number == 0 else after}"


def _when(scene: Scene, column: int) -> str:
    """Time of a picture and distance of the body, in words."""
    step, replayed = scene.steps[column], scene.replayed
    when = f"step {step}" if replayed.interval is None else f"{step * replayed.interval:.1f} s"
    if replayed.positions is None:
        return when
    moved = round(replayed.positions[step] - replayed.positions[0], 1) + 0.0  # no minus before a zero
    return f"{when}, {moved:+.1f} m".replace("-", "−")


def _cropped(picture: Picture, scene: Scene) -> Picture:
    """Of a picture by a camera that follows a robot, the part that the robot is in; others whole."""
    if not scene.replayed.mujoco:
        return picture
    top, bottom = (round(share * len(picture)) for share in BAND)
    return picture[top:bottom]


def _panels(walks: Mapping[str, Walk], width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """Panels of one size in inches, a row per learner, a column per task, and their titles."""
    tasks = [in_words(one.family, key) for one in list(walks.values())[:1] for key in one.keys]
    figure = new_figure(width * len(tasks), height * len(walks) + 0.45)
    grid = figure.subplots(len(walks), len(tasks), squeeze=False, sharex=True, sharey=True)
    for row, label in enumerate(walks):
        for column, task in enumerate(tasks):
            dress(grid[row, column], title=task if row == 0 else "", x="", y=label if column == 0 else "")
    return figure, [list(row) for row in grid]


def _path(axes: Axes, trajectories: Numbers, look: dict[str, Any], name: str) -> None:
    """The mean over trajectories [N, H + 1, 2], the first of them, and where each ends."""
    axes.plot(*trajectories[0].T, **look | THIN, zorder=2)
    axes.plot(*trajectories[:, -1].T, "o", color=look["color"], markersize=3.5, alpha=0.6, markeredgewidth=0, zorder=3)
    axes.plot(*trajectories.mean(axis=0).T, **look, label=name, zorder=4)


def _place(axes: Axes, point: Sequence[float] | Numbers, mark: str, **look: Any) -> None:
    axes.plot([point[0]], [point[1]], mark, linestyle="none", zorder=5, **look)


def _moved(one: Walk, task: int, inner_step: int) -> tuple[Array, str, Array]:
    """Times [H + 1] with their unit, and how far trajectories have come forward [N, H + 1]; at its end one stands."""
    count, steps = one.rollouts[inner_step].taken[task].shape
    replays = replay(one.trajectory(task, inner_step, number) for number in range(min(REPEATED, count)))
    moved = np.empty((len(replays), steps + 1))
    for row, replayed in zip(moved, replays, strict=True):
        if replayed.positions is None:
            raise MetarayError(
                "positions: expected environments that tell x_position in their info, received "
                f"{one.family} without it; leave the figure out"
            )
        row[:] = replayed.positions[-1]
        row[: len(replayed.positions)] = replayed.positions
        row -= row[0]
    interval = replays[0].interval
    return np.arange(steps + 1) * (interval or 1.0), "environment steps" if interval is None else "s", moved

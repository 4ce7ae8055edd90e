"""Figures of a search hold its trials, show no more than they carry, and say why they are missing."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.tri import TriContourSet

from cluster.reports.figures import save
from cluster.reports.figures.coordinates import parallel_coordinates
from cluster.reports.figures.landscapes import landscape
from cluster.reports.figures.rulers import ruler
from cluster.reports.figures.searches import (
    BASE,
    BEST,
    LOST,
    Axis,
    Searched,
    Trial,
    metric_of,
    plain,
    scale_of,
    setting,
)
from cluster.reports.figures.trials import confirmation, trial_curves

ALPHA = Axis(key="inner.lr", kind="log", low=1e-3, high=1.0)
BETA = Axis(key="outer.lr", kind="log", low=1e-5, high=1e-1)
STEPS = Axis(key="inner.steps", kind="integer", low=1, high=5)
ALGORITHM = Axis(key="algorithm", kind="categories", choices=("maml", "fomaml", "reptile"))
FIGURES = (landscape, parallel_coordinates, trial_curves, confirmation)


def trial(number: int, values: Sequence[Any], score: float | None, status: Any = None, **more: Any) -> Trial:
    keys = ("inner.lr", "outer.lr", "inner.steps", "algorithm")
    history = () if score is None else ((10, 2 * score), (20, score))
    return Trial(
        number=number,
        values=dict(zip(keys, values, strict=False)),
        score=score,
        status=status or ("diverged" if score is None else "finished"),
        steps=20,
        **{"history": history} | more,
    )


# On a grid of α and β with the best in its middle, the base in a corner and one trial diverged in another.
GRID = [(a, b) for a in (0.01, 0.03, 0.1, 0.3) for b in (1e-4, 1e-3, 1e-2)]
SCORES = [3.0, 2.0, 1.5, 1.2, 0.4, 0.9, 1.4, 0.3, 0.8, 2.5, 1.1, None]


def search(trials: Sequence[Trial] | None = None, **changed: Any) -> Searched:
    found = [trial(number, *pair) for number, pair in enumerate(zip(GRID, SCORES, strict=True))]
    values: dict[str, Any] = {
        "axes": [ALPHA, BETA],
        "trials": found if trials is None else trials,
        "metric": "val/mse_5",
        "higher_is_better": False,
        "best": 7,
        "base": 0,
        "confirmed": {},
    }
    return Searched(**values | changed)


def drawn(found: Figure | str) -> Figure:
    assert isinstance(found, Figure)
    found.draw_without_rendering()
    return found


def panel(found: Figure | str) -> Axes:
    return drawn(found).axes[0]


def marks(axes: Axes, gid: str) -> np.ndarray:
    """Where the marks of a status, or a ring, lie: [N, 2]."""
    found = [collection.get_offsets() for collection in axes.collections if collection.get_gid() == gid]
    return np.concatenate([np.asarray(offsets) for offsets in found]) if found else np.empty((0, 2))


def surfaces(axes: Axes) -> list[TriContourSet]:
    return [found for found in axes.collections if isinstance(found, TriContourSet) and found.filled]


def contours(axes: Axes) -> list[TriContourSet]:
    return [found for found in axes.collections if isinstance(found, TriContourSet) and not found.filled]


def lines(axes: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata(), dtype=float) for line in axes.lines}


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def assert_legend_is_whole(figure: Figure) -> None:
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


# --- landscape ---


def test_every_trial_is_a_mark_at_its_settings() -> None:
    trials = [*search().trials, trial(12, (0.02, 0.02), 4.0, "stopped"), trial(13, (0.5, 2e-4), None, "failed")]
    axes = panel(landscape(search(trials)))
    finished = [(one.values["inner.lr"], one.values["outer.lr"]) for one in trials if one.status == "finished"]
    assert {tuple(point) for point in marks(axes, "finished").tolist()} == set(finished)
    assert marks(axes, "stopped").tolist() == [[0.02, 0.02]]
    assert marks(axes, "diverged").tolist() == [[0.3, 1e-2]]
    assert marks(axes, "failed").tolist() == [[0.5, 2e-4]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("inner.lr (α)", "outer.lr (β)")
    assert not {(0.02, 0.02), (0.3, 1e-2)} & {tuple(point) for point in marks(axes, "finished").tolist()}


def test_best_and_present_setting_are_ringed_and_named_with_their_scores() -> None:
    figure = drawn(landscape(search()))
    axes = figure.axes[0]
    assert marks(axes, "ring 7").tolist() == [[0.1, 1e-3]]
    assert marks(axes, "ring 0").tolist() == [[0.01, 1e-4]]
    texts = {text.get_text() for text in axes.texts}
    assert {"best #7\n0.3", "present setting #0\n3"} <= texts
    assert "best #7: 0.3 at α 0.1, β 0.001; present setting #0: 3 at α 0.01, β 0.0001" in texts
    assert_legend_is_whole(figure)


def test_the_best_that_is_the_present_setting_is_named_once() -> None:
    axes = panel(landscape(search(base=7)))
    assert [text.get_text() for text in axes.texts if "best" in text.get_text()] == [
        "best, the present setting #7: 0.3 at α 0.1, β 0.001",
        "best, the present setting #7\n0.3",
    ]


def test_names_do_not_leave_the_panel_wherever_the_best_lies() -> None:
    for best, base in ((0, 10), (2, 0), (9, 2), (10, 9), (3, 4)):
        axes = panel(landscape(search(best=best, base=base)))
        inside = axes.get_window_extent()
        for text in axes.texts:
            if text.get_text() and text.get_bbox_patch() is not None:
                box = text.get_window_extent()
                assert inside.x0 <= box.x0 <= box.x1 <= inside.x1, (best, base)
                assert inside.y0 <= box.y0 <= box.y1 <= inside.y1, (best, base)


def corners(surface: TriContourSet) -> np.ndarray:
    return np.concatenate([path.vertices for path in surface.get_paths() if len(path.vertices)])


def test_the_surface_ends_where_the_points_do_and_leaves_out_diverged_ones() -> None:
    searched = search()
    (surface,) = surfaces(panel(landscape(searched)))
    # In its own units an axis goes from 0 to 1; α from 0.01 to 0.3 of 0.001 to 1, β from 1e-4 to 1e-2 of 1e-5 to 0.1.
    points = corners(surface)
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose(low, [1 / 3, 1 / 4], atol=1e-9)
    np.testing.assert_allclose(high, [math.log10(300) / 3, 3 / 4], atol=1e-9)
    diverged = np.array([math.log10(300) / 3, 3 / 4])
    assert np.linalg.norm(points - diverged, axis=1).min() > 0.1
    whole = [trial(one.number, list(one.values.values()), one.score or 1.0) for one in searched.trials]
    (surface,) = surfaces(panel(landscape(search(whole))))
    assert np.linalg.norm(corners(surface) - diverged, axis=1).min() < 1e-9


def test_nothing_is_interpolated_across_a_wide_gap() -> None:
    near = [
        trial(number, (a, b), 1.0 + number) for number, (a, b) in enumerate([(0.01, 1e-3), (0.02, 1e-3), (0.01, 2e-3)])
    ]
    far = trial(3, (0.9, 0.09), 0.5)
    (surface,) = surfaces(panel(landscape(search([*near, far], best=3))))
    assert corners(surface).max() < 0.6  # only the small triangle


@pytest.mark.parametrize(
    "trials",
    [
        [trial(0, (0.01, 1e-3), 2.0), trial(7, (0.1, 1e-3), 1.0)],
        [trial(n, (10.0 ** (-n / 8), 10.0 ** (-1 - n / 8)), 1.0 + (n != 7)) for n in range(8)],  # on a line
        [trial(n, (0.1, 0.01), 1.0 + (n != 7)) for n in range(8)],  # in one place
        [trial(0, (0.01, 1e-4), 2.0), trial(1, (1.0, 0.1), 2.0), trial(7, (0.001, 0.1), 1.0)],  # too far apart
    ],
)
def test_points_that_carry_no_surface_have_none(trials: list[Trial]) -> None:
    axes = panel(landscape(search(trials)))
    assert not surfaces(axes)
    assert len(marks(axes, "finished")) == len(trials)


def test_where_other_keys_were_searched_too_there_is_no_surface() -> None:
    trials = [trial(n, (*pair, 1 + n % 3), score) for n, (pair, score) in enumerate(zip(GRID, SCORES, strict=True))]
    axes = panel(landscape(search(trials, axes=[STEPS, ALPHA, BETA])))
    assert not surfaces(axes)
    assert axes.get_xlabel() == "inner.lr (α)"  # though it is not the first


def test_on_the_dashed_line_scores_are_those_of_the_present_setting() -> None:
    # Scores that are linear in log β alone: the line must be straight at that of the base.
    trials = [trial(n, (a, b), 1.0 - 0.2 * math.log10(b)) for n, (a, b) in enumerate(GRID)]
    figure = drawn(landscape(search(trials, base=1, best=0)))
    (line,) = contours(figure.axes[0])
    points = np.concatenate([path.vertices for path in line.get_paths()])
    np.testing.assert_allclose(points[:, 1], 0.5, atol=1e-6)  # β of 1e-3, in the middle between 1e-5 and 0.1
    assert "as good as the present setting" in legend_texts(figure)


def test_colours_are_those_of_scores_dark_for_the_best() -> None:
    for higher in (False, True):
        searched = search(higher_is_better=higher, best=0 if higher else 7, base=None)
        scale = scale_of(searched)
        assert scale is not None
        ranked = searched.ranked()
        brightness = [sum(scale.colour(one.score)[:3]) for one in ranked if one.score is not None]
        assert brightness == sorted(brightness)
        assert brightness[0] < 0.5 * brightness[-1]


def test_an_outlier_does_not_take_the_colours_of_the_others() -> None:
    usual = [trial(n, pair, 1.0 + 0.05 * n) for n, pair in enumerate(GRID)]
    plainly, with_outlier = (
        scale_of(search(trials, base=None)) for trials in (usual, [*usual, trial(99, (0.2, 0.02), 1e30)])
    )
    assert plainly is not None
    assert with_outlier is not None
    assert (with_outlier.low, with_outlier.high) == (plainly.low, plainly.high)
    assert (plainly.beyond, with_outlier.beyond) == (False, True)
    assert with_outlier.colour(1e30) == plainly.colour(plainly.high)


def test_the_scale_is_that_of_trials_trained_to_the_end_and_of_the_present_setting() -> None:
    ended = [trial(n, (0.1, 0.01), 1.0 + n / 10) for n in range(4)]
    early = [trial(n, (0.1, 0.01), 5.0, "stopped") for n in range(4, 9)]
    for base, high in ((None, 1.3), (8, 5.0)):
        scale = scale_of(search([*ended, *early], best=0, base=base))
        assert scale is not None
        assert (scale.low, scale.high) == (1.0, high)
    scale = scale_of(search([trial(0, (0.1, 0.01), 2.0, "stopped"), *ended[1:]], best=1, base=None))
    assert scale is not None
    assert scale.low == 1.1


@pytest.mark.parametrize("higher", [True, False])
def test_a_present_setting_beyond_compare_does_not_take_the_colours_of_the_others(higher: bool) -> None:
    sign = -1 if higher else 1
    usual = [trial(n, (0.1, 0.01), sign * (1.0 + n / 10)) for n in range(4)]
    for score, inside in ((15.0, True), (1e12, False)):
        searched = search([*usual, trial(9, (0.2, 0.01), sign * score)], best=0, base=9, higher_is_better=higher)
        scale = scale_of(searched)
        assert scale is not None
        assert (abs(scale.low if higher else scale.high) == score) == (inside and not higher)
        assert scale.low <= sign * 1.3 <= scale.high
        for draw in FIGURES[:3]:
            drawn(draw(searched))


def test_the_largest_scores_of_single_precision_can_be_drawn(tmp_path: Path) -> None:
    wild = [trial(n, (0.1 + n / 10, 0.01 + n / 99), 1.0 + n, history=[(10, 3e38), (20, -3e38)]) for n in range(4)]
    wild += [trial(7, (0.5, 0.001), 3e38, history=[(10, 1.0), (20, 3e38)])]
    for higher in (True, False):
        for draw in FIGURES[:3]:
            save(drawn(draw(search(wild, higher_is_better=higher, best=0, base=7))), tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("scores", "higher", "log"),
    [([0.1, 0.2, 1.0], False, True), ([0.5, 0.7, 1.0], False, False), ([-1.0, 0.2, 9.0], False, False),
     ([0.1, 0.2, 1.0], True, False), ([0.0, 0.2, 1.0], False, False)],
)  # fmt: skip
def test_colours_are_logarithmic_for_errors_of_a_wide_range(scores: list[float], higher: bool, log: bool) -> None:
    trials = [trial(number, (0.1, 0.01), score) for number, score in enumerate(scores)]
    scale = scale_of(search(trials, higher_is_better=higher, best=None, base=None))
    assert scale is not None
    assert scale.log == log
    drawn(landscape(search(trials, higher_is_better=higher, best=None, base=None)))


def test_one_numeric_key_has_its_scores_against_it() -> None:
    trials = [trial(n, (a, 0, 0, "maml"), score) for n, (a, score) in enumerate([(0.01, 3.0), (0.1, 0.5), (0.5, None)])]
    axes = panel(landscape(search(trials, axes=[ALGORITHM, ALPHA], best=1)))
    assert sorted(marks(axes, "finished").tolist()) == [[0.01, 3.0], [0.1, 0.5]]
    ((x, y),) = marks(axes, "diverged").tolist()
    assert (x, y) == (0.5, axes.get_ylim()[1])
    assert lines(axes)["as good as the present setting"].tolist() == [3.0, 3.0]
    assert axes.get_ylabel() == "validation mse after 5 inner steps"


def test_a_grid_of_numbers_has_a_landscape() -> None:
    grid = [
        Axis(key="outer.lr", kind="categories", choices=(1e-4, 1e-3, 1e-2)),
        Axis(key="inner.lr", kind="categories", choices=(0.01, 0.03, 0.1, 0.3)),
    ]
    axes = panel(landscape(search(axes=grid)))
    assert (axes.get_xlabel(), axes.get_xscale()) == ("inner.lr (α)", "log")
    assert surfaces(axes)


def test_a_present_setting_outside_of_the_space_is_in_the_picture() -> None:
    axes = panel(landscape(search([trial(0, (1e-5, 0.5), 3.0), *search().trials[1:]])))
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert low < 1e-5 < high
    assert bottom < 0.5 < top


# --- parallel coordinates ---


def mixed() -> Searched:
    trials = [
        trial(0, (0.01, 1e-3, 1, "maml"), 0.90),
        trial(1, (0.1, 1e-2, 5, "reptile"), 0.97),
        trial(2, (0.5, 1e-4, 3, "maml"), 0.80, "stopped"),
        trial(3, (1.0, 1e-1, 2, "fomaml"), None),
        trial(4, (0.2, 1e-3, 2, "fomaml"), None, "failed"),
    ]
    every = [ALPHA, BETA, STEPS, ALGORITHM]
    return search(trials, axes=every, metric="val/accuracy_3", higher_is_better=True, best=1)


def test_a_line_passes_the_settings_of_its_trial_and_ends_at_its_score() -> None:
    figure = drawn(parallel_coordinates(mixed()))
    found = lines(figure.axes[0])
    np.testing.assert_allclose(found["best #1"], [2 / 3, 0.75, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(found["present setting #0"][:3], [1 / 3, 0.5, 0.0])
    np.testing.assert_allclose(found["present setting #0"][-1], 0.1 / 0.17)
    assert found["_#2"][-1] == 0.0
    assert found["_#3"][-1] < 0  # below the axis, where diverged ones end
    assert "_#4" not in found
    assert_legend_is_whole(figure)


def test_lines_through_one_category_are_spread_in_the_order_of_scores() -> None:
    found = lines(panel(parallel_coordinates(mixed())))
    better, worse = found["present setting #0"][3], found["_#2"][3]
    assert worse < 0 < better
    assert better - worse < 0.1


def test_best_and_present_setting_stand_out_and_diverged_trials_are_grey() -> None:
    axes = panel(parallel_coordinates(mixed()))
    looks = {str(line.get_label()): line for line in axes.lines}
    assert to_rgba(looks["best #1"].get_color()) == to_rgba(BEST)
    assert to_rgba(looks["present setting #0"].get_color()) == to_rgba(BASE)
    assert to_rgba(looks["_#3"].get_color()) == to_rgba(LOST)
    assert looks["best #1"].get_linewidth() > looks["_#2"].get_linewidth()


def test_errors_are_better_upwards_too() -> None:
    found = lines(panel(parallel_coordinates(search())))
    assert found["best #7"][-1] == 1.0
    assert found["present setting #0"][-1] == 0.0


def test_categories_and_whole_numbers_are_ticks() -> None:
    texts = [text.get_text() for text in panel(parallel_coordinates(mixed())).texts]
    assert {"maml", "fomaml", "reptile", "1", "2", "3", "4", "5", "0.001", "0.01"} <= set(texts)
    assert "algorithm" in texts


def test_rulers_know_values_outside_of_their_space() -> None:
    odd = [trial(0, (0.1, 0.01, 9, "mine:Own"), 1.0), trial(1, (0.0, 0.01, 1, "maml"), 1.0), trial(2, (0.1,), 1.0)]
    categories = ruler(ALGORITHM, odd)
    assert categories.labels == ("maml", "fomaml", "reptile", "mine:Own")
    np.testing.assert_array_equal(categories.places(odd), [1.0, 0.0, math.nan])
    np.testing.assert_array_equal(ruler(STEPS, odd).places(odd), [1.0, 0.0, math.nan])
    np.testing.assert_allclose(ruler(ALPHA, odd).places(odd), [2 / 3, math.nan, 2 / 3])  # no logarithm of zero


# --- trials ---


def test_curves_are_those_of_the_trials_and_marked_where_they_were_stopped() -> None:
    trials = [
        trial(0, (0.1, 0.01), 0.5),
        trial(7, (0.2, 0.01), 0.4, history=[(20, 0.4), (10, 0.7)]),
        trial(2, (0.2, 0.02), 0.6, "stopped", history=[(10, 0.6)]),
        trial(3, (0.3, 0.02), None, history=[(10, 0.9), (20, 1e12), (30, math.inf)]),
        trial(4, (0.3, 0.03), None),
    ]
    figure = drawn(trial_curves(search(trials)))
    axes = figure.axes[0]
    found = lines(axes)
    assert found["best #7"].tolist() == [0.7, 0.4]
    assert found["present setting #0"].tolist() == [1.0, 0.5]
    assert found["_#3"][:2].tolist() == [0.9, 1e12]
    assert "_#4" not in found
    assert found["stopped early (1)"].tolist() == [0.6]
    top = axes.get_ylim()[1]
    assert found["diverged (1)"].tolist() == [top]  # at the edge
    assert top < 2
    assert_legend_is_whole(figure)


def test_curves_of_wide_errors_and_of_trials_stopped_soon_are_logarithmic() -> None:
    def curve(number: int, end: int, last: float) -> Trial:
        return trial(number, (0.1, 0.01), last, history=[(10, 4.0), (end, last)])

    axes = panel(trial_curves(search([curve(n, 1000 if n == 7 else 20, 0.05 if n == 7 else 3.0) for n in range(8)])))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    axes = panel(trial_curves(search([curve(n, 1000, 3.0) for n in range(8)])))
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")


def test_the_best_few_are_ranked_by_fresh_tasks_with_their_intervals() -> None:
    fresh = {7: {"mean": 0.5, "ci95": 0.05}, 4: {"mean": 0.45, "ci95": 0.04}, 0: {"mean": None, "ci95": None}}
    figure = drawn(confirmation(search(confirmed=fresh)))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["#4\nα 0.03, β 0.001", "best #7\nα 0.1, β 0.001"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first uppermost
    segments = [bar.lines[2][0].get_segments()[0][:, 0] for bar in axes.containers]  # type: ignore[attr-defined]
    np.testing.assert_allclose(segments, [[0.41, 0.49], [0.45, 0.55]])
    chosen_by = [float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == "D"]
    assert chosen_by == [0.4, 0.3]
    assert_legend_is_whole(figure)


# --- all of them ---


def nothing() -> Searched:
    return search([], best=None, base=None)


def all_diverged() -> Searched:
    return search([trial(number, pair, None) for number, pair in enumerate(GRID)], best=None)


def all_failed() -> Searched:
    return search([trial(number, pair, None, "failed") for number, pair in enumerate(GRID)], best=None)


def one() -> Searched:
    return search([trial(7, (0.1, 0.01), 0.5)], base=None, confirmed={7: {"mean": 0.6, "ci95": 0.0}})


def words_alone() -> Searched:
    return search([trial(7, (0.1, 0.01, 1, "maml"), 0.5)], axes=[ALGORITHM], base=None)


def running() -> Searched:
    return search([trial(0, (0.1, 0.01), None, "running"), trial(7, (0.2, 0.01), 0.5, "running")])


def without_names() -> Searched:
    trials = [trial(n, (), 0.5 + n) for n in range(3)]  # that lack their keys
    return search(trials, best=None, base=None)


@pytest.mark.parametrize(
    ("searched", "missing"),
    [
        (search, {"confirmation"}),
        (mixed, {"confirmation"}),
        (nothing, {"landscape", "parallel_coordinates", "trial_curves", "confirmation"}),
        (all_diverged, {"trial_curves", "confirmation"}),
        (all_failed, {"landscape", "parallel_coordinates", "trial_curves", "confirmation"}),
        (one, set()),
        (words_alone, {"landscape", "confirmation"}),
        (running, {"confirmation"}),
        (without_names, {"confirmation"}),
    ],
)
def test_what_cannot_be_drawn_says_why(searched: Callable[[], Searched], missing: set[str]) -> None:
    found = {draw.__name__: draw(searched()) for draw in FIGURES}
    for name, figure in found.items():
        if name in missing:
            assert isinstance(figure, str)
            assert " is left out: " in figure or " are left out: " in figure
        else:
            drawn(figure)


def test_all_diverged_is_a_map_of_crosses() -> None:
    axes = panel(landscape(all_diverged()))
    assert len(marks(axes, "diverged")) == len(GRID)
    assert "present setting #0\ndiverged" in {text.get_text() for text in axes.texts}


def test_equal_searches_give_equal_bytes(tmp_path: Path) -> None:
    fresh = {7: {"mean": 0.5, "ci95": 0.05}}
    for draw in FIGURES:
        for name in ("a.png", "b.png"):
            save(drawn(draw(search(confirmed=fresh))), tmp_path / name)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_figures_do_not_read_dollar_signs_as_mathematics() -> None:
    odd = Axis(key="task.$x$^{", kind="linear", low=0.0, high=1.0)
    word = Axis(key="task.name", kind="categories", choices=("$a$^{", "b"))
    trials = [
        Trial(number=n, values={odd.key: n / 7, word.key: "$a$^{"}, score=1.0 + n, status="finished", steps=1)
        for n in range(8)
    ]
    searched = search(trials, axes=[odd, word], metric="val/$y$^{_3", confirmed={7: {"mean": 1.0, "ci95": 0.1}})
    for draw in (landscape, parallel_coordinates, confirmation):
        drawn(draw(searched))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("val/mse_1", ("mse", "validation mse after 1 inner step")),
        ("val/return_10", ("return", "validation return after 10 inner steps")),
        ("val/mse", ("val/mse", "val/mse")),
        ("own", ("own", "own")),
    ],
)
def test_the_metric_in_words(metric: str, words: tuple[str, str]) -> None:
    assert metric_of(search(metric=metric)) == words


def test_settings_are_written_so_that_overrides_take_them() -> None:
    assert [plain(value) for value in (1e-5, True, None, [64, 64], "maml", "null", np.float64(0.5), 3)] == [
        "1.0e-05", "true", "null", "[64, 64]", "maml", "'null'", "0.5", "3",
    ]  # fmt: skip
    assert setting("my_package.algorithms.module:Name") == "…orithms.module:Name"

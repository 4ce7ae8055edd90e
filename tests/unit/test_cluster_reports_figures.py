"""Figures hold the numbers they were given, and nothing covers them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.config.schema import parse
from cluster.errors import MetarayError
from cluster.reports import figures
from cluster.setups.build import build
from cluster.setups.episodes import EpisodeSetup
from meta.params import Params
from tasks.family import Family, FamilySpec, TaskKey, draw_batch

LR = 0.01


def records(name: str, values: Sequence[float | None], every: int = 10) -> list[dict[str, Any]]:
    return [{"step": every * (i + 1), "time": 0.0, "values": {name: value}} for i, value in enumerate(values)]


def line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def legends(figure: Figure) -> list[list[str]]:
    return [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]


def assert_legends_cover_nothing(figure: Figure) -> None:
    figure.draw_without_rendering()
    whole = figure.bbox
    assert figure.legends
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert whole.x0 <= box.x0 <= box.x1 <= whole.x1
        assert whole.y0 <= box.y0 <= box.y1 <= whole.y1
        for axes in figure.axes:
            assert not box.overlaps(axes.get_tightbbox())


def score(mean: float | None, ci95: float | None = 0.1) -> dict[str, Any]:
    return {"mean": mean, "ci95": ci95, "median": mean, "diverged": 0 if mean is not None else 3}


def evaluation(metric: str = "mse", **baselines: Any) -> dict[str, Any]:
    steps = {"0": score(3.0, 0.3), "1": score(0.6, 0.06), "10": score(0.2, 0.02)}
    return {"metric": metric, "split": "test", "tasks": 600, "steps": steps, "baselines": baselines}


# --- learning curves ---


def test_training_losses_lie_in_the_first_panel_in_order_of_steps() -> None:
    shuffled = list(reversed(records("train/loss", [4.0, 2.0, 1.0])))
    figure = figures.learning_curves({"maml": shuffled, "pretrain": records("train/loss", [3.0, 2.9])})
    (axes,) = figure.axes
    x, y = line(axes, "maml")
    assert x.tolist() == [10, 20, 30]
    assert y.tolist() == [4.0, 2.0, 1.0]
    assert line(axes, "pretrain")[1].tolist() == [3.0, 2.9]
    assert axes.get_yscale() == "log"
    assert legends(figure) == [["maml", "pretrain"]]
    assert_legends_cover_nothing(figure)


def test_a_loss_that_is_not_positive_stays_on_a_linear_axis() -> None:
    figure = figures.learning_curves({"maml": records("train/loss", [0.5, -0.1])})
    assert figure.axes[0].get_yscale() == "linear"


def test_returns_take_the_place_of_losses_before_and_after_adaptation() -> None:
    def trained(**values: float) -> list[dict[str, Any]]:
        return [{"step": 5, "values": {f"train/{name}": value for name, value in {"loss": 0.1, **values}.items()}}]

    figure = figures.learning_curves(
        {
            "maml": trained(**{"return": -20.0, "return_before": -50.0}),
            "oracle": trained(**{"return": -10.0}),
            "late": [],
        }
    )
    (axes,) = figure.axes
    assert [handle.get_label() for handle in axes.lines] == ["maml, before adaptation", "maml, adapted", "oracle"]
    assert [float(np.asarray(handle.get_ydata())[0]) for handle in axes.lines] == [-50, -20, -10]
    before, after, oracle = axes.lines
    assert before.get_color() == after.get_color() != oracle.get_color()
    assert before.get_linestyle() != after.get_linestyle()
    assert (axes.get_ylabel(), axes.get_yscale()) == ("training return", "linear")
    assert_legends_cover_nothing(figure)


def test_many_positive_returns_stay_on_a_linear_axis() -> None:
    (axes,) = figures.learning_curves({"maml": records("train/return", np.linspace(1, 500, 400).tolist())}).axes
    assert axes.get_yscale() == "linear"
    assert [handle.get_label() for handle in axes.lines] == ["_maml", "maml"]


def test_missing_values_are_gaps() -> None:
    figure = figures.learning_curves({"maml": records("train/loss", [4.0, None, math.inf, 1.0])})
    assert np.isnan(line(figure.axes[0], "maml")[1]).tolist() == [False, True, True, False]
    figure.draw_without_rendering()


def test_the_last_record_of_a_step_counts() -> None:
    twice = [*records("train/loss", [4.0, 3.0]), {"step": 20, "time": 1.0, "values": {"train/loss": 2.5}}]
    assert line(figures.learning_curves({"maml": twice}).axes[0], "maml")[1].tolist() == [4.0, 2.5]


def test_many_records_lie_under_their_running_mean() -> None:
    values = np.random.default_rng(0).random(400) + 1
    (axes,) = figures.learning_curves({"maml": records("train/loss", values.tolist())}).axes
    assert line(axes, "_maml")[1].tolist() == values.tolist()
    steps, means = line(axes, "maml")
    # Ten records to a mean, which stands at the fifth of them.
    assert steps[0] == 10 * 5
    np.testing.assert_allclose(means, [values[i : i + 10].mean() for i in range(391)], rtol=1e-12)
    assert len(steps) == 391


def test_validation_has_a_panel_per_label_with_a_line_per_number_of_inner_steps() -> None:
    def validated(scale: float) -> list[dict[str, Any]]:
        values = {f"val/mse_{n}": scale / (1 + n) for n in (10, 1, 0)}
        return [*records("train/loss", [4.0, 3.0]), {"step": 20, "time": 0.0, "values": values}]

    figure = figures.learning_curves({"maml": validated(4.0), "pretrain": validated(2.0)})
    training, maml, pretrain = figure.axes
    assert training.get_ylabel() == "training loss"
    assert [axes.get_title(loc="left") for axes in (maml, pretrain)] == ["Validation, maml", "Validation, pretrain"]
    assert [handle.get_label() for handle in maml.lines] == ["0", "1", "10"]
    assert line(maml, "10")[1].tolist() == [4.0 / 11]
    assert line(pretrain, "1")[1].tolist() == [1.0]
    assert maml.get_ylim() == pretrain.get_ylim()
    assert maml.get_ylabel() == "mse"
    assert legends(figure) == [["maml", "pretrain"], ["0", "1", "10"]]
    assert_legends_cover_nothing(figure)


def test_of_many_numbers_of_inner_steps_the_first_and_last_are_kept() -> None:
    values = {f"val/accuracy_{n}": 0.5 for n in range(51)}
    figure = figures.learning_curves({"maml": [{"step": 5, "time": 0.0, "values": values}]})
    labels = [handle.get_label() for handle in figure.axes[0].lines]
    assert len(labels) == 11
    assert (labels[0], labels[-1]) == ("0", "50")


@pytest.mark.parametrize("series", [{}, {"maml": []}, {"maml": records("train/steps_per_second", [9.0])}])
def test_nothing_to_draw_is_an_error(series: dict[str, Any]) -> None:
    with pytest.raises(
        MetarayError, match=r"expected records with train/loss, train/return or val/.* received none; train"
    ):
        figures.learning_curves(series)


# --- adaptation ---


def test_adaptation_holds_means_and_intervals_of_run_and_baselines() -> None:
    figure = figures.adaptation(evaluation(pretrain={"0": score(3.0), "10": score(2.2)}), "maml")
    (axes,) = figure.axes
    x, y = line(axes, "maml")
    assert x.tolist() == [0, 1, 10]
    assert y.tolist() == [3.0, 0.6, 0.2]
    assert line(axes, "pretrain")[0].tolist() == [0, 10]
    corners = axes.collections[0].get_paths()[0].vertices
    at = {number: sorted({round(float(v), 9) for step, v in corners if step == number}) for number in (0, 1, 10)}
    assert at == {0: [2.7, 3.3], 1: [0.54, 0.66], 10: [0.18, 0.22]}
    assert axes.get_title(loc="left") == "Adaptation to 600 test tasks"
    assert axes.get_xticks().tolist() == [0, 1, 10]
    assert legends(figure) == [["maml", "pretrain"]]
    assert_legends_cover_nothing(figure)


def test_a_mean_that_is_not_finite_is_a_gap() -> None:
    thrown_off = evaluation() | {"steps": {"0": score(3.0), "1": score(0.5), "10": score(None, None)}}
    figure = figures.adaptation(thrown_off, "maml")
    assert np.isnan(line(figure.axes[0], "maml")[1]).tolist() == [False, False, True]
    figure.draw_without_rendering()


@pytest.mark.parametrize(("lowest", "scale"), [(1.0, "linear"), (0.01, "log")])
def test_errors_that_differ_much_are_drawn_on_a_logarithmic_axis(lowest: float, scale: str) -> None:
    figure = figures.adaptation(evaluation() | {"steps": {"0": score(3.0), "1": score(lowest)}}, "maml")
    assert figure.axes[0].get_yscale() == scale
    figure.draw_without_rendering()  # the interval reaches below zero


def test_accuracy_is_read_in_percent_and_a_return_on_a_linear_axis() -> None:
    figure = figures.adaptation(evaluation("accuracy") | {"steps": {"0": score(0.2), "1": score(0.9)}}, "maml")
    assert figure.axes[0].yaxis.get_major_formatter()(0.5) == "50%"
    figure = figures.adaptation(evaluation("return") | {"steps": {"0": score(1.0), "1": score(500.0)}}, "maml")
    assert figure.axes[0].get_yscale() == "linear"


def test_returns_stand_with_how_much_was_sampled() -> None:
    sampled = {"shot": 20, "horizon": 200, "later_lr": 0.5, "inner_lr": 0.1, "batch_norm": None}
    steps = {"0": score(-60.0, 5.0), "1": score(-20.0, 1.5)}
    oracle = {number: score(-10.0, 1.0) for number in steps}
    figure = figures.adaptation(evaluation("return", oracle=oracle) | sampled | {"steps": steps}, "maml")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["20 trajectories of at most 200 steps per inner step"]
    assert line(axes, "oracle")[1].tolist() == [-10, -10]
    assert axes.get_title(loc="left").strip() == "Adaptation to 600 test tasks"
    assert_legends_cover_nothing(figure)


def test_a_dollar_sign_in_a_name_starts_no_formula() -> None:
    figure = figures.adaptation(evaluation(**{"a$_b$": {"0": score(1.0)}}), "$\\frac{$")
    figure.draw_without_rendering()
    learned = figures.learning_curves({"$\\frac{$": records("train/loss", [1.0]), "b": records("val/a$^$_1", [1.0])})
    learned.draw_without_rendering()


# --- regression ---


def setup(algorithm: str = "maml", **task: Any) -> tuple[EpisodeSetup, Params]:
    built = build(
        parse(
            {
                "task": {"family": "sinusoid", "shot": 7, "inputs": [-4.0, 3.0]} | task,
                "model": {"name": "mlp", "hidden": [6], "activation": "tanh", "init_std": None},
                "inner": {"lr": LR, "steps": 1},
                "outer": {"steps": 1},
                "meta_batch": 2,
                "algorithm": algorithm,
                "dtype": "float64",
                "seed": 5,
            }
        )
    )
    return built, built.initial_params()


def descended(learned: tuple[EpisodeSetup, Params], index: int, x: np.ndarray, steps: int) -> np.ndarray:
    """Predictions after ``steps`` of gradient descent, by torch's own autograd."""
    built, params = learned
    support = draw_batch(built.family, built.seed, "test", range(index, index + 1), built.dtype).support
    model = built.algorithm.model  # type: ignore[attr-defined]
    theta = {name: value.clone().requires_grad_() for name, value in params.items()}
    for _ in range(steps):
        loss = ((model.apply(theta, support.inputs[0]) - support.targets[0]) ** 2).mean()
        slopes = torch.autograd.grad(loss, list(theta.values()))
        theta = {
            name: (value - LR * slope).detach().requires_grad_()
            for (name, value), slope in zip(theta.items(), slopes, strict=True)
        }
    found: np.ndarray = model.apply(theta, torch.from_numpy(x)[:, None]).detach().numpy()[:, 0]
    return found


def test_regression_draws_truth_support_and_the_predictions_after_each_number_of_steps() -> None:
    maml = setup()
    other = (maml[0], {name: value + 0.1 for name, value in maml[1].items()})
    figure = figures.regression({"MAML": maml, "other": other}, task_indices=(0, 3), steps=(0, 1, 10))
    grid = np.array(figure.axes).reshape(2, 2)
    family = maml[0].family
    for row, index in enumerate((0, 3)):
        episode = family.draw(TaskKey(5, "test", index))
        amplitude, phase = episode.description.tolist()
        for column, learned in enumerate((maml, other)):
            axes = grid[row, column]
            x, truth = line(axes, "truth")
            assert (x[0], x[-1]) == (-4.0, 3.0)
            np.testing.assert_allclose(truth, amplitude * np.sin(x - phase), rtol=1e-12)
            points = line(axes, "support points")
            assert points[0].tolist() == episode.support.inputs[:, 0].tolist()
            assert points[1].tolist() == episode.support.targets[:, 0].tolist()
            for label, steps in (("before adaptation", 0), ("1 step", 1), ("10 steps", 10)):
                expected = descended(learned, index, x, steps)
                np.testing.assert_allclose(line(axes, label)[1], expected, rtol=0, atol=1e-12)
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["MAML", "other"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["y, test task 0", "y, test task 3"]
    assert legends(figure) == [["truth", "before adaptation", "1 step", "10 steps", "support points"]]
    assert_legends_cover_nothing(figure)


def test_regression_shows_a_single_learner() -> None:
    figure = figures.regression({"maml": setup()})
    assert len(figure.axes) == 2
    assert_legends_cover_nothing(figure)


def test_regression_hands_an_oracle_its_description() -> None:
    oracle = setup("oracle")
    figure = figures.regression({"oracle": oracle}, task_indices=(0,), steps=(0, 1))
    before, after = line(figure.axes[0], "before adaptation")[1], line(figure.axes[0], "1 step")[1]
    assert before.tolist() == after.tolist()


def test_a_prediction_that_was_thrown_off_leaves_the_others_legible() -> None:
    built, params = setup()
    broken = {name: value * 1e6 for name, value in params.items()}
    figure = figures.regression({"broken": (built, broken)}, task_indices=(0,), steps=(0, 10))
    low, high = figure.axes[0].get_ylim()
    truth = line(figure.axes[0], "truth")[1]
    assert low < truth.min() < truth.max() < high
    assert high - low < 13 * (truth.max() - truth.min())
    figure.draw_without_rendering()


class Unlike:
    """A sinusoid family changed in one respect."""

    def __init__(self, family: Family, spec: FamilySpec, *, curve: bool) -> None:
        self.spec, self.draw = spec, family.draw
        if curve:
            self.function = family.function  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "curve", "possible"),
    [({}, True, True), ({}, False, False), ({"outputs": 2}, True, False), ({"input_shape": (2,)}, True, False)],
)
def test_only_curves_of_one_input_and_one_output_can_be_drawn(
    change: dict[str, Any], curve: bool, possible: bool
) -> None:
    built, params = setup()
    family = Unlike(built.family, replace(built.family.spec, **change), curve=curve)
    changed = replace(built, family=family)
    assert figures.can_draw_regression(changed) is possible
    if not possible:
        with pytest.raises(MetarayError, match=r"expected tasks of one input .* unfit \['other'\]; leave"):
            figures.regression({"maml": (built, params), "other": (changed, params)})


def test_without_a_range_of_inputs_curves_span_the_tasks_points() -> None:
    built, params = setup()
    changed = replace(built, family=Unlike(built.family, built.family.spec, curve=True))
    x, _ = line(figures.regression({"maml": (changed, params)}, task_indices=(1,)).axes[0], "truth")
    support, query, _ = built.family.draw(TaskKey(5, "test", 1))
    points = torch.cat([support.inputs, query.inputs])
    assert (x[0], x[-1]) == (float(points.min()), float(points.max()))


@pytest.mark.parametrize("missing", ["learned", "tasks"])
def test_regression_of_nothing_is_an_error(missing: str) -> None:
    with pytest.raises(MetarayError, match="regression figure"):
        figures.regression({} if missing == "learned" else {"maml": setup()}, task_indices=())


# --- files ---


def test_saved_figures_are_equal_bytes_without_a_date_or_version(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "deeper" / "b.png"]
    for path in paths:
        figures.save(figures.adaptation(evaluation(), "maml"), path)
    data = paths[0].read_bytes()
    assert data == paths[1].read_bytes()
    assert data.startswith(b"\x89PNG")
    assert b"tEXt" not in data
    assert int.from_bytes(data[16:20], "big") == round(6.6 * 150)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "deeper"]


def test_a_figure_that_cannot_be_drawn_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    figures.save(figures.adaptation(evaluation(), "maml"), path)
    before = path.read_bytes()
    broken = figures.adaptation(evaluation(), "maml")
    broken.text(0.5, 0.5, "$\\frac{$")
    with pytest.raises(ValueError, match="frac"):
        figures.save(broken, path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]


def test_drawing_changes_no_global_settings(tmp_path: Path) -> None:
    def current() -> dict[str, Any]:
        return {name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"}  # asking for it chooses one

    before = current()
    figures.save(figures.learning_curves({"maml": records("train/loss", [2.0, 1.0])}), tmp_path / "a.png")
    figures.regression({"maml": setup()})
    assert current() == before

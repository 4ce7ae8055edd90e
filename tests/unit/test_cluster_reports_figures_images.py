"""The figure of an image task tells what was shown, what was predicted, and whether it was right."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cluster.config.schema import parse
from cluster.errors import MetarayError
from cluster.reports import figures
from cluster.reports.figures.images import FRAMES
from cluster.reports.run_page import draw_figures
from cluster.setups.build import build
from cluster.setups.episodes import EpisodeSetup
from meta.episode import Episode, place, stack, unstack
from meta.params import Params
from tasks.data.writer import StoreWriter
from tasks.family import SPLITS, FamilySpec, TaskKey

SIZE = 6
PER_CLASS = 14


def write_store(root: Path, channels: int, classes: int = 12) -> Path:
    rng = np.random.Generator(np.random.Philox(7))
    with StoreWriter(root, name="squares", image_shape=(SIZE, SIZE, channels)) as writer:
        for split in SPLITS:
            writer.begin(split, [f"{split} {number}" for number in range(classes)])
            for _ in range(classes):
                ink = rng.random((PER_CLASS, SIZE, SIZE, channels)) < 0.3
                writer.add((ink * rng.integers(100, 256, ink.shape)).astype(np.uint8))
            writer.end()
    return root


def built(root: Path, **task: Any) -> tuple[EpisodeSetup, Params]:
    setup = build(
        parse(
            {
                "task": {"family": "images", "root": str(root), "way": 3, "shot": 2, "query": 4} | task,
                "model": {"name": "mlp", "hidden": [8], "init_std": None},
                "inner": {"lr": 0.5, "steps": 1},
                "outer": {"steps": 1},
                "meta_batch": 1,
                "seed": 5,
            }
        )
    )
    return setup, setup.initial_params()


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("grey") / "store", 1)


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("rgb") / "store", 3)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def images(axes: Axes) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axes.images]


def classes_after(setup: EpisodeSetup, params: Params, index: int, steps: int) -> tuple[Episode, list[int]]:
    episode = unstack(place(stack([setup.family.draw(TaskKey(5, "test", index))]), setup.dtype, "cpu"))
    outputs = setup.algorithm.predict(params, episode.support, episode.query.inputs, steps)
    return episode, outputs.argmax(dim=-1).tolist()


def test_every_image_of_a_small_task_is_shown_with_its_predictions(grey: Path) -> None:
    setup, params = built(grey)
    figure = figures.episode(setup, params, index=3, steps=4)
    (axes,) = figure.axes
    episode, before = classes_after(setup, params, 3, 0)
    _, after = classes_after(setup, params, 3, 4)
    truth = episode.query.targets.tolist()
    assert before != after
    # Row by row: two support images, then four query images. Ink is shown dark.
    expected = []
    for row in range(3):
        for examples in episode[:2]:
            expected += [1 - image for image in examples.inputs[examples.targets == row][:, 0].double().numpy()]
    shown = images(axes)
    assert len(shown) == len(expected) == 18
    for image, pixels in zip(shown, expected, strict=True):
        assert image.shape == (SIZE, SIZE, 3)
        for channel in range(3):
            np.testing.assert_allclose(image[..., channel], pixels, atol=1e-6)
    marks = []
    for number, true in enumerate(truth):
        marks += [f"{'ABC'[found]} {'✓' if found == true else '✗'}" for found in (before[number], after[number])]
    assert [text for text in words(figure) if text[0] in "ABC" and text[1:] in {" ✓", " ✗"}] == marks
    assert words(figure).count("→") == 12
    right = np.mean([found == true for found, true in zip(after, truth, strict=True)])
    was_right = np.mean([found == true for found, true in zip(before, truth, strict=True)])
    headings = {
        "Test task 3: 3-way 2-shot",
        f"Accuracy on all 12 query images: {100 * was_right:.0f} % before, {100 * right:.0f} % after 4 inner steps",
        "support",
        "query",
    }
    assert headings <= set(words(figure))


def test_right_and_wrong_differ_by_more_than_colour(grey: Path) -> None:
    setup, params = built(grey)
    (axes,) = figures.episode(setup, params, steps=1).axes
    episode, after = classes_after(setup, params, 0, 1)
    right = [found == true for found, true in zip(after, episode.query.targets.tolist(), strict=True)]
    assert True in right
    assert False in right
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    framed = [patch for patch in frames if patch.get_linewidth() > 1][:12]
    assert [to_hex(patch.get_edgecolor()) for patch in framed] == [FRAMES[found]["edgecolor"] for found in right]
    assert [patch.get_linestyle() in ("-", "solid") for patch in framed] == right
    key = [text.get_text() for text in axes.texts[-3:]]
    assert [text for text in key if "right" in text or "wrong" in text] == ["✓ right", "✗ wrong"]


def test_rgb_images_keep_their_colours(rgb: Path) -> None:
    setup, params = built(rgb)
    (axes,) = figures.episode(setup, params, steps=1).axes
    episode = setup.family.draw(TaskKey(5, "test", 0))
    np.testing.assert_allclose(images(axes)[0], episode.support.inputs[0].permute(1, 2, 0).numpy(), atol=1e-6)


class Changed:
    """A family whose spec or inputs are changed."""

    def __init__(self, family: Any, spec: FamilySpec, scale: float = 1.0, shift: float = 0.0) -> None:
        self.spec, self._family, self._scale, self._shift = spec, family, scale, shift

    def draw(self, key: TaskKey) -> Episode:
        episode = self._family.draw(key)
        support, query = (
            examples._replace(inputs=examples.inputs * self._scale + self._shift) for examples in episode[:2]
        )
        return episode._replace(support=support, query=query)


def test_inputs_of_another_range_are_brought_into_the_one_that_can_be_shown(rgb: Path) -> None:
    setup, params = built(rgb)
    changed = replace(setup, family=Changed(setup.family, setup.family.spec, 4.0, -2.0))
    (axes,) = figures.episode(changed, params, steps=1).axes
    shown = np.stack(images(axes))
    assert shown.min() == 0
    assert 0.9 < shown.max() <= 1
    episode = setup.family.draw(TaskKey(5, "test", 0))
    whole = torch.cat([episode.support.inputs, episode.query.inputs])
    np.testing.assert_allclose(shown[0], (episode.support.inputs[0] / whole.max()).permute(1, 2, 0), atol=1e-6)


def test_a_large_task_is_shown_in_part_and_says_so(grey: Path) -> None:
    setup, params = built(grey, way=12, shot=6, query=8)
    figure = figures.episode(setup, params, steps=1)
    assert len(figure.axes[0].images) == 10 * (5 + 7)
    assert "Test task 0: 12-way 6-shot, 10 of 12 classes shown" in words(figure)
    assert "support, 5 of 6 per class" in words(figure)
    assert "query, 7 of 8 per class" in words(figure)
    assert any("all 96 query images" in text for text in words(figure))


@pytest.mark.parametrize("task", [{"way": 2, "shot": 1, "query": 1}, {}, {"way": 12, "shot": 5, "query": 9}])
def test_no_text_covers_another_or_an_image(grey: Path, task: dict[str, Any]) -> None:
    figure = figures.episode(*built(grey, **task), steps=10)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    pictures = [image.get_window_extent() for image in axes.images]
    frames = [patch.get_window_extent() for patch in axes.patches]
    for number, box in enumerate(boxes):
        name = axes.texts[number].get_text()
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, name
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, name
        assert not any(box.overlaps(other) for other in boxes[:number]), name
        assert not any(box.overlaps(picture) for picture in pictures), name
        assert not any(box.overlaps(frame) for frame in frames), name


def test_equal_figures_are_equal_bytes(grey: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        figures.save(figures.episode(*built(grey), steps=1), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "change", [{"objective": "mse"}, {"input_shape": (SIZE * SIZE,)}, {"input_shape": (2, SIZE, SIZE)}]
)
def test_other_tasks_cannot_be_drawn(grey: Path, change: dict[str, Any]) -> None:
    setup, params = built(grey)
    assert figures.can_draw_episode(setup)
    other = replace(setup, family=Changed(setup.family, replace(setup.family.spec, **change)))
    assert not figures.can_draw_episode(other)
    with pytest.raises(MetarayError, match=r"episode figure: expected tasks of classifying images .* leave"):
        figures.episode(other, params, steps=1)


def test_an_algorithm_that_cannot_predict_is_left_out(grey: Path) -> None:
    setup, _ = built(grey)
    assert not figures.can_draw_episode(replace(setup, algorithm=object()))  # type: ignore[arg-type]


def test_a_run_on_images_gets_the_figure_among_its_files(grey: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "n", "algorithm": "maml"}')
    assert draw_figures(tmp_path, {"maml": built(grey)}).paths == [tmp_path / "figures" / "episode.png"]
    expected = tmp_path / "expected.png"
    figures.save(figures.episode(*built(grey), steps=1), expected)  # not evaluated: the inner steps of training
    assert (tmp_path / "figures" / "episode.png").read_bytes() == expected.read_bytes()


# --- accuracy against inner steps, learning curves ---


def evaluation(**changed: Any) -> dict[str, Any]:
    def score(mean: float | None) -> dict[str, Any]:
        return {"mean": mean, "ci95": 0.004, "median": mean, "diverged": 0}

    return {
        "metric": "accuracy",
        "split": "test",
        "tasks": 600,
        "way": 5,
        "shot": 1,
        "query_per_class": 15,
        "batch_norm": "transductive",
        "steps": {"0": score(0.21), "1": score(0.9512), "10": score(0.9871)},
    } | changed


def test_accuracy_stands_with_its_protocol_chance_and_numbers() -> None:
    figure = figures.adaptation(evaluation(), "maml")
    (axes,) = figure.axes
    found = [text.get_text() for text in axes.texts]
    assert found == ["5-way 1-shot, 15 query examples per class, batch norm: transductive", "21.0", "95.1", "98.7"]
    (chance,) = [line for line in axes.lines if line.get_label() == "chance"]
    assert set(np.asarray(chance.get_ydata())) == {0.2}
    assert axes.get_title(loc="left").strip() == "Adaptation to 600 test tasks"
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(box.overlaps(other) for number, box in enumerate(boxes) for other in boxes[:number])


def test_of_many_points_only_the_last_has_its_number() -> None:
    steps = {str(number): {"mean": number / 10, "ci95": 0.01} for number in range(9)}
    (axes,) = figures.adaptation(evaluation(steps=steps), "maml").axes
    assert [text.get_text() for text in axes.texts][1:] == ["80.0"]


def test_an_older_evaluation_without_these_keys_is_drawn() -> None:
    old = evaluation(steps={"0": {"mean": None, "ci95": None}, "1": {"mean": 0.5, "ci95": 0.1}})
    for key in ("way", "batch_norm"):
        del old[key]
    (axes,) = figures.adaptation(old, "maml").axes
    assert [text.get_text() for text in axes.texts] == [
        "1 support example per class, 15 query examples per class, batch norm: none",
        "50.0",
    ]
    assert [line.get_label() for line in axes.lines] == ["maml"]


def test_the_best_checkpoint_is_marked_in_its_panel() -> None:
    records = [
        {"step": step, "values": {"val/accuracy_0": 0.2, "val/accuracy_5": step / 1000}} for step in (100, 200, 300)
    ]
    figure = figures.learning_curves({"maml": records, "pretrain": records}, {"maml": 200})
    maml, pretrain = figure.axes
    (best,) = [line for line in maml.lines if line.get_label() == "best"]
    assert set(np.asarray(best.get_xdata())) == {200}
    assert [line.get_label() for line in pretrain.lines] == ["0", "5"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "5", "best"]
    assert maml.yaxis.get_major_formatter()(0.625) == "62.5%"


def test_the_mark_of_the_best_checkpoint_does_not_change_the_axis() -> None:
    records = [{"step": step, "values": {"val/mse_1": value}} for step, value in ((1, 100.0), (2, 1.0))]
    figure = figures.learning_curves({"maml": records}, {"maml": 2})
    assert figure.axes[0].get_yscale() == "log"
    figure.draw_without_rendering()

"""Figures of policies show the rollouts of an evaluation, and what they show beyond them is repeated to the bit."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.config.schema import parse
from cluster.errors import MetarayError
from cluster.reports.figures import of_policies, policies, replay, save, walks
from cluster.reports.run_page import draw_figures
from cluster.setups.build import build
from cluster.setups.policies import PolicySetup
from cluster.workers.rollouts import RolloutWork
from meta.params import Params
from tasks.environments.navigation import Navigation
from tasks.family import TaskKey

Learner = tuple[PolicySetup, Params]

# A body on a line, in a module of the user's own: it may tell no position, not repeat itself, or fail.
LINE = """
import gymnasium
import numpy as np
from gymnasium import spaces


class Line(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Box(-np.inf, np.inf, (2, 1), np.float64)
    action_space = spaces.Box(-0.5, 0.5, (1,), np.float32)
    dt = 0.25
    made = 0

    def __init__(self, velocity, told=True, changing=False, render_mode=None):
        Line.made += 1
        self.told, self.render_mode = told, render_mode
        self.slip = Line.made * changing

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.random(), 0
        return self.seen(), self.info()

    def step(self, action):
        assert action.dtype == np.float32 and abs(action[0]) <= 0.5
        self.x += action[0] + self.slip
        self.steps += 1
        return self.seen(), -abs(self.x), bool(self.x > 1.5), False, self.info()

    def seen(self):
        return np.array([[self.x], [self.steps]])

    def info(self):
        return {"x_position": self.x} if self.told else {}

    def render(self):
        return np.full((4, 6, 3), self.steps, np.uint8)


gymnasium.register("Line-v0", Line)
"""


def learner(
    family: str, *, algorithm: str = "maml", model: str = "gaussian", later: float = 0.5, **task: Any
) -> Learner:
    setup = build(
        parse(
            {
                "task": {"family": family, **task},
                "model": {"name": model, "hidden": [8]},
                "inner": {"lr": 0.5, "steps": 1},
                "outer": {"steps": 1, "step": "trpo"},
                "meta_batch": 2,
                "algorithm": algorithm,
                "engine": "loop",
                "seed": 5,
                "eval": {"later_lr": later},
                "cluster": {"workers": 0},
            }
        )
    )
    assert isinstance(setup, PolicySetup)
    return setup, setup.initial_params()


def navigator(**changed: Any) -> Learner:
    return learner("navigation", **{"horizon": 12, "trajectories": 3, "scale": 0.1} | changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("modules")
    (path / "bodies_on_a_line.py").write_text(LINE)
    return path


@pytest.fixture
def line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Learner]:
    """Makes learners on the line."""
    monkeypatch.syspath_prepend(folder)

    def make(**kwargs: Any) -> Learner:
        task = {"id": "bodies_on_a_line:Line-v0", "vary": {"velocity": [0.0, 1.0]}, "kwargs": kwargs}
        return learner("gymnasium", horizon=9, trajectories=4, **task)

    return make


def drawn(axes: Axes, label: str) -> np.ndarray:
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_xydata())


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


# --- which tasks, and how they are adapted to ---


def test_the_tasks_shown_lie_far_from_each_other() -> None:
    setup, _ = navigator()
    keys = walks.apart(setup, 3)
    assert keys == walks.apart(setup, 3)
    assert keys[0] == TaskKey(5, "test", 0)
    goals = setup.family.describe([TaskKey(5, "test", index) for index in range(walks.CANDIDATES)])
    away = np.linalg.norm(goals - goals[0], axis=1)
    assert keys[1].index == away.argmax() or keys[2].index == away.argmax()
    assert [key.index for key in keys] == sorted({key.index for key in keys})


def test_tasks_without_a_description_are_the_first_ones() -> None:
    setup, _ = learner("gymnasium", id="Pendulum-v1", horizon=2, trajectories=1)
    assert [key.index for key in walks.apart(setup, 2)] == [0, 1]


def test_a_walk_adapts_as_an_evaluation_does() -> None:
    setup, params = navigator()
    one = walks.walk(setup, params, tasks=2, steps=(0, 2))
    assert list(one.rollouts) == [0, 2]
    expected = [found for found, _ in RolloutWork(setup).walk(list(one.keys), params, 2, evaluation=True)]
    for number, rollouts in one.rollouts.items():
        assert (rollouts.observations == expected[number].observations).all()
    faster = walks.walk(*navigator(later=1.0), tasks=2, steps=(0, 1, 2))
    assert (faster.rollouts[0].actions == one.rollouts[0].actions).all()
    assert not (faster.rollouts[2].actions == one.rollouts[2].actions).all()


def test_the_typical_trajectory_has_the_median_return() -> None:
    one = walks.walk(*navigator(), tasks=2, steps=(0,))
    returns = one.rollouts[0].rewards[1].sum(axis=1)
    assert returns[one.typical(1, 0)] == np.median(returns)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"velocity": {"choice": [1.234]}}, ": run at 1.23 m/s"),
        ({"direction": {"choice": [1.0]}}, ": run forward"),
        ({"direction": {"choice": [-1.0]}}, ": run backward"),
        ({"direction": {"choice": [1.0]}, "map": {"choice": ["small"]}}, ": direction 1, map small"),
        ({"velocity": {"choice": ["low"]}}, ": velocity low"),
        ({}, ""),
    ],
)
def test_a_task_is_said_in_words(vary: dict[str, Any], said: str) -> None:
    setup, _ = learner("gymnasium", id="Pendulum-v1", vary=vary, via="options")
    assert walks.in_words(setup.family, TaskKey(5, "test", 3)) == f"Test task 3{said}"
    assert walks.in_words(Navigation(), TaskKey(5, "test", 3)) == "Test task 3"


# --- paths ---


def test_paths_are_the_rollouts_of_each_task_and_learner() -> None:
    learned = {"maml": navigator(), "pretrain": navigator(algorithm="pretrain")}
    shown = {label: walks.walk(*pair, tasks=3, steps=(0, 1, 3)) for label, pair in learned.items()}
    figure = policies.paths(shown)
    grid = np.array(figure.axes).reshape(2, 3)
    keys = walks.apart(learned["maml"][0], 3)
    goals = learned["maml"][0].family.describe(keys)
    for row, one in zip(grid, shown.values(), strict=True):
        for task, axes in enumerate(row):
            for number, label in ((0, "before adaptation"), (1, "1 step"), (3, "3 steps")):
                path = drawn(axes, label)
                np.testing.assert_allclose(path, one.rollouts[number].observations[task].mean(axis=0), atol=1e-12)
                assert path[0].tolist() == [0, 0]
            assert drawn(axes, "start").tolist() == [[0, 0]]
            assert drawn(axes, "goal").tolist() == [goals[task].tolist()]
            ends = [np.asarray(line.get_xydata()) for line in axes.lines if len(line.get_xydata()) == 3]
            assert (ends[0] == one.rollouts[0].observations[task, :, -1]).all()
            assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-0.65, 0.65))
    assert [axes.get_title(loc="left") for axes in grid[0]] == [f"Test task {key.index}" for key in keys]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["maml", "pretrain"]
    assert legend(figure) == ["before adaptation", "1 step", "3 steps", "start", "goal"]
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


def test_an_oracle_has_only_the_paths_it_starts_with() -> None:
    made, notes = of_policies({"oracle": navigator(algorithm="oracle")}, 3)
    assert notes == []
    assert legend(made["paths"]) == ["before adaptation", "start", "goal"]


def test_paths_of_anything_but_positions_are_an_error() -> None:
    tabular = walks.walk(*learner("tabular", model="categorical", trajectories=2), tasks=1, steps=(0,))
    for shown in ({}, {"maml": tabular}):
        with pytest.raises(MetarayError, match=r"expected rollouts of families of navigation, received .* leave"):
            policies.paths(shown)


def test_families_without_anything_to_show_are_passed_over() -> None:
    assert of_policies({"maml": learner("tabular", model="categorical", trajectories=2)}, 1) == ({}, [])
    assert of_policies({}, 1) == ({}, [])


def test_a_policy_that_has_diverged_is_said_to_have() -> None:
    setup, params = navigator()
    made, (note,) = of_policies({"maml": (setup, {name: value * np.nan for name, value in params.items()})}, 1)
    assert made == {}
    assert "Figures of single tasks are left out: test task" in note


def test_a_run_has_the_figure_among_its_files(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "n", "algorithm": "maml"}')
    found = draw_figures(tmp_path, {"maml": navigator()})
    assert found == ([tmp_path / "figures" / "paths.png"], [])
    save(of_policies({"maml": navigator()}, 1)[0]["paths"], tmp_path / "expected.png")
    assert found.paths[0].read_bytes() == (tmp_path / "expected.png").read_bytes()


# --- positions ---


def test_positions_are_those_of_the_same_trajectories(line: Callable[..., Learner]) -> None:
    one = walks.walk(*line(), tasks=2, steps=(0, 1))
    figure = policies.positions({"maml": one})
    for task, axes in enumerate(figure.axes):
        for number, label in ((0, "before adaptation"), (1, "1 step")):
            x = one.rollouts[number].observations[task, :, :, 0]  # the last one stays after a trajectory's end
            times, mean = drawn(axes, label).T
            np.testing.assert_allclose(times, np.arange(10) * 0.25, atol=1e-12)
            np.testing.assert_allclose(mean, (x - x[:, :1]).mean(axis=0), atol=1e-12)
        velocity = one.family.draw(one.keys[task])["velocity"]  # type: ignore[attr-defined]
        np.testing.assert_allclose(drawn(axes, "asked for")[-1], [9 * 0.25, 9 * 0.25 * velocity], atol=1e-12)
    assert not one.rollouts[0].taken.all()
    assert [axes.get_ylabel() for axes in figure.axes] == ["maml: x, m", ""]
    assert figure.axes[0].get_xlabel() == "time, s"
    assert legend(figure) == ["before adaptation", "1 step", "asked for"]


def test_an_environment_that_tells_no_position_has_none_drawn(
    line: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = line(told=False)
    with pytest.raises(MetarayError, match=r"positions: expected environments that tell x_position .* leave"):
        policies.positions({"maml": walks.walk(*pair, tasks=1, steps=(0,))})
    monkeypatch.setattr(policies, "film", lambda trajectories, mujoco: replay.replay(trajectories))
    monkeypatch.setattr(policies, "film_strip", lambda scenes, label: label)
    assert of_policies({"maml": pair}, 1) == ({"film": "maml"}, [])


def test_an_environment_that_does_not_repeat_itself_is_named(line: Callable[..., Learner]) -> None:
    made, (note,) = of_policies({"maml": line(changing=True)}, 1)
    assert made == {}
    assert "test task 0, inner step 0, trajectory 0: expected 'bodies_on_a_line:Line-v0' to repeat itself" in note
    assert "another observation at environment step 1" in note


def test_an_environment_that_fails_is_named(line: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch) -> None:
    one = walks.walk(*line(), tasks=1, steps=(0,)).trajectory(0, 0, 1)
    with pytest.raises(MetarayError, match=r"trajectory 1: 'bodies_on_a_line:Line-v0' raised TypeError.*mend"):
        replay.replay([one], unknown=3)


# --- pictures ---


def test_pictures_are_taken_in_another_process_of_the_very_trajectory(line: Callable[..., Learner]) -> None:
    one = walks.walk(*line(), tasks=2, steps=(0, 1))
    scenes = policies.scenes_of(one, mujoco=False)
    assert not isinstance(scenes, str)
    assert [(scene.task[:11], scene.inner_steps) for scene in scenes] == [
        (f"Test task {key.index}"[:11], number) for key in one.keys for number in (0, 1)
    ]
    for place, scene in enumerate(scenes):
        task, number = divmod(place, 2)
        length = int(one.rollouts[number].taken[task, one.typical(task, number)].sum())
        assert scene.steps == tuple(sorted({round(share * length / 7) for share in range(8)}))
        assert [picture.shape for picture in scene.replayed.pictures] == [(4, 6, 3)] * len(scene.steps)
        assert [int(picture[0, 0, 0]) for picture in scene.replayed.pictures] == list(scene.steps)


def scene(task: str, number: int, moved: float, *, mujoco: bool = True, told: bool = True) -> walks.Scene:
    pictures = [np.full((100, 120, 3), shade, np.uint8) for shade in range(8)]
    found = replay.Replayed(
        positions=np.array([0.5, *[0.5 + moved] * 70]) if told else None,
        interval=0.05 if told else None,
        renders=True,
        mujoco=mujoco,
        pictures=pictures,
    )
    return walks.Scene(task=task, inner_steps=number, steps=tuple(range(0, 80, 10)), replayed=found)


def test_a_film_strip_says_what_it_shows_and_nothing_covers_anything() -> None:
    figure = policies.film_strip([scene("Test task 0: a", 0, -0.04), scene("Test task 0: a", 3, -1.26)], "maml")
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[:3] == ["Test task 0: a", "maml, before adaptation", "0.0 s, +0.0 m"]
    assert texts[3] == "0.5 s, +0.0 m"
    assert texts[10:13] == ["maml, after 3 inner steps", "0.0 s, +0.0 m", "0.5 s, −1.3 m"]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts] + [image.get_window_extent() for image in axes.images]
    assert not any(box.overlaps(other) for number, box in enumerate(boxes) for other in boxes[:number])
    assert all(figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1 for box in boxes)
    assert np.asarray(axes.images[0].get_array()).shape == (65, 120, 3)


def test_pictures_of_other_environments_are_whole_and_counted_in_steps() -> None:
    (axes,) = policies.film_strip([scene("Test task 0", 1, 0.0, mujoco=False, told=False)], "maml").axes
    assert np.asarray(axes.images[0].get_array()).shape == (100, 120, 3)
    assert [text.get_text() for text in axes.texts][1:4] == ["maml, after 1 inner step", "step 0", "step 10"]


SCRIPTS = {
    "crash": ("kill -9 $$", "it crashed (status -9)"),
    "failure": ("echo first >&2; echo no library >&2; exit 1", "no library"),
    "hang": ("exec tail -f /dev/null", "no pictures within 1 s"),
}


@pytest.mark.parametrize("fault", SCRIPTS)
@pytest.mark.parametrize(("own", "tried"), [(None, ["egl", "osmesa"]), ("glfw", ["glfw"])])
def test_a_graphics_library_that_fails_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, own: str | None, tried: list[str]
) -> None:
    script, reason = SCRIPTS[fault]
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho $MUJOCO_GL >> "{tmp_path}/tried"\n{script}\n')
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(replay, "WITHIN", 1.0)
    if own is None:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
    else:
        monkeypatch.setenv("MUJOCO_GL", own)
    assert replay.film([], mujoco=True) == "; ".join(f"{backend}: {reason}" for backend in tried)
    assert (tmp_path / "tried").read_text().split() == tried
    assert os.environ.get("MUJOCO_GL") == own


def test_why_there_is_no_film_strip_is_noted(line: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "film", lambda trajectories, mujoco: "egl: none")
    made, (note,) = of_policies({"maml": line(), "pretrain": line()}, 1)
    assert list(made) == ["positions"]
    assert [axes.get_ylabel() for axes in made["positions"].axes] == ["maml: x, m", "", "pretrain: x, m", ""]
    assert "could not be drawn here (egl: none). Install" in note


def test_a_robot_is_shown_running_either_way() -> None:
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    one = walks.walk(*learner("half_cheetah_direction", horizon=10, trajectories=2), tasks=2, steps=(0, 1))
    assert {walks.in_words(one.family, key).split(": ")[1] for key in one.keys} == {"run forward", "run backward"}
    (axes, _) = policies.positions({"maml": one}).axes
    found = [replayed.positions for replayed in replay.replay(one.trajectory(0, 1, number) for number in range(2))]
    moved = [positions - positions[0] for positions in found if positions is not None]
    np.testing.assert_allclose(drawn(axes, "1 step")[:, 1], np.mean(moved, axis=0), atol=1e-12)
    assert drawn(axes, "1 step")[-1, 0] == pytest.approx(0.5)  # seconds
    scenes = policies.scenes_of(one, mujoco=True)
    if isinstance(scenes, str):  # a machine that cannot draw
        assert "egl: " in scenes
        return
    assert len(policies.film_strip(scenes, "maml").axes[0].images) == 4 * policies.PICTURES
    assert all(picture.std() > 10 for one in scenes for picture in one.replayed.pictures)

"""A training whose outer steps cannot improve θ says so: once while it runs, and in its result."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.config.schema import parse
from cluster.interrupts import stop_on_signals
from cluster.training import run as training
from cluster.training.run import Outcome
from cluster.training.standstill import CAUSES, PATIENCE, Standstill
from cluster.training.start import resume
from helpers.folders import new_run
from helpers.learning import Untracked
from tasks.environments.contract import Numbers, Step
from tasks.environments.navigation import Navigation

SKIPPED, SAME, ZERO, REJECTED, UNMOVED = CAUSES
GOOD = {"skipped": 0.0, "gradient_norm": 1.0, "return": 1.0, "return_before": 0.5}


def after(count: int, metrics: dict[str, float], *, moved: bool = True, first: int = 1) -> tuple[Standstill, list[str]]:
    said: list[str] = []
    watch = Standstill((), said.append)
    for step in range(first, first + count):
        watch.update(step, metrics, moved=moved)
    return watch, said


@pytest.mark.parametrize(
    ("metrics", "moved", "cause"),
    [
        ({"skipped": 1.0}, False, SKIPPED),
        (GOOD | {"return_before": 1.0}, True, SAME),
        (GOOD | {"gradient_norm": 0.0, "step_share": 0.0}, False, ZERO),
        (GOOD | {"gradient_norm": 1e-13, "surrogate": 0.0}, True, ZERO),
        (GOOD | {"step_share": 0.0}, False, REJECTED),
        (GOOD, False, UNMOVED),
    ],
)
def test_it_is_said_once_with_its_cause(metrics: dict[str, float], moved: bool, cause: str) -> None:
    watch, said = after(5 * PATIENCE, metrics, moved=moved)
    assert len(said) == 1
    assert f"none of {PATIENCE} could ({PATIENCE} {cause}); {CAUSES[cause]}" in said[0]
    (warning,) = watch.warnings
    assert f"none of {5 * PATIENCE} could ({5 * PATIENCE} {cause})" in warning
    assert not watch.finish()


@pytest.mark.parametrize(
    "metrics",
    [
        GOOD,
        GOOD | {"step_share": 0.8},
        {"skipped": 0.0, "gradient_norm": 1e-12, "loss": 3.0},
        GOOD | {"surrogate": 0.0},  # two trajectories, advantages ±1
    ],
)
def test_a_training_that_learns_says_nothing(metrics: dict[str, float]) -> None:
    watch, said = after(100, metrics)
    assert not watch.finish()
    assert (said, watch.warnings) == ([], [])


def test_a_step_that_helps_begins_the_count_anew() -> None:
    said: list[str] = []
    watch = Standstill((), said.append)
    for step in range(1, 10 * PATIENCE):
        watch.update(step, GOOD, moved=step % 3 > 0)
    assert (said, watch.warnings) == ([], [])


def test_most_steps_of_no_use_are_said_too() -> None:
    said: list[str] = []
    watch = Standstill((), said.append)
    for step in range(1, 61):
        watch.update(step, GOOD | {"step_share": 0.0 if step % 3 else 0.5}, moved=True)
    assert len(said) == 1
    assert f"40 of 60 could not, 2 in a row up to step 2 (40 {REJECTED})" in watch.warnings[0]


def test_causes_that_take_turns_count_together() -> None:
    said: list[str] = []
    watch = Standstill((), said.append)
    for step in range(1, 21):
        watch.update(step, {"skipped": 1.0} if step % 3 else GOOD, moved=False)
    (text,) = said
    assert f"7 {SKIPPED}, 3 {UNMOVED}" in text


def test_a_training_that_stands_still_from_some_step_on_says_where() -> None:
    said: list[str] = []
    watch = Standstill((), said.append)
    for step in range(1, 41):
        watch.update(step, GOOD, moved=step <= 25)
    (warning,) = watch.warnings
    assert f"15 of 40 could not, 15 in a row up to step 40 (15 {UNMOVED})" in warning


def test_a_short_training_says_so_at_its_end_and_a_resumed_one_does_not_judge_by_its_rest() -> None:
    watch, said = after(3, {"skipped": 1.0})
    assert said == []
    assert watch.finish()
    assert watch.warnings == said
    watch, said = after(3, {"skipped": 1.0}, first=98)
    assert not watch.finish()
    assert watch.warnings == []


def test_a_schedule_may_leave_theta_where_it_is() -> None:
    watch = Standstill((), pytest.fail)
    for step in range(1, 30):
        watch.update(step, GOOD, moved=False, lr_share=1e-5)
    assert watch.warnings == []


def test_what_was_said_before_an_interruption_holds_until_there_is_more() -> None:
    watch = Standstill(["before"], lambda text: None)
    assert watch.warnings == ["before"]
    for step in range(50, 70):
        watch.update(step, GOOD, moved=False)
    (warning,) = watch.warnings
    assert warning != "before"


def test_equal_returns_of_a_training_without_adaptation_are_those_of_the_step_before() -> None:
    metrics = {"skipped": 0.0, "gradient_norm": 1.0, "return": 2.0}
    watch, said = after(PATIENCE + 1, metrics)
    assert len(said) == 1
    assert SAME in said[0]
    said.clear()
    watch = Standstill((), said.append)
    for step in range(1, 50):
        watch.update(step, metrics | {"return": float(step)}, moved=True)
    assert said == []


# --- trainings ---


@dataclass(frozen=True, kw_only=True)
class Paid(Navigation):
    """Navigation whose rewards are multiplied, or all the same."""

    size: float = 1.0
    constant: bool = False

    def start(self, keys: Any, inner_step: int) -> Any:
        return _Paid(self, super().start(keys, inner_step))


class _Paid:
    def __init__(self, family: Paid, points: Any) -> None:
        self._family, self._points = family, points

    def reset(self) -> Numbers:
        return self._points.reset()

    def step(self, actions: Numbers) -> Step:
        step = self._points.step(actions)
        rewards = np.where(step.rewards != 0, 1.0, 0.0) if self._family.constant else step.rewards
        return step._replace(rewards=self._family.size * rewards)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    monkeypatch.setattr(training, "_Tracking", Untracked)
    monkeypatch.setattr(training, "draw", lambda folder: [])

    def run(raw: dict[str, Any]) -> Outcome:
        places = {
            "checkpoint": {"root": str(tmp_path / "runs")},
            "cluster": {"workers": 0},
            "meta_batch": 4,
            "shard": 2,
        }
        config = parse(places | {"eval": {"tasks": 4, "val_tasks": 4, "steps": [1], "every": 5}} | raw)
        with stop_on_signals() as stop:
            return training.run(resume(config, new_run(config, "run")), stop)

    return run


def acted(step: str, **task: Any) -> dict[str, Any]:
    return {
        "task": {"family": f"{__name__}:Paid", "horizon": 6, "trajectories": 3, "scale": 0.1, "radius": 1e-9} | task,
        "model": {"name": "gaussian", "hidden": [8]},
        "inner": {"lr": 0.1},
        "outer": {"steps": 12, "step": step},
    }


def drawn(**sections: Any) -> dict[str, Any]:
    return {
        "task": {"family": "sinusoid", "shot": 5, "query": 5},
        "model": {"name": "mlp", "hidden": [8]},
        "engine": "loop",
        "outer": {"steps": 12},
    } | sections


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (acted("trpo", size=1e25), ZERO),
        (acted("gradient", size=1e25), ZERO),
        (acted("ppo", size=1e25), ZERO),
        (acted("trpo", constant=True, size=0.1), SAME),
        (acted("gradient", constant=True, size=1e25), SAME),
        (acted("ppo", constant=True), SAME),
        (drawn(outer={"steps": 12, "lr": 1e-20}), UNMOVED),
        (drawn(outer={"steps": 12, "lr": 1e-30, "optimizer": "sgd"}), UNMOVED),
        (drawn(inner={"lr": 1e30}, outer={"steps": 12, "on_nonfinite": "skip"}), SKIPPED),
    ],
)
def test_a_training_that_cannot_learn_is_warned_of(
    train: Callable[..., Outcome], raw: dict[str, Any], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = train(raw)
    (warning,) = outcome.warnings
    assert f"none of 12 could (12 {cause})" in warning
    assert outcome.as_json()["warnings"] == [warning]
    assert outcome.folder.info["warnings"] == [warning]
    evaluation = json.loads((outcome.folder.path / "evaluation.json").read_text())
    assert evaluation["warnings"] == [warning]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1  # while it ran


@pytest.mark.parametrize("raw", [acted("trpo"), acted("ppo"), drawn()])
def test_a_training_that_learns_is_not(train: Callable[..., Outcome], raw: dict[str, Any]) -> None:
    outcome = train(raw)
    assert outcome.warnings == []
    assert "warnings" not in outcome.evaluation

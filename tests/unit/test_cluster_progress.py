"""What people see of a training and of an evaluation on a terminal."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.commands.console import print_table
from cluster.commands.tables import evaluation_table
from cluster.progress import Beside, Snapshot, frame, progress, show_as


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")


def shown(capsys: pytest.CaptureFixture[str], *metrics: dict[str, float]) -> str:
    with progress("navigation maml", 0, len(metrics)) as report:
        for step, found in enumerate(metrics, start=1):
            report.update(step, found)
    return capsys.readouterr().err


def test_the_loss_is_smoothed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ", loss 1.0200, " in shown(capsys, {"loss": 1.0}, {"loss": 2.0})


def test_the_return_is_shown_in_place_of_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, {"loss": 0.0, "return": -60.0}, {"loss": 0.0, "return": -50.0}, {})
    assert "navigation maml: step 3 of 3, " in text
    assert ", return -59, " in text
    assert "loss" not in text


def test_without_metrics_there_is_only_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, {})
    assert "step 1 of 1, " in text
    assert text.count(",") == 2


def test_a_rate_below_one_is_given_as_its_inverse(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 8.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert "step 1 of 1, 8.0 s/step, " in shown(capsys, {})


def test_a_rate_above_one_is_given_in_steps_per_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.25])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    assert "step 1 of 1, 4.0 steps/s, " in shown(capsys, {})


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Standard error that is a terminal."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    yield screen
    show_as("auto")


def test_without_a_terminal_there_are_no_control_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in shown(capsys, {"loss": 1.0})


def test_a_terminal_has_a_screen(terminal: io.StringIO) -> None:
    with contextlib.redirect_stderr(terminal), progress("sinusoid maml", 0, 1) as report:
        report.update(1, {"loss": 1.0})
    assert "\x1b[" in terminal.getvalue()
    assert "1/1" in terminal.getvalue()


def test_plain_progress_is_lines_on_a_terminal_too(terminal: io.StringIO) -> None:
    show_as("plain")
    with contextlib.redirect_stderr(terminal), progress("sinusoid maml", 0, 1) as report:
        report.update(1, {"loss": 1.0})
    assert terminal.getvalue().startswith("sinusoid maml: step 1 of 1, ")
    assert "\x1b" not in terminal.getvalue()


def test_quiet_progress_is_nothing(terminal: io.StringIO) -> None:
    show_as("quiet")
    with contextlib.redirect_stderr(terminal), progress("sinusoid maml", 0, 1) as report:
        report.update(1, {"loss": 1.0})
    assert not terminal.getvalue()


SNAPSHOT = Snapshot(
    label="sinusoid maml",
    unit="step",
    step=20,
    steps=50,
    rate=10.0,
    tasks=25,
    note="10.0 steps/s, loss 0.5000",
    seconds=2.0,
    beside=Beside(
        "mse 0.4 after 1 at step 20", [f"here: shard {number}" for number in range(20)], 1, "worker 3 was lost"
    ),
)


def test_one_screen_has_it_all() -> None:
    console = Console(file=io.StringIO(), width=110)
    console.print(frame(SNAPSHOT))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "20/50",
        "0:00:03 left",
        "10.0 steps/s, loss 0.5000, 250 tasks/s",
        "mse 0.4 after 1",
        "here: shard 15",
    ):
        assert part in text
    assert "and 4 workers more" in text
    assert "1: worker 3 was lost" in text


def test_a_training_leaves_its_state_for_others_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    with progress("sinusoid maml", 0, 1, tasks=4, path=path) as report:
        report.beside = lambda: Beside("none", ["idle"])
        report.update(1, {"loss": 1.0})
        snapshot = Snapshot.of(json.loads(path.read_text()))
        assert (snapshot.step, snapshot.tasks, snapshot.beside) == (1, 4, Beside("none", ["idle"]))
    assert not any(tmp_path.iterdir())
    with progress("sinusoid maml", 0, 1, path=tmp_path / "gone" / "live.json") as report:
        report.update(1, {"loss": 1.0})  # which stops no training


EVALUATION: dict[str, Any] = {
    "algorithm": "maml",
    "metric": "mse",
    "split": "test",
    "tasks": 600,
    "shot": 10,
    "query_per_class": 20,
    "batch_norm": None,
    "inner_lr": 0.1,
    "steps": {"0": {"mean": -60.25, "ci95": 5.5, "median": -58.0, "diverged": 0}},
}


@pytest.mark.parametrize(
    ("changed", "caption"),
    [
        ({}, "600 test tasks, 10 support and 20 query examples, α 0.1"),
        ({"batch_norm": "transductive"}, "10 support and 20 query examples, α 0.1, batch norm transductive"),
        (
            {"metric": "return", "horizon": 200, "later_lr": 0.5},
            "600 test tasks, 10 trajectories of at most 200 steps per inner step, α 0.1, 0.05 from the second step on",
        ),
        (
            {"metric": "return", "horizon": 200, "later_lr": 1.0},
            "10 trajectories of at most 200 steps per inner step, α 0.1",
        ),
    ],
)
def test_an_evaluation_states_what_its_numbers_rest_on(
    capsys: pytest.CaptureFixture[str], changed: dict[str, Any], caption: str
) -> None:
    print_table(evaluation_table(EVALUATION | changed))
    text = " ".join(capsys.readouterr().out.split())
    assert text.endswith(caption)
    assert f"{(EVALUATION | changed)['metric']} after inner steps" in text
    assert "-60.250 ± 5.500 (-58.000)" in text


def test_an_evaluation_shows_each_kind_of_task(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"mean": 1.5, "ci95": None, "median": 1.5, "diverged": 0}
    kinds = {"kinds": {"backward": {"0": row}, "forward": {"0": row}}, "kind_tasks": {"backward": 1, "forward": 599}}
    print_table(evaluation_table(EVALUATION | kinds))
    text = " ".join(capsys.readouterr().out.split())
    assert "maml, backward" in text
    assert "maml, forward" in text
    assert "1.500 (1.500)" in text
    assert text.endswith("α 0.1, mean over kinds of task (1 backward, 599 forward)")

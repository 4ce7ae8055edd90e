"""What people see of a training and of an evaluation on a terminal."""

from typing import Any

import pytest

from cluster.commands.console import print_table
from cluster.commands.tables import evaluation_table
from cluster.progress import progress


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

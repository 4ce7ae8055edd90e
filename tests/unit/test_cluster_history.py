"""``metaray runs``: what is listed, chosen, shown, compared and removed, from files alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.commands.cli import app
from cluster.config.schema import parse
from cluster.progress import Beside, Snapshot
from cluster.tracking.spool import LOCK, Spool

PLAIN: dict[str, Any] = {
    "task": {"family": "sinusoid"},
    "model": {"name": "mlp"},
    "outer": {"steps": 100},
    "meta_batch": 4,
    "eval": {"steps": [0, 1]},
}
SNAPSHOT = Snapshot(
    label="sinusoid maml",
    unit="step",
    step=20,
    steps=50,
    rate=10.0,
    tasks=25,
    note="10.0 steps/s",
    seconds=2.0,
    beside=Beside("", ["here: idle"], 1, "worker 3 was lost"),
)
INFO = {"algorithm": "maml", "checkpoints": None, "engine": "loop", "mlflow_run_id": None, "mlflow_uri": None}


def make(
    root: Path, name: str, day: int, mean: float | None = None, ended: str | None = "FINISHED", **keys: Any
) -> Path:
    """A run's folder as a training leaves it, with a held-out score after one inner step."""
    path = root / name
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(parse(PLAIN | keys).to_yaml())
    info = INFO | {"name": name, "created": f"2030-01-{day:02}T00:00:00+00:00", "mlflow_run_id": f"id-{name}"}
    info |= {} if ended is None else {"ended": "2030-02-01T00:00:00+00:00", "status": ended}
    (path / "run.json").write_text(json.dumps(info))
    steps = (json.dumps({"step": step, "time": 0, "values": {"train/loss": 1.0}}) for step in (10, 20))
    (path / "metrics.jsonl").write_text("\n".join(steps) + '\n{"step": 3')
    if mean is not None:
        row = {"mean": mean, "ci95": 0.1, "median": mean, "diverged": 0}
        evaluation = {"algorithm": "maml", "metric": "mse", "split": "test", "tasks": 5, "shot": 10, "inner_lr": 0.01}
        evaluation |= {"query_per_class": 10, "batch_norm": None, "steps": {"0": row, "1": row}}
        (path / "evaluation.json").write_text(json.dumps(evaluation))
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = Path("runs")
    make(root, "old", 1, mean=0.9)
    make(root, "new", 3, mean=0.4, algorithm="fomaml", inner={"lr": 0.05})
    make(root, "cut", 2, ended=None)
    return root


def run(*words: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, ["runs", *words])
    assert result.exit_code == status, result.output
    return result.stderr if status else result.stdout


def names(*words: str) -> list[str]:
    return [row["name"] for row in json.loads(run(*words, "--json"))["runs"]]


def test_the_newest_is_listed_first(root: Path) -> None:
    rows = json.loads(run("--json"))["runs"]
    assert [row["name"] for row in rows] == ["new", "cut", "old"]
    assert [row["status"] for row in rows] == ["finished", "interrupted", "finished"]
    assert rows[0]["score"] == {"mean": 0.4, "ci95": 0.1}
    assert (rows[1]["steps"], rows[1]["of_steps"], rows[1]["score"]) == (20, 100, None)
    assert "mse 0.4 ± 0.1 after 1" in run()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--algorithm", "fomaml"], ["new"]),
        (["--family", "images"], []),
        (["--status", "interrupted"], ["cut"]),
        (["--score", "<0.5"], ["new"]),
        (["--score", ">= 0.4"], ["new", "old"]),
        (["--root", "elsewhere"], []),
    ],
)
def test_conditions_choose(root: Path, words: list[str], expected: list[str]) -> None:
    assert names(*words) == expected


@pytest.mark.parametrize(
    "words", [["--status", "done"], ["--score", "0.5"], ["--score", "<1.2.3"], ["--json", "show", "new"]]
)
def test_wrong_conditions_are_refused(root: Path, words: list[str]) -> None:
    assert "expected" in run(*words, status=2)


def test_a_damaged_run_is_listed_with_the_others(root: Path) -> None:
    (root / "old" / "run.json").write_text("{")
    row = json.loads(run("--status", "damaged", "--json"))["runs"][0]
    assert row["name"] == "old"
    assert "run.json" in row["error"]
    assert len(names()) == 3


def test_one_run_is_shown_by_name_path_or_mlflow_id(root: Path) -> None:
    shown = [json.loads(run("show", word, "--json")) for word in ("new", "runs/new", "id-new")]
    assert shown[0] == shown[1] == shown[2]
    assert shown[0]["evaluation"]["steps"]["1"]["mean"] == 0.4
    text = run("show", "cut")
    assert "20 of 100" in text
    assert "interrupted" in text
    assert "metaray runs" in run("show", "none", status=2)


def test_a_comparison_names_what_differs_alone(root: Path) -> None:
    found = json.loads(run("compare", "old", "new", "cut", "--json"))
    assert found["differences"] == {"inner.lr": ["0.01", "0.05", "0.01"], "algorithm": ["maml", "fomaml", "maml"]}
    assert [one and one["steps"]["0"]["mean"] for one in found["evaluations"]] == [0.9, 0.4, None]
    text = run("compare", "old", "new")
    assert "inner.lr" in text
    assert "mse after 1" in text
    assert "two runs" in run("compare", "old", status=2)


def test_a_removal_takes_the_folder_and_says_what_stays(root: Path) -> None:
    assert "--yes" in run("remove", "old", status=2)
    assert (root / "old").is_dir()
    result = CliRunner().invoke(app, ["runs", "remove", "old", "cut", "--yes", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["removed"] == ["runs/old", "runs/cut"]
    assert "run id-old in MLflow" in result.stderr
    assert [path.name for path in root.iterdir()] == ["new"]


def test_a_run_that_is_live_is_listed_as_running_and_stays(root: Path) -> None:
    spool = Spool(root / "cut")
    assert spool.take()
    try:
        assert names("--status", "running") == ["cut"]
        assert "nothing runs" in run("remove", "new", "cut", "--yes", status=2)
    finally:
        spool.release()
    assert (root / "new").is_dir()
    assert (root / "cut" / LOCK).exists()


def watch(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["watch", *words])
    return result.exit_code, result.stdout, result.stderr


def test_a_run_is_watched_while_it_is_live(root: Path) -> None:
    (root / "cut" / "live.json").write_text(json.dumps(SNAPSHOT.as_json()))
    assert "runs/cut: interrupted, 20 of 100 steps" in watch("cut", "--once")[2]  # a killed one's file says nothing
    spool = Spool(root / "cut")
    assert spool.take()
    try:
        status, _, text = watch("cut", "--once")
        assert status == 0
        assert "20/50" in text
        assert "worker 3 was lost" in text
        assert "\x1b" not in text
        assert Snapshot.of(json.loads(watch("cut", "--json")[1])["live"]) == SNAPSHOT
        (root / "cut" / "live.json").write_text("{")
        assert json.loads(watch("cut", "--json")[1])["live"] is None
    finally:
        spool.release()


def test_watching_ends_with_the_run(root: Path) -> None:
    status, _, text = watch("new")
    assert (status, text.strip()) == (0, "runs/new: finished, 20 of 100 steps")


def test_parts_of_a_run_and_links_are_not_removed_alone(root: Path) -> None:
    make(root / "new" / "baselines", "oracle", 4)
    assert "a part of" in run("remove", "runs/new/baselines/oracle", "--yes", status=2)
    (root / "link").symlink_to((root / "new").absolute())
    assert "a link to" in run("remove", "link", "--yes", status=2)

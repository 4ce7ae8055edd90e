"""Copied, moved and deleted: every folder has an MLflow run of its own, and what is gone there is named."""

import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import mlflow
import pytest

from cluster.config.schema import Config
from cluster.errors import ConfigError
from cluster.interrupts import stop_on_signals
from cluster.runs.folder import RunFolder
from cluster.tracking import original_of, spool, tracker
from cluster.tracking.replay import Replayed, replay, tracked_folders
from cluster.training.run import Outcome, run
from cluster.training.start import resume
from helpers.folders import new_run

Arrived = Callable[..., mlflow.MlflowClient]
Make = Callable[..., Config]


def train(config: Config, folder: RunFolder | None = None) -> Outcome:
    with stop_on_signals() as stop:
        return run(resume(config, folder or new_run(config, "A")), stop)


@pytest.fixture
def make(make_config: Make) -> Make:
    """Small configurations without workers and without the machine's load."""
    return lambda **changes: make_config(cluster__workers=0, tracking__system_every=0, **changes)


def longer(config: Config, steps: int = 30) -> Config:
    return config.model_copy(update={"outer": config.outer.model_copy(update={"steps": steps})})


def history(client: mlflow.MlflowClient, run_id: str, name: str = "train/loss") -> list[tuple[int, float]]:
    return sorted((one.step, one.value) for one in client.get_metric_history(run_id, name))


def replayed(paths: Sequence[Path]) -> list[Replayed]:
    """Replay once the threads that gave a server up have come to their ends: until then they hold the folders."""
    for thread in threading.enumerate():
        if thread.name == "mlflow":
            thread.join(60)
    return list(replay(paths))


def copied(folder: RunFolder, name: str = "B") -> RunFolder:
    return RunFolder(Path(shutil.copytree(folder.path, folder.path.with_name(name), symlinks=True)))


@pytest.mark.parametrize("order", ["AB", "BA"])
@pytest.mark.parametrize("original", ["there", "deleted", "other host"])
def test_copies_go_on_as_runs_of_their_own(
    make: Make, assert_all_arrived: Arrived, monkeypatch: pytest.MonkeyPatch, order: str, original: str
):
    config = make(eval__baselines=["oracle"])
    first = train(config).folder
    before = first.info["mlflow_run_id"]
    folders = {"A": first, "B": copied(first)}
    if original == "deleted":  # two copies of what is no longer there: the first to go on has the run
        folders["A"] = copied(first, "C")
        shutil.rmtree(first.path)
    if original == "other host":
        monkeypatch.setattr(spool.platform, "node", lambda: "elsewhere")
        if order == "AB":
            monkeypatch.undo()
    warnings = {}
    for name in order:
        if original == "other host":
            monkeypatch.setattr(spool.platform, "node", lambda name=name: "here" if name == "A" else "elsewhere")
        warnings[name] = train(longer(config), folders[name]).warnings
    runs = {name: folders[name].info["mlflow_run_id"] for name in "AB"}
    children = {name: folders[name].baselines["oracle"].info["mlflow_run_id"] for name in "AB"}
    assert len({*runs.values(), *children.values()}) == 4
    if original == "there":
        assert runs["A"] == before
        assert warnings["A"] == []
        assert f"is a copy of {first.path}: it goes on as an MLflow run of its own" in warnings["B"][0]
    for name in "AB":
        client = assert_all_arrived(folders[name].path, str(config.tracking.uri))
        assert client.get_run(children[name]).data.tags["mlflow.parentRunId"] == runs[name]
        assert_all_arrived(folders[name].baselines["oracle"].path, str(config.tracking.uri))
    own = next(name for name in "BA" if runs[name] != before)
    assert client.get_run(runs[own]).data.tags["metaray.copy_of"] == before
    assert client.get_run(runs["B"]).info.run_name == ("B" if runs["B"] != before else "A")


def test_a_moved_folder_keeps_its_run(make: Make, tmp_path: Path, assert_all_arrived: Arrived):
    config = make()
    first = train(config).folder
    run_id = first.info["mlflow_run_id"]
    moved = RunFolder(Path(shutil.move(first.path, tmp_path / "elsewhere")))
    assert train(longer(config), moved).warnings == []
    assert moved.info["mlflow_run_id"] == run_id
    across = copied(moved, "C")  # a move to another file system is a copy and a removal
    shutil.rmtree(moved.path)
    assert train(longer(config, 40), across).warnings == []
    assert across.info["mlflow_run_id"] == run_id
    (tmp_path / "link").symlink_to(across.path)
    assert train(longer(config, 50), RunFolder(tmp_path / "link")).folder.info["mlflow_run_id"] == run_id
    assert_all_arrived(across.path, str(config.tracking.uri))


def test_a_copy_is_parted_while_the_server_is_down_and_by_replay(
    make: Make, monkeypatch: pytest.MonkeyPatch, assert_all_arrived: Arrived
):
    config = make(eval__baselines=["oracle"])
    first = train(config).folder
    copy = copied(first)
    [*done] = replayed(tracked_folders([str(copy.path)]))
    assert [one.sent for one in done] == [0, 0]  # a copy that lies there is no run
    assert original_of(copy.path) == str(first.path)
    monkeypatch.setattr(tracker, "IMPATIENT", 0.2)
    away = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})})
    outcome = train(longer(away), copy)
    assert "is a copy of" in outcome.warnings[0]
    assert copy.info["mlflow_run_id"] is None
    monkeypatch.undo()
    for path in (copy.path, copy.path / "baselines" / "oracle"):
        state = json.loads((path / "tracking.json").read_text())
        (path / "tracking.json").write_text(json.dumps(state | {"uri": config.tracking.uri}))
    done = replayed(tracked_folders([str(copy.path)]))
    assert [one.error for one in done] == [None, None]
    assert len({one.run_id for one in done} | {first.info["mlflow_run_id"]}) == 3
    assert_all_arrived(copy.path, str(config.tracking.uri))


def test_a_copy_does_not_write_to_the_checkpoints_of_its_original(make: Make, tmp_path: Path):
    config = make(checkpoint__root=(tmp_path / "far").as_uri())
    first = new_run(config, "A", tmp_path / "A")
    train(config, first)
    copy = copied(first)
    before = {path: path.read_bytes() for path in copy.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"received .*/B, a copy of .*/A: both would write to file://.*run\.json"):
        train(longer(config), copy)
    assert {path: path.read_bytes() for path in copy.path.rglob("*") if path.is_file()} == before
    shutil.copytree(tmp_path / "far" / "A", tmp_path / "far" / "B")
    copy.update_info(checkpoints=f"{(tmp_path / 'far').as_uri()}/B/checkpoints")
    assert train(longer(config), copy).steps == 30
    assert not (tmp_path / "far" / "A" / "checkpoints" / "step-000000030.safetensors").exists()


Delete = Callable[[mlflow.MlflowClient, RunFolder], None]


def delete_experiment(client: mlflow.MlflowClient, folder: RunFolder) -> None:
    found = client.get_experiment_by_name("metaray")
    client.delete_experiment(str(found.experiment_id))


def delete_run(client: mlflow.MlflowClient, folder: RunFolder) -> None:
    client.delete_run(folder.info["mlflow_run_id"])


def restore(client: mlflow.MlflowClient, folder: RunFolder) -> None:
    found = client.get_experiment_by_name("metaray")
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(str(found.experiment_id))
    else:
        client.restore_run(folder.info["mlflow_run_id"])


@pytest.mark.parametrize(
    ("delete", "remedy"),
    [
        (delete_experiment, r"MLflow experiment 'metaray' \(\d+\), found that it was deleted; .*experiments restore"),
        (delete_run, r"MLflow run \w+, found that it was deleted; .*runs restore"),
    ],
)
def test_what_was_deleted_is_named_and_nothing_is_lost(
    make: Make, monkeypatch: pytest.MonkeyPatch, assert_all_arrived: Arrived, delete: Delete, remedy: str
):
    monkeypatch.setattr(tracker, "RETRY", 0.01)
    config = make()
    folder = train(config).folder
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    delete(client, folder)
    outcome = train(longer(config), folder)  # at the start
    assert outcome.steps == 30
    found = [outcome.warnings[0], *(str(one.error) for one in replayed([folder.path]))]
    assert len(found) == 2
    assert_matches(remedy, found)
    restore(client, folder)
    assert [one.error for one in replayed([folder.path])] == [None]
    assert_all_arrived(folder.path, str(config.tracking.uri))


def assert_matches(pattern: str, texts: Sequence[str]) -> None:
    for text in texts:
        assert re.search(pattern, text), text


@pytest.mark.parametrize("delete", [delete_experiment, delete_run])
def test_what_is_deleted_during_a_training_is_named(
    make: Make, monkeypatch: pytest.MonkeyPatch, assert_all_arrived: Arrived, delete: Delete
):
    monkeypatch.setattr(tracker, "RETRY", 0.01)
    config = make()
    folder = new_run(config, "A")
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    begun = tracker.Tracker(folder, config.tracking, config.model_dump(mode="json"))
    while begun.run_id is None:
        begun._thread.join(0.05)
    delete(client, folder)
    folder.metrics_path.write_text('{"step": 1, "time": 1.0, "values": {"train/loss": 1.0}}\n')
    warning = begun.close("FINISHED", [])
    assert_matches(r"found that it was deleted; restore it with: .*nothing is lost", [str(warning)])
    restore(client, folder)
    assert [one.error for one in replayed([folder.path])] == [None]
    assert_all_arrived(folder.path, str(config.tracking.uri))


def test_an_experiment_that_was_deleted_before_the_first_run_and_one_that_was_renamed(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tracker, "RETRY", 0.01)
    config = make(eval__baselines=["oracle"], outer__steps=2)
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    number = client.create_experiment("metaray")
    client.delete_experiment(number)
    outcome = train(config)
    assert outcome.steps == 2
    assert_matches(r"experiment 'metaray' .*--experiment-id " + number, outcome.warnings)
    client.restore_experiment(number)
    client.rename_experiment(number, "renamed")
    [parent, child] = replayed(tracked_folders([str(outcome.folder.path)]))
    assert (parent.error, child.error) == (None, None)
    kept = client.get_run(str(parent.run_id))
    again = client.get_experiment_by_name("metaray")
    assert kept.info.experiment_id == again.experiment_id
    client.rename_experiment(again.experiment_id, "another name")
    shutil.rmtree(outcome.folder.path / "baselines")
    assert train(config, outcome.folder).warnings == []
    made = client.get_run(outcome.folder.baselines["oracle"].info["mlflow_run_id"])
    assert made.info.experiment_id == kept.info.experiment_id  # beside its parent


def test_held_out_scores_short_runs_and_tags(make: Make, assert_all_arrived: Arrived, monkeypatch: pytest.MonkeyPatch):
    config = make(outer__steps=3, tracking__every=10, eval__every=0)
    outcome = train(config)
    client = assert_all_arrived(outcome.folder.path, str(config.tracking.uri))
    kept = client.get_run(outcome.folder.info["mlflow_run_id"])
    rows = outcome.evaluation["steps"]
    assert set(rows) == {"0", "1"}
    for number, row in rows.items():
        assert history(client, kept.info.run_id, f"test/mse_{number}") == [(3, row["mean"])]
        assert history(client, kept.info.run_id, f"test/mse_{number}_ci95") == [(3, row["ci95"])]
    assert [step for step, _ in history(client, kept.info.run_id)] == [3]  # shorter than tracking.every
    assert kept.data.tags["metaray.family"] == "sinusoid"
    assert kept.data.tags["metaray.algorithm"] == "maml"
    if outcome.folder.info["git_commit"]:
        assert kept.data.tags["metaray.commit"] == outcome.folder.info["git_commit"]
    again = train(config, outcome.folder)
    assert again.evaluation["steps"] == rows
    assert history(client, kept.info.run_id, "test/mse_1") == [(3, rows["1"]["mean"])]

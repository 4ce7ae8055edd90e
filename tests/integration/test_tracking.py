"""MLflow: a training is kept whole, and a server that is down neither stops it nor loses a number."""

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from cluster.config.schema import Config
from cluster.errors import DivergedError
from cluster.interrupts import stop_on_signals
from cluster.runs.folder import RunFolder, find
from cluster.tracking import Tracker, flatten, tracker
from cluster.training.run import Outcome, run
from cluster.training.start import resume
from helpers.folders import new_run

Arrived = Callable[..., mlflow.MlflowClient]


def train(config: Config, name: str = "run", folder: RunFolder | None = None) -> Outcome:
    with stop_on_signals() as stop:
        return run(resume(config, folder or new_run(config, name)), stop)


def artifacts(client: mlflow.MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    return {item.path for item in client.list_artifacts(run_id, folder)}


def test_a_run_is_kept_whole(make_config: Callable[..., Config], assert_all_arrived: Arrived):
    config = make_config(cluster__workers=0, eval__baselines=["oracle"])
    outcome = train(config)
    assert outcome.warnings == []
    uri = config.tracking.uri
    assert uri is not None
    client = assert_all_arrived(outcome.folder.path, uri)
    info = outcome.folder.info
    kept = client.get_run(info["mlflow_run_id"])
    assert kept.info.status == info["status"] == "FINISHED"
    assert kept.data.params == flatten(config.model_dump(mode="json"))
    assert kept.data.tags["metaray.engine"] == info["engine"]
    assert {"system/cpu_utilization_percentage", "system/disk_usage_percentage"} <= kept.data.metrics.keys()
    assert kept.inputs.dataset_inputs == []  # sinusoids need no data
    assert {"config.yaml", "evaluation.json", "figures", "report.html", "run.json"} <= artifacts(
        client, kept.info.run_id
    )
    names = {"checkpoints/best.safetensors", "checkpoints/step-000000020.safetensors"}
    assert artifacts(client, kept.info.run_id, "checkpoints") == names

    baseline = outcome.folder.baselines["oracle"]
    assert_all_arrived(baseline.path, uri)
    child = client.get_run(baseline.info["mlflow_run_id"])
    assert child.data.tags["mlflow.parentRunId"] == kept.info.run_id
    assert not any(name.startswith("system/") for name in child.data.metrics)  # the parent's are of the same machine
    assert find(kept.info.run_id, config.checkpoint.root).path == outcome.folder.path


def test_data_and_far_checkpoints_are_there(
    make_config: Callable[..., Config], make_store: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    root = make_store((8, 8, 1), classes=5, images=4)
    config = make_config(
        cluster__workers=0,
        task={"family": "images", "root": str(root), "way": 2, "shot": 1, "query": 1},
        model={"name": "conv4", "channels": 4, "blocks": 1},
        outer__steps=2,
        eval={"tasks": 2, "steps": [1]},
        checkpoint__root=(tmp_path / "far").as_uri(),
        tracking__system_every=0,
    )
    outcome = train(config)
    assert outcome.warnings == []
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    kept = client.get_run(outcome.folder.info["mlflow_run_id"])
    fingerprint = outcome.evaluation["data"]
    assert kept.data.tags["metaray.data"] == fingerprint
    [data] = kept.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == (root.name, fingerprint[:36])
    assert artifacts(client, kept.info.run_id, "checkpoints") == {"checkpoints/step-000000002.safetensors"}
    assert not (outcome.folder.path / "system.jsonl").exists()


def test_a_server_that_is_down_stops_nothing_and_loses_nothing(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, assert_all_arrived: Arrived
):
    monkeypatch.setattr(tracker, "IMPATIENT", 0.5)
    with socket.socket() as listener:  # bound, never listening: connections are refused
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:s3cret@127.0.0.1:{listener.getsockname()[1]}")
        outcome = train(make_config(cluster__workers=0, tracking__uri=None))
    assert outcome.steps == 20
    assert len(outcome.warnings) == 1
    assert "nothing is lost" in outcome.warnings[0]
    assert f"metaray tracking replay {outcome.folder.path}" in outcome.warnings[0]
    assert outcome.folder.info["mlflow_run_id"] is None
    assert "http://***@127.0.0.1" in (outcome.folder.path / "tracking.json").read_text()
    kept = [outcome.warnings[0].encode(), *(path.read_bytes() for path in outcome.folder.path.rglob("*.*"))]
    assert not any(b"s3cret" in text for text in kept)

    monkeypatch.undo()  # the first run's thread may still be waiting for its last answer
    up = make_config(cluster__workers=0)
    resumed = train(up, folder=outcome.folder)
    assert resumed.warnings == []
    assert resumed.theta_sha256 == outcome.theta_sha256
    assert up.tracking.uri is not None
    assert_all_arrived(outcome.folder.path, up.tracking.uri)


def test_a_run_that_goes_on_elsewhere_is_whole_there(
    make_config: Callable[..., Config], assert_all_arrived: Arrived, tmp_path: Path
):
    first = make_config(cluster__workers=0)
    outcome = train(first)
    run_id = outcome.folder.info["mlflow_run_id"]
    (tmp_path / "other").mkdir()
    moved = make_config(
        cluster__workers=0, tracking__uri=f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}", outer__steps=30
    )
    assert train(moved, folder=outcome.folder).warnings == []
    assert outcome.folder.info["mlflow_run_id"] != run_id
    assert moved.tracking.uri is not None
    assert_all_arrived(outcome.folder.path, moved.tracking.uri)


def test_a_diverged_run_is_marked_failed(make_config: Callable[..., Config]):
    config = make_config(cluster__workers=0, inner__lr=1e6, inner__steps=5, outer__lr=10.0)
    folder = new_run(config, "run")
    with pytest.raises(DivergedError, match="train tasks"):
        train(config, folder=folder)
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    assert client.get_run(folder.info["mlflow_run_id"]).info.status == folder.info["status"] == "FAILED"


def test_steps_that_are_not_finite_can_be_passed_over(make_config: Callable[..., Config], assert_all_arrived: Arrived):
    config = make_config(cluster__workers=0, inner__lr=1e6, inner__steps=5, outer__lr=10.0, outer__on_nonfinite="skip")
    outcome = train(config)
    assert outcome.steps == 20
    records = [json.loads(line)["values"] for line in outcome.folder.metrics_path.read_text().splitlines()]
    assert sum(values.get("train/skipped", 0) for values in records) > 0
    assert any(value is None for values in records for value in values.values())
    assert_all_arrived(outcome.folder.path, str(config.tracking.uri))


def test_ending_does_not_wait_and_the_next_in_line_takes_over(make_config: Callable[..., Config], tmp_path: Path):
    config = make_config(cluster__workers=0)
    folder = new_run(config, "run")
    with socket.socket() as listener:  # listening, never answering
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        silent = config.tracking.model_copy(update={"uri": f"http://127.0.0.1:{listener.getsockname()[1]}"})
        began = time.monotonic()
        first = Tracker(folder, silent, {"a": 1})
        first.end("FINISHED", [])
        assert not first.done
        warning = first.wait(0.5)
        assert time.monotonic() - began < 5  # a call to the server would have taken 20 s
        assert warning is not None
        assert "no answer yet" in warning
        second = Tracker(folder, config.tracking, {"a": 1})
    assert second.close("FINISHED", []) is None  # its thread got the lock when the first one's call had come to nothing
    assert second.done
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    assert client.get_run(str(second.run_id)).data.params == {"a": "1"}
    assert not any(thread.name in {"mlflow", "machine"} for thread in threading.enumerate())


def test_a_server_that_answers_but_refuses_is_given_up(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
):
    def refuse(self: object, run_id: str, *arguments: object, **named: object) -> None:
        raise mlflow.exceptions.MlflowException("no room")

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifacts", refuse)  # heard of other artifacts before it each time
    monkeypatch.setattr(tracker, "RETRY", 0.01)
    outcome = train(make_config(cluster__workers=0))
    (warning,) = outcome.warnings
    assert "no room" in warning
    assert "metaray tracking replay" in warning

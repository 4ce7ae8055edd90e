"""MLflow: everything arrives, and a server that is down neither stops a training nor loses a number."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from cluster import tracking
from cluster.config import Config
from cluster.errors import DivergedError
from cluster.interrupts import stop_on_signals
from cluster.runs import RunFolder, find
from cluster.tracking import flatten
from cluster.training import Outcome, new_folder, run


def train(config: Config, name: str = "run", folder: RunFolder | None = None) -> Outcome:
    with stop_on_signals() as stop:
        return run(config, folder or new_folder(config, name), stop)


def recorded(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """Metrics of the run's own file: name -> (step, value) in order."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in folder.metrics_path.read_text().splitlines():
        record = json.loads(line)
        for name, value in record["values"].items():
            found.setdefault(name, []).append((record["step"], value))
    return found


def assert_all_arrived(folder: RunFolder, uri: str) -> mlflow.MlflowClient:
    client = mlflow.MlflowClient(tracking_uri=uri)
    run_id = folder.info["mlflow_run_id"]
    for name, history in recorded(folder).items():
        there = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]
        assert sorted(there) == history, name
    return client


def test_a_run_is_kept_whole(make_config: Callable[..., Config]):
    config = make_config(cluster__workers=0, eval__baselines=["oracle"])
    outcome = train(config)
    assert outcome.warnings == []
    uri = config.tracking.uri
    assert uri is not None
    client = assert_all_arrived(outcome.folder, uri)
    kept = client.get_run(outcome.folder.info["mlflow_run_id"])
    assert kept.info.status == "FINISHED"
    assert kept.data.params == flatten(config.model_dump(mode="json"))
    assert kept.data.tags["metaray.engine"] == outcome.folder.info["engine"]
    artifacts = {item.path for item in client.list_artifacts(kept.info.run_id)}
    assert {"config.yaml", "evaluation.json", "figures", "report.html", "run.json"} <= artifacts

    baseline = outcome.folder.baselines["oracle"]
    assert_all_arrived(baseline, uri)
    child = client.get_run(baseline.info["mlflow_run_id"])
    assert child.data.tags["mlflow.parentRunId"] == kept.info.run_id
    assert find(kept.info.run_id, config.checkpoint.root).path == outcome.folder.path


def test_a_server_that_is_down_stops_nothing_and_loses_nothing(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(tracking, "IMPATIENT", 0.5)
    with socket.socket() as listener:  # bound, never listening: connections are refused
        listener.bind(("127.0.0.1", 0))
        down = make_config(cluster__workers=0, tracking__uri=f"http://127.0.0.1:{listener.getsockname()[1]}")
        outcome = train(down)
    assert outcome.steps == 20
    assert len(outcome.warnings) == 1
    assert "nothing is lost" in outcome.warnings[0]
    assert outcome.folder.info["mlflow_run_id"] is None

    up = make_config(cluster__workers=0)
    resumed = train(up, folder=outcome.folder)
    assert resumed.warnings == []
    assert resumed.theta_sha256 == outcome.theta_sha256
    assert up.tracking.uri is not None
    assert_all_arrived(outcome.folder, up.tracking.uri)


def test_a_diverged_run_is_marked_failed(make_config: Callable[..., Config]):
    config = make_config(cluster__workers=0, inner__lr=1e6, inner__steps=5, outer__lr=10.0)
    folder = new_folder(config, "run")
    with pytest.raises(DivergedError, match="train tasks"):
        train(config, folder=folder)
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    assert client.get_run(folder.info["mlflow_run_id"]).info.status == "FAILED"


def test_steps_that_are_not_finite_can_be_passed_over(make_config: Callable[..., Config]):
    config = make_config(cluster__workers=0, inner__lr=1e6, inner__steps=5, outer__lr=10.0, outer__on_nonfinite="skip")
    outcome = train(config)
    assert outcome.steps == 20
    skipped = [value for _, value in recorded(outcome.folder)["train/skipped"]]
    assert sum(skipped) > 0

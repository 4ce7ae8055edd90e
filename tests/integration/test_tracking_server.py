"""MLflow over HTTP: the server dies, hangs and comes back, and afterwards everything is there, once."""

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from typer.testing import CliRunner

from cluster.commands.cli import app
from cluster.config.schema import Config
from cluster.interrupts import stop_on_signals
from cluster.runs.folder import RunFolder, write_json
from cluster.runs.metrics import MetricsLog
from cluster.tracking import Tracker, tracker
from cluster.tracking.spool import BATCH, Spool
from cluster.training.run import run as train
from cluster.training.start import resume
from helpers.folders import new_run
from helpers.waiting import wait_for

Arrived = Callable[..., mlflow.MlflowClient]
Start = Callable[..., subprocess.Popen[str]]
Finish = Callable[..., tuple[int, str, str]]
Replay = Callable[..., list[dict[str, Any]]]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(params=["server", "file"])
def uri(request: pytest.FixtureRequest, mlflow_server: Any, tmp_path: Path) -> str:
    """A server with its database, and the database that needs none."""
    return str(mlflow_server.uri) if request.param == "server" else f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def up_again(mlflow_server: Any) -> Iterator[Any]:
    """The server, for tests that stop it."""
    try:
        yield mlflow_server
    finally:
        mlflow_server.start()


@pytest.fixture
def served(make_config: Callable[..., Config], mlflow_server: Any) -> Config:
    return make_config(cluster__workers=0, tracking__uri=mlflow_server.uri)


def record(folder: RunFolder, steps: range) -> None:
    """Metrics as a training records them."""
    log = MetricsLog(folder.metrics_path)
    for step in steps:
        log.write(step, {"train/loss": step / 3, "val/accuracy_5 %": float("nan") if step % 7 == 0 else -step})
    log.close()


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """``metaray tracking replay`` in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(app, ["tracking", "replay", *arguments, "--json"])
        assert done.exit_code == 0, done.stderr
        runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
        return runs

    return call


def test_a_training_outlives_the_server_and_all_arrives(
    metaray: Start, finished: Finish, config_file: Path, up_again: Any, tmp_path: Path, assert_all_arrived: Arrived
):
    training = metaray(
        *("train", str(config_file), "outer.steps=1000000", "cluster.workers=0", f"tracking.uri={up_again.uri}")
    )
    try:
        [description] = wait_for(lambda: list(tmp_path.glob("runs/*/run.json")))
        folder = RunFolder(description.parent)
        wait_for(lambda: folder.info["mlflow_run_id"])
        up_again.stop()
        before = lines(folder.metrics_path)
        wait_for(lambda: lines(folder.metrics_path) > before + 50)  # 250 steps without a server
        up_again.start()
        after = lines(folder.metrics_path)
        wait_for(lambda: lines(folder.metrics_path) > after)
        training.send_signal(signal.SIGTERM)
        status, output, errors = finished(training)
    finally:
        training.kill()
    assert status == 1
    assert "the state is saved" in errors
    assert output == ""  # MLflow has not printed between
    client = assert_all_arrived(folder.path, up_again.uri)
    assert client.get_run(folder.info["mlflow_run_id"]).info.status == folder.info["status"] == "KILLED"


def test_nothing_is_there_twice_after_a_crash_between_sending_and_noting(
    make_config: Callable[..., Config], uri: str, replay: Replay, assert_all_arrived: Arrived
):
    config = make_config(cluster__workers=0, tracking__uri=uri)
    folder = new_run(config, "run")
    record(folder, range(BATCH))  # two batches
    sending = Tracker(folder, config.tracking, {})
    assert sending.close("FINISHED", []) is None
    noted = folder.path / "tracking.json"
    state = json.loads(noted.read_text())
    assert state["sent"]["metrics.jsonl"] == folder.metrics_path.stat().st_size
    write_json(noted, state | {"sent": {}, "reported": None})
    record(folder, range(BATCH, BATCH + 5))
    [done] = replay(str(folder.path))
    assert done["sent"] > 2 * BATCH
    assert_all_arrived_renamed(assert_all_arrived, folder, uri)


def assert_all_arrived_renamed(assert_all_arrived: Arrived, folder: RunFolder, uri: str) -> None:
    """As it says, where MLflow would have refused a metric by its name."""
    renamed = folder.metrics_path.read_text().replace("accuracy_5 %", "accuracy_5 _")
    folder.metrics_path.write_text(renamed)
    assert_all_arrived(folder.path, uri)


def test_a_run_made_by_a_call_that_was_cut_off_is_taken_up_and_its_twin_removed(
    served: Config, replay: Replay, mlflow_server: Any
):
    folder = new_run(served, "run")
    assert Tracker(folder, served.tracking, {}).close("FINISHED", []) is None
    noted = folder.path / "tracking.json"
    state = json.loads(noted.read_text())
    run_id = folder.info["mlflow_run_id"]
    client = mlflow.MlflowClient(tracking_uri=mlflow_server.uri)
    experiment = client.get_run(run_id).info.experiment_id
    twin = client.create_run(experiment, tags={"metaray.key": state["key"]}).info.run_id
    folder.update_info(mlflow_run_id=None)
    write_json(noted, state | {"sent": {}, "reported": None})
    [done] = replay(str(folder.path))
    kept = [run.info.run_id for run in client.search_runs([experiment], f"tags.`metaray.key` = '{state['key']}'")]
    assert kept == [done["run_id"]]
    assert {client.get_run(one).info.lifecycle_stage for one in {run_id, twin} - {*kept}} == {"deleted"}


def test_a_hanging_server_holds_nobody_up(
    served: Config, up_again: Any, monkeypatch: pytest.MonkeyPatch, replay: Replay
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = new_run(served, "run")
    sending = Tracker(folder, served.tracking, {})
    wait_for(lambda: sending.run_id)
    up_again.freeze()
    record(folder, range(20))
    began = time.monotonic()
    sending.end("FINISHED", [])
    assert time.monotonic() - began < 1
    warning = sending.wait(2)
    assert time.monotonic() - began < 8
    assert warning is not None
    assert "nothing is lost" in warning
    up_again.start()
    spool = Spool(folder.path)
    wait_for(spool.take)  # the call that hangs has a second to end; until then the run counts as being sent
    spool.release()
    [done] = replay(str(folder.path))
    assert done["status"] == "FINISHED"


def test_replay_brings_everything_up_to_date(
    make_config: Callable[..., Config],
    metaray: Start,
    finished: Finish,
    replay: Replay,
    up_again: Any,
    tmp_path: Path,
    assert_all_arrived: Arrived,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(tracker, "IMPATIENT", 0.5)
    config = make_config(cluster__workers=0, tracking__uri=up_again.uri, eval__baselines=["oracle"])
    up_again.stop()
    with stop_on_signals() as stop:
        outcome = train(resume(config, new_run(config, "run")), stop)
    assert len(outcome.warnings) == 1
    run = outcome.folder.path
    wait_for(lambda: not any(thread.name == "mlflow" for thread in threading.enumerate()))
    searched = search(tmp_path / "runs" / "search", config)
    status, output, errors = finished(metaray("tracking", "replay", "--json"))
    assert status == 1
    assert {one["status"] for one in json.loads(output)["runs"]} == {"UNSENT"}
    assert f"expected MLflow at {up_again.uri} to answer" in errors
    assert "Traceback" not in errors

    up_again.start()
    done = {tmp_path / one["run_dir"]: one for one in replay()}
    folders = [run, run / "baselines" / "oracle", searched, searched / "trials" / "000"]
    assert list(done) == sorted(folders, key=lambda path: (len(path.parts), path))
    assert [done[path]["status"] for path in folders] == ["FINISHED", "FINISHED", "KILLED", "FAILED"]
    client = mlflow.MlflowClient(tracking_uri=up_again.uri)
    for path in folders:
        assert_all_arrived(path, up_again.uri)
        assert client.get_run(done[path]["run_id"]).info.status == done[path]["status"]
    for outer, inner in (folders[:2], folders[2:]):
        tags = client.get_run(done[inner]["run_id"]).data.tags
        assert tags["mlflow.parentRunId"] == done[outer]["run_id"]
    names = {item.path for item in client.list_artifacts(done[run]["run_id"])}
    assert {"checkpoints", "config.yaml", "evaluation.json", "figures"} <= names
    assert client.get_run(done[searched]["run_id"]).data.params == {"space.inner.lr": "0.1"}

    again = replay()
    assert [one["sent"] for one in again] == [0, 0, 0, 0]


def search(path: Path, config: Config) -> Path:
    """A search that was killed after its only trial had failed, with MLflow down."""
    script = f"""
        import os
        from pathlib import Path
        from cluster.config.schema import parse
        from cluster.runs.metrics import MetricsLog
        from cluster.runs.folder import write_json
        from cluster.search.folder import SearchFolder
        from cluster.tracking import Tracker
        from cluster.training.start import begin
        config = parse({config.model_dump(mode="json")!r})
        folder = SearchFolder(Path({str(path)!r}))
        info = dict(name="search", created="2026-01-01T00:00:00+00:00", mlflow_run_id=None)
        write_json(folder.path / "search.json", info)
        trial = begin(config, "trial", folder.run(0).path).folder
        trial.settle("config.yaml", config.to_yaml())
        above = Tracker(folder, config.tracking, {{"space": {{"inner.lr": 0.1}}}})
        below = Tracker(trial, config.tracking, {{"inner": {{"lr": 0.1}}}}, parent=above)
        for one in (folder, trial):
            MetricsLog(one.metrics_path).write(0, {{"loss": 1.0}})
        below.close("FAILED", [], timeout=0.1)
        os.kill(os.getpid(), 9)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(command, timeout=100).returncode == -signal.SIGKILL
    return path


def test_a_run_that_is_being_trained_is_left_alone(
    served: Config, metaray: Start, finished: Finish, mlflow_server: Any, assert_all_arrived: Arrived
):
    folder = new_run(served, "run")
    sending = Tracker(folder, served.tracking, {})
    wait_for(lambda: sending.run_id)
    record(folder, range(10))
    status, output, errors = finished(metaray("tracking", "replay", "--json"))  # another process
    assert status == 0, errors
    [done] = json.loads(output)["runs"]
    assert (done["status"], done["sent"], done["run_id"]) == ("RUNNING", 0, sending.run_id)
    client = mlflow.MlflowClient(tracking_uri=mlflow_server.uri)
    assert client.get_run(sending.run_id).info.status == "RUNNING"
    assert sending.close("FINISHED", []) is None
    assert_all_arrived_renamed(assert_all_arrived, folder, mlflow_server.uri)


def test_a_run_that_was_deleted_there_is_said_to_be(
    served: Config,
    metaray: Start,
    finished: Finish,
    mlflow_server: Any,
    replay: Replay,
    assert_all_arrived: Arrived,
):
    folder = new_run(served, "run")
    assert Tracker(folder, served.tracking, {}).close("FINISHED", []) is None
    run_id = folder.info["mlflow_run_id"]
    mlflow.MlflowClient(tracking_uri=mlflow_server.uri).delete_run(run_id)
    record(folder, range(3))
    status, _, errors = finished(metaray("tracking", "replay"))
    assert status == 1
    assert f"expected MLflow run {run_id}, found that it was deleted" in errors
    folder.update_info(mlflow_run_id=None)
    [done] = replay()
    assert done["run_id"] != run_id
    assert_all_arrived_renamed(assert_all_arrived, folder, mlflow_server.uri)

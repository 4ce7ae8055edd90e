"""Killed workers: in a run's result, folder, MLflow and page with what they cost; too many stop it, its state saved."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from cluster.errors import Interrupted
from cluster.interrupts import stop_on_signals
from cluster.runs import checkpoint as checkpoints
from cluster.runs.events import read_events
from cluster.runs.folder import RunFolder
from cluster.training import run as training
from cluster.training.start import begin
from helpers.waiting import wait_for


def workers() -> list[psutil.Process]:
    """Worker processes below this one that serve."""
    below = []
    for one in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if "WorkerActor.serve" in " ".join(one.cmdline()) and one.status() != psutil.STATUS_ZOMBIE:
                below.append(one)
        except psutil.NoSuchProcess:
            continue
    return below


class Killing:
    """Progress that kills a worker at some steps, and goes on when it is gone."""

    def __init__(self, *steps: int) -> None:
        self._steps = steps

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Kill one if it is the time."""
        del metrics
        if step in self._steps:
            victim = workers()[0]
            victim.kill()
            wait_for(lambda: victim.pid not in {one.pid for one in workers()}, "the worker to be gone")


@pytest.fixture
def outcome(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train, a worker being killed at each of some steps."""

    def train(config: Any, name: str, *steps: int) -> training.Outcome:
        @contextmanager
        def progress(*_: Any, **__: Any) -> Iterator[Killing]:
            yield Killing(*steps)

        monkeypatch.setattr(training, "progress", progress)
        with stop_on_signals() as stop:
            return training.run(begin(config, name), stop)

    return train


def test_a_lost_worker_is_in_result_folder_mlflow_and_page(outcome, make_config):
    config = make_config(outer__steps=60, eval__every=0, cluster__workers=2)
    result = outcome(config, "lossy", 20).as_json()
    folder = RunFolder(Path(config.checkpoint.root) / "lossy")
    (lost,) = [event for event in result["events"] if event["kind"] == "worker lost"]
    assert result["failures"] == [lost["text"]]
    assert lost["text"].startswith(f"worker {lost['worker']} was lost")
    assert 0 <= lost["seconds"] < 10
    assert lost["node"]
    recorded = [event.as_json() for event in read_events(folder.events_path)]
    assert recorded == result["events"]
    assert "Workers and nodes lost" in (folder.path / "report.html").read_text()
    client = mlflow.MlflowClient(tracking_uri=config.tracking.uri)
    assert "events.jsonl" in {artifact.path for artifact in client.list_artifacts(result["run_id"])}
    metrics = client.get_run(result["run_id"]).data.metrics
    assert metrics["cluster/failures"] == 1
    assert metrics["cluster/seconds_lost"] == pytest.approx(lost["seconds"], abs=1e-3)


def test_more_failures_than_allowed_stop_the_run_with_its_state_saved(outcome, make_config):
    # A single worker may be lost twice, whatever is asked for.
    config = make_config(
        outer__steps=100, checkpoint__every=1000, eval__every=0, cluster__workers=1, cluster__max_failures=0
    )
    with pytest.raises(Interrupted, match=r"stopped by the loss of 3 workers within 600 s \(the last: worker 0") as end:
        outcome(config, "failing", 20, 30, 40)
    folder = RunFolder(Path(config.checkpoint.root) / "failing")
    assert str(end.value).endswith(f"the state is saved; go on with: metaray train --resume {folder.path}")
    saved = checkpoints.newest(folder.checkpoints)
    assert saved is not None
    assert 40 < saved.step < 60
    kinds = [event.kind for event in read_events(folder.events_path)]
    assert kinds.count("worker lost") == 3
    assert kinds.count("worker replaced") >= 2

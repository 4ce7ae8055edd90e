"""MLflow: one run per training, fed from the run's own metrics file by a thread that the training never waits for.

``metrics.jsonl`` is the spool. The thread sends what it has not sent yet and notes how far it came; while the server
is down it tries again, and what is unsent when the training ends is said and stays in the file.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Without these a server that is down would hold a call for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from cluster.config import Config
from cluster.runs import RunFolder, write_json
from cluster.secrets import without_credentials

BATCH = 1000  # MLflow's limit of metrics per call
LONGEST_PARAM = 6000
INTERVAL = 5.0  # seconds between sends: each takes some 50 ms of the interpreter
RETRY = 1.0  # seconds between attempts when the training has ended
LONGEST_PAUSE = 30.0  # seconds between attempts while the server is down
IMPATIENT = 10.0  # seconds that a finished run waits for a server that is down


def tracking_uri(config: Config) -> str:
    """``tracking.uri``, else ``MLFLOW_TRACKING_URI``, else a SQLite file in the working directory."""
    return config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as dotted keys and texts.

    >>> flatten({"inner": {"lr": 0.1}, "seed": 0})
    {'inner.lr': '0.1', 'seed': '0'}
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)
    return flat


class Tracker:
    """Keeps one MLflow run in step with a run's folder.

    The MLflow run is made by the thread, at the first moment the server answers; a folder that has one already is
    continued in it.
    """

    def __init__(self, folder: RunFolder, config: Config, parent: "Tracker | None" = None) -> None:
        """Start the thread.

        Args:
            folder: the run's folder.
            config: its configuration.
            parent: tracker of the run that this one is a part of.
        """
        self._folder, self._config, self._parent = folder, config, parent
        self._uri = tracking_uri(config)
        self._progress = folder.path / "tracking.json"  # how far the metrics have been sent
        self._closing = threading.Event()
        self._artifacts: Sequence[Path] = ()
        self._status = "FINISHED"
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, once there is one."""
        run_id: str | None = self._folder.info["mlflow_run_id"]
        return run_id

    def close(self, status: str, artifacts: Sequence[Path], timeout: float = 60.0) -> str | None:
        """Send the rest and the artifacts, and end the run.

        Args:
            status: FINISHED, FAILED or KILLED.
            artifacts: files and folders of the run to upload.
            timeout: seconds to wait for a server that is down.

        Returns:
            None, or what could not be sent and why.
        """
        self._status, self._artifacts = status, artifacts
        self._closing.set()
        began = time.monotonic()
        while self._thread.is_alive():
            # A server that was down already had its chance while the training ran.
            patience = min(timeout, IMPATIENT) if self._error is not None else timeout
            if time.monotonic() - began > patience:
                break
            self._thread.join(RETRY)
        if not self._thread.is_alive() and self._error is None:
            return None
        return without_credentials(
            f"MLflow at {self._uri} did not take everything ({self._error or 'no answer yet'}); nothing is lost: the "
            f"metrics are in {self._folder.metrics_path} and are sent when the run is resumed"
        )

    def _run(self) -> None:
        pause = INTERVAL
        while True:
            closing = self._closing.wait(pause)
            try:
                client, run_id = self._connect()
                self._send_metrics(client, run_id)
                if closing:
                    self._finish(client, run_id)
                self._error, pause = None, INTERVAL
            except Exception as error:  # whatever a tracking store raises must not reach the training
                self._error, pause = error, min(2 * pause, LONGEST_PAUSE)
                if closing:
                    time.sleep(RETRY)
                    continue
            if closing:
                return

    def _connect(self) -> tuple[mlflow.MlflowClient, str]:
        """A client and the run's id; the run is made by the first call that reaches the server."""
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)
        client = mlflow.MlflowClient(tracking_uri=self._uri)
        return client, self.run_id or self._create_run(client)

    def _create_run(self, client: mlflow.MlflowClient) -> str:
        info = self._folder.info
        if self._parent is not None and self._parent.run_id is None:
            raise ConnectionError("the parent run has no MLflow run yet")
        run = client.create_run(
            self._experiment(client),
            run_name=info["name"],
            tags={"mlflow.parentRunId": self._parent.run_id} if self._parent else {},
        )
        run_id = str(run.info.run_id)
        params = flatten(self._config.model_dump(mode="json"))
        tags = {
            "metaray.run_dir": str(self._folder.path.absolute()),
            "metaray.hardware": info["hardware"],
            "metaray.engine": info["engine"],
            **{f"metaray.version.{name}": number for name, number in info["versions"].items()},
        }
        if info["git_commit"]:
            tags["mlflow.source.git.commit"] = info["git_commit"]
        client.log_batch(
            run_id,
            params=[Param(key, value[:LONGEST_PARAM]) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        write_json(self._progress, {"sent_bytes": 0})
        self._folder.update_info(mlflow_run_id=run_id, mlflow_uri=without_credentials(self._uri))
        return run_id

    def _experiment(self, client: mlflow.MlflowClient) -> str:
        name = self._config.tracking.experiment
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        beside = self._uri.removeprefix("sqlite:///")
        location = (Path(beside).parent / "mlruns").absolute().as_uri() if beside != self._uri else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run may have been quicker
            if found is None:
                raise
            return str(found.experiment_id)

    def _send_metrics(self, client: mlflow.MlflowClient, run_id: str) -> None:
        if not self._folder.metrics_path.exists():
            return
        sent = json.loads(self._progress.read_text())["sent_bytes"]
        with self._folder.metrics_path.open("rb") as stream:
            stream.seek(sent)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        metrics = [
            Metric(name, value, int(record["time"] * 1000), record["step"])
            for record in map(json.loads, whole.splitlines())
            for name, value in record["values"].items()
            if value is not None
        ]
        for first in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[first : first + BATCH])
        if whole:
            write_json(self._progress, {"sent_bytes": sent + len(whole)})

    def _finish(self, client: mlflow.MlflowClient, run_id: str) -> None:
        for path in self._artifacts:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), artifact_path=path.name)
            elif path.exists():
                client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, self._status)

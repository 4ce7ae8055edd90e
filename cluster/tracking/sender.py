"""Sends a folder's spool to MLflow: the run, its metrics, and in the end its artifacts and status."""

import json
import math
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from cluster.config.credentials import without_credentials
from cluster.errors import MetarayError
from cluster.runs.checkpoint import BEST
from cluster.runs.storage import Store
from cluster.tracking.machine import SYSTEM
from cluster.tracking.server import NOT_FOUND, UNREACHABLE, connect, experiment_id, require_active
from cluster.tracking.spool import BATCH, RUNNING, Spool, Tracked, ending, update

OWNER = "metaray.owner"  # tag of a run: who goes on with it, a word that a folder makes up whenever it begins to
OWNERS = 100  # such words that a folder remembers
PARAMS = 100  # MLflow's limits, per call and per text
LONGEST_NAME = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 5000
LONGEST_DIGEST = 36


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as dotted keys and texts.

    Args:
        values: nested plain values.
        prefix: dotted key of ``values``, with a dot at the end.

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


def acceptable(name: str) -> str:
    """A name that MLflow takes for a metric or a parameter: one it refuses would keep back all that come after it.

    >>> acceptable("val/top-1 %")
    'val/top-1 _'
    """
    parts = re.sub(r"[^\w\-./: ]", "_", name).split("/")
    return "/".join(part for part in parts if part.strip("."))[:LONGEST_NAME]


class WaitingError(MetarayError):
    """Raised while nothing can be sent yet although nothing has failed."""


class Sender:
    """Keeps one MLflow run in step with a folder whose spool the caller holds.

    Nothing is there twice, whenever a process dies: the run carries a key that was noted before it was made, and a
    metric that comes again with its time, step and value is ignored by MLflow's databases.
    """

    def __init__(
        self,
        folder: Tracked,
        spool: Spool,
        uri: str,
        parent: Callable[[], str | None] | None = None,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        """Name what is to be sent; nothing is sent yet.

        Args:
            folder: the folder.
            spool: its spool.
            uri: the MLflow server or database.
            parent: gives the MLflow run that this one is a part of, None while there is none yet.
            heard: called whenever MLflow has answered.
        """
        self.run_id: str | None = None
        self._owner = uuid.uuid4().hex
        self._folder, self._spool, self._uri, self._parent, self._heard = folder, spool, uri, parent, heard
        self._connected: mlflow.MlflowClient | None = None

    @property
    def _client(self) -> mlflow.MlflowClient:
        if self._connected is None:
            self._connected = connect(self._uri)
        return self._connected

    @property
    def _sources(self) -> tuple[Path, ...]:
        return self._folder.metrics_path, self._folder.path / SYSTEM

    def connect(self, *, running: bool) -> str:
        """Find or make the MLflow run and return its id; ``running`` says that the training goes on."""
        if self.run_id is None:
            self._spool.settle(self._folder)
            self._own()
            run_id = self._known()
            if run_id is None:
                self._own()  # with the run, which was another folder's, its owners have been forgotten
                run_id = self._create()
            self._client.set_tag(run_id, OWNER, self._owner)
            if running and self._client.get_run(run_id).info.status != RUNNING:
                self._client.update_run(run_id, status=RUNNING)
            self._heard()
            self.run_id = run_id
        return self.run_id

    def _own(self) -> None:
        """Record the owner of the MLflow run before MLflow is called."""
        owners = self._spool.state.get("owners", [])
        if self._owner not in owners:
            self._spool.note(owners=[*owners[-OWNERS:], self._owner])

    def _known(self) -> str | None:
        """The run that the folder had so far, unless it is of another store, one begun anew, or another folder's.

        Raises:
            MetarayError: if it, or its experiment, was deleted and can be restored.
        """
        run_id: str | None = self._folder.info["mlflow_run_id"]
        run = None if run_id is None else self._found(run_id)
        if run is None:
            return None
        if self._is_of_another_folder(run):
            self._spool.part(self._folder, "a folder that has gone on with it since")
            return None
        self._require_active(run)
        return run_id

    def _is_of_another_folder(self, run: Run) -> bool:
        """Whether a copy of this folder, or the folder that this one is a copy of, has gone on with the run since."""
        owner = run.data.tags.get(OWNER)
        return owner is not None and owner not in self._spool.state["owners"]

    def _found(self, run_id: str) -> Run | None:
        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != NOT_FOUND:
                raise
            return None

    def _require_active(self, run: Run) -> None:
        require_active(self._client.get_experiment(run.info.experiment_id), self._uri)
        if run.info.lifecycle_stage == LifecycleStage.DELETED:
            uri = without_credentials(self._uri)
            raise MetarayError(
                f"expected MLflow run {run.info.run_id}, found that it was deleted; restore it with: "
                f"MLFLOW_TRACKING_URI={uri} mlflow runs restore --run-id {run.info.run_id}, or set mlflow_run_id to "
                f"null in the description in {self._folder.path} to have another made"
            )

    @contextmanager
    def _explained(self, run_id: str) -> Iterator[None]:
        """Raise an explaining error if the MLflow run cannot be written to because it was deleted."""
        try:
            yield
        except MlflowException as error:
            if error.error_code in UNREACHABLE:
                raise
            run = self._found(run_id)
            if run is None:
                self.run_id = None  # it is gone for good: another is made at the next attempt
            else:
                self._require_active(run)
            raise

    def _create(self) -> str:
        parent = self._parent() if self._parent is not None else None
        if self._parent is not None and parent is None:
            raise WaitingError("the run that this one is a part of is not in MLflow yet")
        client, info, state = self._client, self._folder.info, self._spool.state
        experiment = self._experiment(parent)
        # A call that was cut off may have made the run all the same.
        made = self._made(experiment)
        if not made:
            self._spool.note(sent={}, reported=None)
            tags = {"metaray.key": state["key"], OWNER: self._owner} | (
                {"mlflow.parentRunId": parent} if parent else {}
            )
            start = int(datetime.fromisoformat(info["created"]).timestamp() * 1000)
            copied = "copy_of" in state and parent is None
            name = self._folder.path.resolve().name if copied else info["name"]
            run = client.create_run(experiment, start_time=start, tags=tags, run_name=name)
            made = [str(run.info.run_id)]
        run_id = made[0]
        self._describe(run_id)
        update(self._folder, mlflow_run_id=run_id, mlflow_uri=without_credentials(self._uri))
        return run_id

    def _experiment(self, parent: str | None) -> str:
        """The parent's, also where that was renamed since; without a parent the one that the configuration names."""
        above = None if parent is None else self._found(parent)
        if above is None:
            return experiment_id(self._client, self._uri, self._spool.state["experiment"])
        experiment = self._client.get_experiment(above.info.experiment_id)
        require_active(experiment, self._uri)
        return str(experiment.experiment_id)

    def _made(self, experiment: str) -> list[str]:
        """Runs that were made for this folder, the first one first."""
        runs = self._client.search_runs(
            [experiment],
            f"tags.`metaray.key` = '{self._spool.state['key']}'",
            order_by=["attribute.start_time ASC"],
        )
        return [str(run.info.run_id) for run in runs if not self._is_of_another_folder(run)]

    def _describe(self, run_id: str) -> None:
        """Parameters, tags and data set."""
        info, state = self._folder.info, self._spool.state
        params = {acceptable(key): without_credentials(value)[:LONGEST_PARAM] for key, value in state["params"].items()}
        tags = {"metaray.run_dir": str(self._folder.path.absolute())}
        tags |= {f"metaray.{key}": str(info[key]) for key in ("hardware", "engine", "data") if info.get(key)}
        tags |= {f"metaray.version.{name}": number for name, number in info.get("versions", {}).items()}
        for name, key in {"family": "task.family", "algorithm": "algorithm"}.items():
            tags |= {f"metaray.{name}": state["params"][key]} if key in state["params"] else {}
        if info.get("git_commit"):
            tags |= {"mlflow.source.git.commit": info["git_commit"], "metaray.commit": info["git_commit"]}
        if state.get("copy_of", {}).get("run"):
            tags["metaray.copy_of"] = state["copy_of"]["run"]
        pairs = [Param(key, value) for key, value in params.items()]
        texts = [RunTag(key, without_credentials(value)[:LONGEST_TAG]) for key, value in tags.items()]
        self._client.log_batch(run_id, tags=texts, synchronous=True)
        for first in range(0, len(pairs), PARAMS):
            self._client.log_batch(run_id, params=pairs[first : first + PARAMS], synchronous=True)
        if info.get("data"):
            self._client.log_inputs(run_id, [_data_set(info["data"], params)])

    def send(self) -> int:
        """Send what is unsent, the run being there; returns the number of values."""
        run_id = self.connect(running=False)
        with self._explained(run_id):
            return self._send(run_id)

    def _send(self, run_id: str) -> int:
        sent = 0
        for path in self._sources:
            for readings in self._spool.unsent(path):
                metrics = [
                    Metric(
                        acceptable(one.name),
                        math.nan if one.value is None else one.value,
                        int(one.time * 1000),
                        one.step,
                    )
                    for one in readings
                ]
                for first in range(0, len(metrics), BATCH):
                    self._client.log_batch(run_id, metrics=metrics[first : first + BATCH], synchronous=True)
                    self._heard()
                sent += len(metrics)
        return sent

    @property
    def unsent(self) -> bool:
        """Whether there are metrics to send."""
        return any(readings for path in self._sources for readings in self._spool.unsent(path))

    @property
    def ended(self) -> bool:
        """Whether MLflow has received the training's end."""
        return bool(self._spool.state.get("reported") == self._report)

    @property
    def _report(self) -> str:
        info = self._folder.info
        return f"{ending(self._folder).status} {info.get('ended')}"

    def finish(self) -> None:
        """Send the artifacts and the checkpoints, and end the run as the training ended."""
        run_id = self.connect(running=False)
        with self._explained(run_id):
            self._finish(run_id)

    def _finish(self, run_id: str) -> None:
        report, end = self._report, ending(self._folder)
        for path in end.artifacts:
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), artifact_path=path.name)
            elif path.exists():
                self._client.log_artifact(run_id, str(path))
            self._heard()
        self._send_checkpoints(run_id)
        self._client.set_terminated(run_id, end.status, end_time=int(end.time * 1000))
        experiment = self._client.get_run(run_id).info.experiment_id
        for twin in self._made(experiment):
            if twin != run_id:
                self._client.delete_run(twin)
        self._spool.note(reported=report)

    def _send_checkpoints(self, run_id: str) -> None:
        """The best and the newest, wherever they lie."""
        store = Store(self._folder.info.get("checkpoints") or str(self._folder.path / "checkpoints"))
        names = store.names()
        steps = [name for name in names if name.startswith("step-")]
        with tempfile.TemporaryDirectory() as scratch:
            for name in [*({BEST} & {*names}), *steps[-1:]]:
                copy = Path(scratch) / name
                copy.write_bytes(store.read(name))
                self._client.log_artifact(run_id, str(copy), artifact_path="checkpoints")
                copy.unlink()
                self._heard()


def _data_set(fingerprint: str, params: Mapping[str, str]) -> DatasetInput:
    """The data that tasks are drawn from, as MLflow's pages show it."""
    root = params.get("task.root") or params.get("task.family", "")
    kind = root.partition("://")[0] if "://" in root else "local"
    name = root.rstrip("/").rpartition("/")[2] or "data"
    data = Dataset(name, fingerprint[:LONGEST_DIGEST], kind, json.dumps({"uri": root}))
    return DatasetInput(data, [InputTag("mlflow.data.context", "training")])

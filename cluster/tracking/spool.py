"""A folder's spool: which of its metrics are sent, where to, and how the training in it ended."""

import json
import os
import platform
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from cluster.errors import ConfigError
from cluster.runs.events import EVENTS
from cluster.runs.folder import read_json, write_json

STATE, LOCK = "tracking.json", "tracking.lock"
DESCRIPTIONS = ("run.json", "search.json", "compare.json")  # of the folders that may be tracked
BATCH = 1000  # MLflow's limit of metrics per call
RUNNING = "RUNNING"
LEFT = ("*.yaml", *DESCRIPTIONS, EVENTS)  # artifacts of a folder whose training was killed
_UPDATING = threading.Lock()


class Tracked(Protocol):
    """A folder that MLflow is kept in step with: a run's, or a search's.

    Attributes:
        path: the folder.
        info: its description. ``name``, ``created`` and ``mlflow_run_id`` are read, and where they are there
            ``hardware``, ``engine``, ``versions``, ``git_commit``, ``data`` (a fingerprint) and ``checkpoints``.
        metrics_path: its metrics, as :class:`cluster.runs.metrics.MetricsLog` writes them.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def info(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def metrics_path(self) -> Path: ...  # noqa: D102

    def update_info(self, **values: Any) -> None:
        """Change entries of the description."""


@dataclass(frozen=True)
class Reading:
    """One value of one metric; None where it was not finite."""

    name: str
    value: float | None
    time: float
    step: int


@dataclass(frozen=True, kw_only=True)
class Ending:
    """End of a training.

    Attributes:
        status: FINISHED, FAILED or KILLED.
        time: when, in seconds since 1970.
        artifacts: files and folders that belong in MLflow.
    """

    status: str
    time: float
    artifacts: Sequence[Path]


def note_begin(folder: Tracked) -> None:
    """Note that a training runs in the folder."""
    update(folder, status=RUNNING, ended=None, artifacts=[])


def note_end(folder: Tracked, status: str, artifacts: Sequence[Path]) -> None:
    """Record the end of a training, so that any process can send it to MLflow.

    Args:
        folder: the run's or search's folder.
        status: MLflow's FINISHED, FAILED or KILLED.
        artifacts: files and folders to upload.
    """
    names = [os.path.relpath(path, folder.path) for path in artifacts]
    update(folder, status=status, ended=datetime.now(UTC).isoformat(), artifacts=names)


def ending(folder: Tracked) -> Ending:
    """End of the training in a folder where nothing runs now; a training that recorded none counts as killed."""
    info = folder.info
    if info.get("ended") is not None:
        paths = [folder.path / name for name in info["artifacts"]]
        return Ending(status=info["status"], time=datetime.fromisoformat(info["ended"]).timestamp(), artifacts=paths)
    last = folder.metrics_path if folder.metrics_path.exists() else folder.path
    left = [path for pattern in LEFT for path in sorted(folder.path.glob(pattern))]
    return Ending(status="KILLED", time=last.stat().st_mtime, artifacts=left)


def update(folder: Tracked, **values: Any) -> None:
    """Change entries of a folder's description, which two threads may do at once.

    Args:
        folder: the run's or search's folder.
        **values: entries by name.
    """
    with _UPDATING:
        folder.update_info(**values)


def place_of(path: Path) -> dict[str, Any]:
    """Place of a folder: host, path, and an identity that is the same on every host that shares its file system."""
    resolved = path.resolve()
    lock = resolved / LOCK
    inodes = [resolved.stat().st_ino, lock.stat().st_ino if lock.exists() else 0]
    return {"host": platform.node(), "path": str(resolved), "inodes": inodes}


def original_of(path: Path) -> str | None:
    """Path of the folder that this one is a copy of; None if it is no copy, or has become a run of its own.

    A copy has the key and the recorded place of its original. On the recorded host it is one if the original is still
    there, with the same key: a folder that was moved has left nothing behind. On another host it is one unless both
    hosts see the same folder.
    """
    state = _read_state(path)
    place = state.get("place")
    if place is None or "key" not in state:
        return None
    if place["host"] != platform.node():
        return None if place["inodes"] == place_of(path)["inodes"] else f"{place['path']} on {place['host']}"
    original = Path(place["path"])
    if not (original / STATE).exists() or original.samefile(path):
        return None
    return str(original) if _read_state(original).get("key") == state["key"] else None


def require_own_checkpoints(folder: Tracked) -> None:
    """Refuse to train in a copy whose checkpoints lie at a URI, where the original's lie.

    Raises:
        ConfigError: saying how the copy gets checkpoints of its own.
    """
    store, original = folder.info.get("checkpoints"), original_of(folder.path)
    if store is not None and original is not None and _read_state(folder.path)["place"].get("checkpoints") == store:
        raise ConfigError(
            f"expected a run with checkpoints of its own, received {folder.path}, a copy of {original}: both would "
            f"write to {store}; copy that folder too and set 'checkpoints' in {folder.path / 'run.json'} to the copy's "
            "address, or go on with the original"
        )


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads((path / STATE).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


class Spool:
    """The file ``tracking.json`` and the lock on it; only the holder of the lock may send the folder's metrics.

    A training holds it from its start to its end, and the system gives it up when the process dies. So a lock that
    can be had says that nothing is being trained in the folder.
    """

    def __init__(self, path: Path) -> None:
        """Name the spool of a folder; nothing is read or written yet."""
        self.state: dict[str, Any] = {}
        self._path, self._file = path, path / STATE
        self._lock = FileLock(path / LOCK, thread_local=False)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.is_locked

    def take(self) -> bool:
        """Take the lock if it can be had at once; whether this object holds it."""
        if not self.held:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                return False
            self.state = read_json(self._file) if self._file.exists() else {}
        return True

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def note(self, **values: Any) -> None:
        """Change entries of ``tracking.json``."""
        self.state |= values
        write_json(self._file, self.state)

    def settle(self, folder: Tracked) -> str | None:
        """Note where the folder is, and part a copy from the MLflow run of its original.

        Returns:
            Where the original is, if the folder was a copy until now.
        """
        original = original_of(self._path)
        if original is not None:
            self.part(folder, original)
        elif "key" not in self.state:
            self.note(key=uuid.uuid4().hex)
        place = place_of(self._path) | {"checkpoints": folder.info.get("checkpoints")}
        if self.state.get("place") != place:
            self.note(place=place)
        return original

    def part(self, folder: Tracked, original: str) -> None:
        """Forget the MLflow run, which belongs to another folder: all is sent anew, to a run of this folder's own.

        Args:
            folder: the copy.
            original: path of the folder that it was copied from.
        """
        before = folder.info["mlflow_run_id"]
        self.note(key=uuid.uuid4().hex, owners=[], sent={}, reported=None, copy_of={"path": original, "run": before})
        update(folder, mlflow_run_id=None, mlflow_uri=None)

    def unsent(self, path: Path) -> Iterator[list[Reading]]:
        """Batches of what a file holds beyond what was sent of it; each is noted as sent when the next is asked for."""
        if not path.exists():
            return
        with path.open("rb") as stream:
            sent: Mapping[str, int] = self.state.get("sent", {})
            position = sent.get(path.name, 0)
            position = stream.seek(position if position <= path.stat().st_size else 0)  # a shorter one is another file
            for readings, after in _batches(stream, position):
                yield readings
                self.note(sent={**self.state.get("sent", {}), path.name: after})


def _batches(lines: Iterable[bytes], position: int) -> Iterator[tuple[list[Reading], int]]:
    """Readings in batches, and the position in the file after each; a line that is being written is left out."""
    batch: list[Reading] = []
    for line in lines:
        if not line.endswith(b"\n"):
            break
        record = json.loads(line)
        readings = [Reading(name, value, record["time"], record["step"]) for name, value in record["values"].items()]
        if batch and len(batch) + len(readings) > BATCH:
            yield batch, position
            batch = []
        batch += readings
        position += len(line)
    if batch:
        yield batch, position


def is_live(path: Path) -> bool:
    """Whether a training, a search or a comparison is running in a folder now.

    Args:
        path: the folder.
    """
    if not (path / LOCK).exists():
        return False
    spool = Spool(path)
    try:
        return not spool.take()
    finally:
        spool.release()

"""Sends what a training could not send to MLflow, for runs, searches and comparisons in which nothing runs now."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from cluster.config.credentials import without_credentials
from cluster.errors import ConfigError, MetarayError
from cluster.runs.folder import DescribedFolder, find
from cluster.tracking.sender import Sender
from cluster.tracking.spool import DESCRIPTIONS, RUNNING, Spool, ending, original_of

NOT_STARTED, UNSENT = "NOT_STARTED", "UNSENT"


class _Folder(DescribedFolder):
    """The folder of a run or a search."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.description = next(name for name in DESCRIPTIONS if (path / name).is_file())


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """Result of replaying one folder.

    Attributes:
        run_dir: the folder.
        run_id: its MLflow run, None while there is none.
        sent: values sent now.
        status: MLflow's FINISHED, FAILED or KILLED; RUNNING if it is being trained now and was left alone,
            NOT_STARTED if nothing was ever recorded in it, UNSENT if MLflow did not take it.
        error: why it is unsent.
    """

    run_dir: Path
    run_id: str | None
    sent: int
    status: str
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray tracking replay --json`` prints."""
        return {"run_dir": str(self.run_dir), "run_id": self.run_id, "sent": self.sent, "status": self.status}


def tracked_folders(runs: Sequence[str], root: str = "runs") -> list[Path]:
    """Folders of the named runs and of all that lie in them, by default of all under ``root``, outermost first.

    The runs that a named one is a part of are there too, since theirs in MLflow has to be made before.

    Args:
        runs: folders, names under ``root``, or MLflow run ids; a folder of runs stands for all in it.
        root: the folder of the runs.

    Raises:
        ConfigError: if a name is of no run.
    """
    folders: set[Path] = set()
    for top in [_named(run, root) for run in runs] or [Path(root)]:
        inside = {path.parent for name in DESCRIPTIONS for path in top.glob(f"**/{name}")}
        if runs and not inside:
            raise ConfigError(f"expected a run or a folder of runs, received '{top}', which holds none")
        folders |= inside | {path for path in top.absolute().parents if _is_tracked(path)}
    by_place = {path.resolve(): path for path in folders}  # each once, by whatever way it was named
    return [by_place[place] for place in sorted(by_place, key=lambda place: (len(place.parts), place))]


def replay(folders: Iterable[Path]) -> Iterator[Replayed]:
    """Send what is unsent of each folder, the outer before the inner; one that is being trained is left alone.

    A store that does not answer is not asked again.
    """
    silent: set[str] = set()
    for path in folders:
        folder, spool = _Folder(path), Spool(path)
        if not spool.take():
            yield Replayed(run_dir=path, run_id=folder.info["mlflow_run_id"], sent=0, status=RUNNING)
            continue
        try:
            if "experiment" in spool.state:
                yield _replay(folder, spool, silent)
            else:
                yield Replayed(run_dir=path, run_id=None, sent=0, status=NOT_STARTED)
        finally:
            spool.release()


def _replay(folder: _Folder, spool: Spool, silent: set[str]) -> Replayed:
    path, uri = folder.path, _address(spool.state)
    sender = Sender(folder, spool, uri, _parent(path))
    sent, error = 0, None
    try:
        if sender.unsent or not sender.ended or _is_left_behind(path):
            _ask(sender, uri, silent)
            sent = sender.send()
            sender.finish()
    except Exception as caught:  # of one run; the others have theirs
        error = without_credentials(str(caught))
    status = UNSENT if error else ending(folder).status
    return Replayed(run_dir=path, run_id=folder.info["mlflow_run_id"], sent=sent, status=status, error=error)


def _is_left_behind(path: Path) -> bool:
    """Whether a folder is a copy still while the one that it lies in has become a run of its own."""
    above = _above(path)
    return above is not None and original_of(above) is None and original_of(path) is not None


def _ask(sender: Sender, uri: str, silent: set[str]) -> None:
    """Connect to the store; a store that did not answer before is not tried again."""
    if uri in silent:
        raise MetarayError("no answer, as before")
    if "***" in uri:
        raise MetarayError(
            f"expected the address of MLflow with its credentials, which are not kept, found {uri}; set "
            "MLFLOW_TRACKING_URI to it"
        )
    try:
        sender.connect(running=False)
    except MlflowException as error:
        if error.error_code == "INTERNAL_ERROR":  # which a failed connection is reported as
            silent.add(uri)
            raise MetarayError(f"expected MLflow at {uri} to answer, received: {error}; start it") from error
        raise


def _address(state: dict[str, Any]) -> str:
    """Address of the tracking server: the configuration's, else the environment's, else where the run was tracked."""
    recorded: str = state["uri"]
    return recorded if state["named"] else os.environ.get("MLFLOW_TRACKING_URI") or recorded


def _parent(path: Path) -> Callable[[], str | None] | None:
    """Gives the MLflow run of the folder that this one lies in, if it lies in one."""
    above = _above(path)
    return None if above is None else lambda: _Folder(above).info["mlflow_run_id"]


def _above(path: Path) -> Path | None:
    """The folder of a run or a search that this one lies in."""
    return next((folder for folder in path.absolute().parents if _is_tracked(folder)), None)


def _is_tracked(path: Path) -> bool:
    return any((path / name).is_file() for name in DESCRIPTIONS)


def _named(run: str, root: str) -> Path:
    for path in (Path(run), Path(root) / run):
        if path.is_dir():
            return path
    return find(run, root).path

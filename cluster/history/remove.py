"""Removes folders of runs, searches and comparisons, and names what stays elsewhere."""

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import ConfigError
from cluster.history.record import Record, description_of
from cluster.runs.folder import read_json
from cluster.tracking.spool import Spool


def require_removable(record: Record) -> None:
    """Check that a folder may be removed.

    Raises:
        ConfigError: if it is a part of another run's, is a link, or something runs in it.
    """
    path = record.path
    whole = next((above for above in path.absolute().parents if description_of(above)), None)
    if whole is not None:
        raise ConfigError(f"expected a run of its own, received '{path}', which is a part of '{whole}'; remove that")
    if path.is_symlink():
        raise ConfigError(f"expected a folder, received '{path}', a link to '{path.resolve()}'; remove that")
    if record.status == "running":
        raise ConfigError(
            f"expected a {record.kind} in which nothing runs, received '{path}', which is live; stop it first"
        )


def remaining(record: Record) -> list[str]:
    """Sentences about what is kept elsewhere and is not removed with the folder."""
    lines = []
    if record.mlflow_run_id is not None:
        lines.append(
            f"run {record.mlflow_run_id} in MLflow at {record.mlflow_uri} stays, and models registered from it"
        )
    description = description_of(record.path)
    store = None if description is None or record.status == "damaged" else read_json(description).get("checkpoints")
    if store is not None:
        lines.append(f"checkpoints at {store} stay")
    return lines


def size(path: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def remove(records: Sequence[Record]) -> None:
    """Remove folders; each is checked, and held against a training that begins, before anything is removed.

    Args:
        records: of the folders.

    Raises:
        ConfigError: as :func:`require_removable`, with nothing removed.
    """
    held: list[Spool] = []
    try:
        for record in records:
            require_removable(record)
            held.append(Spool(record.path))
            if record.status != "damaged" and not held[-1].take():
                raise ConfigError(
                    f"expected a {record.kind} in which nothing runs, received '{record.path}'; stop it first"
                )
        for record in records:
            # Out of the way in one step: a removal that is interrupted leaves no half of a run under its name.
            aside = record.path.with_name(f".{record.path.name}.{secrets.token_hex(4)}.removed")
            record.path.rename(aside)
            shutil.rmtree(aside)
    finally:
        for spool in held:
            spool.release()

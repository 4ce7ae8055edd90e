"""The state of a training seen from another process: read from the files of its folder."""

import json
from pathlib import Path

from cluster.history.record import Record, record_of
from cluster.progress import Snapshot
from cluster.runs.folder import LIVE


def watched(path: Path) -> tuple[Record, Snapshot | None]:
    """The record of a run, and what it shows now.

    A run trains itself and then its baselines, each in a folder of its own; what is shown is of the one under way.

    Args:
        path: the run's folder.

    Returns:
        The record, and None where nothing trains at the moment: before the first step, in an evaluation, after the end.
    """
    record = record_of(path)
    if record.status != "running":
        return record, None
    for file in (path / LIVE, *sorted(path.glob(f"baselines/*/{LIVE}"))):
        try:
            return record, Snapshot.of(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # absent, or left by another version
    return record, None

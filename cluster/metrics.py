"""The run's own record of its metrics: a file of JSON lines, the source for figures and for MLflow."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.errors import CheckpointError


def recorded(path: Path) -> tuple[dict[str, int], int]:
    """The last step that each metric of a file is recorded at, and the length of its whole lines in bytes.

    Raises:
        CheckpointError: naming a line that is damaged; a last one that a crash cut short is passed over.
    """
    last: dict[str, int] = {}
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            record = json.loads(line)
            last |= dict.fromkeys(record["values"], int(record["step"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}, line {number}: expected a JSON object with 'step' and 'values', received "
                f"{line[:80].decode(errors='replace')!r}; restore the file or remove the line"
            ) from error
    return last, whole


class MetricsLog:
    """Appends metrics to ``metrics.jsonl``; each metric is recorded once per step.

    A resumed run repeats the steps after its last checkpoint and arrives at the same numbers, so what is recorded
    already is passed over. A line that a crash cut short is removed on opening.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file."""
        self._last, whole = recorded(path)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record values at a step; numbers that are not finite are recorded as null."""
        fresh: dict[str, Any] = {
            name: value if math.isfinite(value) else None
            for name, value in values.items()
            if step > self._last.get(name, -1)
        }
        if not fresh:
            return
        self._last.update(dict.fromkeys(fresh, step))
        line = json.dumps({"step": step, "time": time.time(), "values": fresh})
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    @property
    def last_step(self) -> int:
        """The last step that anything is recorded at, -1 before the first."""
        return max(self._last.values(), default=-1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

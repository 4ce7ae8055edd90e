"""The run's own record of its metrics: a file of JSON lines, the source for figures and for MLflow."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import CheckpointError
from cluster.runs.storage import room_for


def held_out_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Held-out scores as metrics: ``test/METRIC_STEPS`` and ``…_ci95`` per number of inner steps.

    So are the scores of ``eval.scores``, under their own names. Those of the parameters beside, such as a moving
    average of θ, are ``test_ema/…``.

    >>> held_out_metrics({"metric": "mse", "steps": {"5": {"mean": 0.5, "ci95": 0.1, "median": 0.4, "diverged": 0}}})
    {'test/mse_5': 0.5, 'test/mse_5_ci95': 0.1}
    """
    values = {}
    of_kinds = {f"test/{kind}": rows for kind, rows in evaluation.get("kinds", {}).items()}
    beside = {f"test_{params}": rows for params, rows in evaluation.get("beside", {}).items()}
    metric = evaluation["metric"]
    tables = {
        f"{prefix}/{metric}": rows for prefix, rows in {"test": evaluation["steps"], **of_kinds, **beside}.items()
    }
    further = {f"test/{name}": rows for name, rows in evaluation.get("scores", {}).items()}
    for table, rows in (further | tables).items():
        for number, row in rows.items():
            name = f"{table}_{number}"
            values[name] = math.nan if row["mean"] is None else row["mean"]
            if row["ci95"] is not None:
                values[f"{name}_ci95"] = row["ci95"]
    return values


def record_evaluation(folder: "Folder", evaluation: Mapping[str, Any]) -> None:
    """Record the held-out scores of a run, at the outer step that its evaluated θ is of.

    Args:
        folder: the run's folder.
        evaluation: as in ``evaluation.json``.
    """
    log = MetricsLog(folder.metrics_path)
    try:
        log.write(evaluation["checkpoint_step"], held_out_metrics(evaluation))
    finally:
        log.close()


class Folder(Protocol):
    """A folder that has a file of metrics."""

    @property
    def metrics_path(self) -> Path:
        """The file of metrics."""
        ...


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


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of metrics that may be growing, up to a line that is not whole yet.

    Args:
        path: the file; one that is not there has no records.
    """
    whole = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            whole.append(json.loads(line))
        except ValueError:
            break  # the last line, cut short by a crash or being written
    return whole


class MetricsLog:
    """Appends metrics to ``metrics.jsonl``; each metric is recorded once per step.

    A resumed run repeats the steps after its last checkpoint and arrives at the same numbers, so what is recorded
    already is passed over. A line that a crash cut short is removed on opening.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file."""
        self._path = path
        self._last, whole = recorded(path)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(whole)
        self._file.seek(whole)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record values at a step; numbers that are not finite are recorded as null.

        Args:
            step: outer steps done.
            values: numbers by the metric's name.
        """
        fresh: dict[str, Any] = {
            name: value if math.isfinite(value) else None
            for name, value in values.items()
            if step > self._last.get(name, -1)
        }
        if not fresh:
            return
        self._last.update(dict.fromkeys(fresh, step))
        line = json.dumps({"step": step, "time": time.time(), "values": fresh})
        with room_for(self._path):
            self._file.write(line.encode() + b"\n")
            self._file.flush()

    @property
    def last_step(self) -> int:
        """The last step that anything is recorded at, -1 before the first."""
        return max(self._last.values(), default=-1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

"""Records of measurements: one dated JSON file per machine and run, whole or absent."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meta.engine.files import write_whole

FOLDER = Path(__file__).parent / "records"
SCHEMA = 1


def slug(text: str) -> str:
    """A name of lower-case letters, digits and hyphens.

    >>> slug("AMD EPYC 7B13 (64 cores)")
    'amd-epyc-7b13-64-cores'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def machine(hardware: dict[str, Any]) -> str:
    """The name of a machine: its GPU, or its processor with the cores that were used.

    >>> machine({"processor": "Some CPU", "cores": 2, "gpu": None})
    'Some CPU, 2 cores'
    """
    if hardware.get("gpu"):
        return str(hardware["gpu"])
    return f"{hardware['processor']}, {hardware['cores']} core{'' if hardware['cores'] == 1 else 's'}"


def write(suites: Sequence[dict[str, Any]], folder: Path = FOLDER, now: datetime | None = None) -> Path:
    """Write the results of some suites, measured together on this machine, to a new file.

    Args:
        suites: results of :func:`benchmarks.run.run_suite`.
        folder: of the records.
        now: date and time of the record; by default the present.

    Returns:
        The new file, named by date, time and hardware.
    """
    at = (now or datetime.now(UTC)).astimezone(UTC)
    name = f"{at:%Y-%m-%dT%H%M%SZ}-{slug(machine(suites[0]['hardware']))}.json"
    record = {"schema": SCHEMA, "date": at.isoformat(timespec="seconds"), "suites": list(suites)}
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    path = folder / name
    write_whole(path, text.encode())
    return path


def read_all(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All records, oldest first."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def newest(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The newest result of every machine and suite, each with its ``date``."""
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: str(record["date"])):
        for result in record["suites"]:
            results.setdefault(machine(result["hardware"]), {})[result["suite"]] = {**result, "date": record["date"]}
    return results

"""Differences between the configurations of several runs, and their scores side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.config.schema import read_yaml
from cluster.errors import ConfigError
from cluster.history.record import Record
from cluster.runs.folder import read_json
from cluster.tracking import flatten

IGNORED = ("checkpoint.root",)  # where a run lies is no difference of the run


@dataclass(frozen=True)
class Compared:
    """Several runs side by side.

    Attributes:
        records: the runs.
        differences: values of the keys at which they differ, one for each run; None where a run has no such key.
        evaluations: of each run, None where it has none yet.
    """

    records: Sequence[Record]
    differences: Mapping[str, Sequence[str | None]]
    evaluations: Sequence[Mapping[str, Any] | None]

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray runs compare --json`` prints."""
        return {
            "runs": [record.as_json() for record in self.records],
            "differences": {key: list(values) for key, values in self.differences.items()},
            "evaluations": list(self.evaluations),
        }


def compared(records: Sequence[Record]) -> Compared:
    """Put runs side by side.

    Args:
        records: two or more, all of runs.

    Raises:
        ConfigError: for fewer than two, and for a search, a comparison or a damaged run.
    """
    if len(records) < 2:
        raise ConfigError(f"expected two runs or more, received {len(records)}")
    for record in records:
        if record.kind != "run" or record.status == "damaged":
            noun = record.kind if record.error is None else f"damaged {record.kind} ({record.error})"
            raise ConfigError(f"expected runs, received the {noun} '{record.path}'")
    flat = [flatten(read_yaml(record.path / "config.yaml")) for record in records]
    keys = dict.fromkeys(key for one in flat for key in one if key not in IGNORED)
    values = {key: [one.get(key) for one in flat] for key in keys}
    differences = {key: row for key, row in values.items() if len(set(row)) > 1}
    paths = [record.path / "evaluation.json" for record in records]
    return Compared(records, differences, [read_json(path) if path.is_file() else None for path in paths])

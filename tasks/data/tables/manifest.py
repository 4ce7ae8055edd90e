"""The description of a store of tables, and of a store of any kind."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from tasks.data.errors import DataError
from tasks.data.manifest import Manifest, StoredFile, read_plain, read_splits
from tasks.family import SPLITS, Split

TABLE = "table"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a store of tables, described by the training groups' rows alone.

    Attributes:
        name: its name in the table.
        kind: ``number``, stored as it is; ``category``, stored as a number into ``categories``, -1 for a category
            that the training groups do not have. NaN stands for a missing value.
        mean: mean of the numbers.
        deviation: their standard deviation; 1 where all are equal.
        missing: training rows without a value.
        categories: the training groups' categories, sorted.
    """

    name: str
    kind: Literal["number", "category"]
    mean: float = 0.0
    deviation: float = 1.0
    missing: int = 0
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableSplit(StoredFile):
    """The file of one split.

    Attributes:
        groups: number of groups.
        rows: number of rows.
        smallest: rows of the smallest group.
    """

    groups: int
    rows: int
    smallest: int


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a store of tables.

    Attributes:
        name: name of the data set.
        group: column whose values are the groups.
        time: column that orders the rows of a group; empty: the order of the files.
        inputs: the input columns.
        targets: the target columns, numbers; or one category, the label.
    """

    name: str
    group: str
    time: str
    inputs: tuple[Column, ...]
    targets: tuple[Column, ...]

    @property
    def classifies(self) -> bool:
        """Tells whether the target is a label."""
        return self.targets[0].kind == "category"

    def to_plain(self) -> dict[str, Any]:
        """Returns the columns as plain values, for JSON."""
        return {
            "name": self.name,
            "group": self.group,
            "time": self.time,
            "inputs": [asdict(one) for one in self.inputs],
            "targets": [asdict(one) for one in self.targets],
        }

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> "Columns":
        """Returns the columns of plain values; the inverse of :meth:`to_plain`, also of a manifest.

        Raises:
            ValueError: if something is missing or of another form; so do KeyError and TypeError.
        """
        texts = {key: str(plain[key]) for key in ("name", "group", "time")}
        return Columns(**texts, inputs=_columns(plain["inputs"]), targets=_columns(plain["targets"]))


@dataclass(frozen=True, kw_only=True)
class TableManifest(Columns):
    """The description of a store of tables.

    Attributes:
        schema: version of the layout.
        origin: where the data came from and how they were treated, plain values.
        splits: the files by split.
    """

    schema: int
    origin: Mapping[str, Any]
    splits: Mapping[Split, TableSplit]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the columns and the splits' checksums: equal for stores of the same rows in the same order."""
        columns = [self.group, self.time, [asdict(one) for one in self.inputs], [asdict(one) for one in self.targets]]
        lines = [json.dumps(columns), *(f"{split} {self.splits[split].sha256}" for split in SPLITS)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def with_files(self, names: Mapping[Split, str]) -> Self:
        """Returns the manifest of an equal store whose files have other names.

        Args:
            names: of the files by split.
        """
        splits = {split: replace(info, file=names[split]) for split, info in self.splits.items()}
        return replace(self, splits=splits)

    def to_json(self) -> str:
        """Returns the contents of ``manifest.json``."""
        plain = {
            "schema": self.schema,
            "kind": TABLE,
            **self.to_plain(),
            "origin": dict(self.origin),
            "splits": {split: vars(info) for split, info in self.splits.items()},
        }
        return json.dumps(plain, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "TableManifest":
        """Returns the manifest of a text; the inverse of :meth:`to_json`.

        Args:
            text: contents of a ``manifest.json``.
            where: name of the file, for the message.

        Raises:
            DataError: if it is not a manifest, or of another schema version.
        """
        plain = read_plain(text, where)
        try:
            return cls(
                schema=plain["schema"],
                **vars(Columns.of_plain(plain)),
                origin=dict(plain["origin"]),
                splits=read_splits(plain, TableSplit),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{where}: expected a store's manifest, received a damaged one ({error!r})") from error


AnyManifest = Manifest | TableManifest


def any_manifest(text: str, where: str) -> AnyManifest:
    """Returns the manifest of a store of any kind.

    Args:
        text: contents of a ``manifest.json``.
        where: name of the file, for the message.

    Raises:
        DataError: if it is not a manifest, or of another schema version.
    """
    cls = TableManifest if read_plain(text, where).get("kind") == TABLE else Manifest
    return cls.from_json(text, where)


def _columns(plain: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    columns = tuple(Column(**{**one, "categories": tuple(one["categories"])}) for one in plain)
    if not columns:
        raise ValueError("no columns")
    return columns

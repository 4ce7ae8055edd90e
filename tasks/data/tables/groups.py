"""The groups of a table: which there are, how many rows each has, and to which split it belongs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.data.errors import DataError
from tasks.data.left_out import LeftOut
from tasks.data.names import class_name, spelling_warnings
from tasks.data.splits import split_classes
from tasks.data.tables.convert import texts
from tasks.data.tables.read import Batch, TableFile
from tasks.data.tables.request import Roles, TableSource, nearest
from tasks.family import SPLITS, Split

Ids = NDArray[np.int64]
NO_GROUP = "no group"
NO_SPLIT = "in no list"


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of a table, numbered split by split and by name within a split.

    Attributes:
        names: names by number.
        rows: rows in the files by number, int64 [G].
        bounds: numbers of each split's groups.
        ids: number by the name as it is written in the files, -1 for groups that no list names.
        warnings: sentences about spellings.
    """

    names: tuple[str, ...]
    rows: Ids
    bounds: Mapping[Split, range]
    ids: Mapping[str | None, int]
    warnings: tuple[str, ...]

    def of(self, batch: Batch, column: str) -> Ids:
        """Returns the number of each row's group, int64 [n], -1 for rows that are in none.

        Args:
            batch: the rows.
            column: the column of the groups.
        """
        positions, distinct = texts(batch, column)
        return np.array([self.ids.get(written, -1) for written in distinct], dtype=np.int64)[positions]


class _Census:
    """Counts rows by group as the files write it, and notes each group's split where a column tells it."""

    def __init__(self, roles: Roles, keep_going: bool, left_out: LeftOut) -> None:
        self._roles, self._keep_going, self._left_out = roles, keep_going, left_out
        self.rows: dict[str, int] = {}
        self.splits: dict[str, Split] = {}

    def add(self, batch: Batch) -> None:
        """Counts the rows of a batch."""
        positions, distinct = texts(batch, self._roles.group)
        counts = np.bincount(positions, minlength=len(distinct)).tolist()
        for written, count in zip(distinct, counts, strict=True):
            if written is not None:
                self.rows[written] = self.rows.get(written, 0) + count
            elif count:
                self._without_group(batch, int((positions == distinct.index(None)).argmax()), count)
        if self._roles.split is not None:
            self._note_splits(batch, positions, distinct)

    def _without_group(self, batch: Batch, position: int, count: int) -> None:
        where = f"{batch.row(position)}, column '{self._roles.group}'"
        if not self._keep_going:
            raise DataError(
                f"{where}: expected a group in every row, received none; add it, or leave such rows out with "
                "--missing drop"
            )
        self._left_out.add(NO_GROUP, where, count)

    def _note_splits(self, batch: Batch, positions: Ids, distinct: Sequence[str | None]) -> None:
        assert self._roles.split is not None
        split_positions, split_values = texts(batch, self._roles.split)
        pairs, firsts = np.unique(positions * len(split_values) + split_positions, return_index=True)
        for pair, first in zip(pairs.tolist(), firsts.tolist(), strict=True):
            written, value = distinct[pair // len(split_values)], split_values[pair % len(split_values)]
            if written is None:
                continue
            where = f"{batch.row(first)}, column '{self._roles.split}'"
            split = _split_of(value, where)
            if self.splits.setdefault(written, split) != split:
                raise DataError(
                    f"{where}: expected one split for all rows of a group, received '{split}' for group '{written}', "
                    f"whose rows before are in '{self.splits[written]}'; give every group to one split"
                )


def _split_of(value: str | None, where: str) -> Split:
    for split in SPLITS:
        if value == split:
            return split
    raise DataError(
        f"{where}: expected {', '.join(SPLITS)}, received {value!r}{nearest(value or '', SPLITS)}; rename it"
    )


def find_groups(files: Iterable[TableFile], table: TableSource, left_out: LeftOut) -> Groups:
    """Reads the files once, the columns of groups and splits alone, and assigns every group to a split.

    Args:
        files: the table's files.
        table: says what the columns are for, and how to split.
        left_out: counts rows without a group, and groups on no list.

    Raises:
        DataError: if a row has no group, a group is in two splits, or a split has no groups.
    """
    roles = table.roles
    census = _Census(roles, table.missing != "refuse", left_out)
    columns = [roles.group] if roles.split is None else [roles.group, roles.split]
    for file in files:
        for batch in file.batches(columns):
            census.add(batch)
    if not census.rows:
        raise DataError(f"{table.source}: expected rows with a group, received none; check --group '{roles.group}'")
    names: dict[str, list[str]] = {}
    for written in census.rows:
        names.setdefault(class_name(written, f"{table.source}, column '{roles.group}'"), []).append(written)
    if roles.split is None:
        parts = split_classes(names, table.ratio, table.lists, table.seed)
    else:
        parts = _by_column(names, census.splits)
    _require_groups(parts, len(names))
    for name in sorted(names.keys() - {name for part in parts.values() for name in part}):
        left_out.add(NO_SPLIT, name)
    return _numbered(names, parts, census.rows)


def _by_column(names: Mapping[str, Sequence[str]], splits: Mapping[str, Split]) -> dict[Split, list[str]]:
    parts: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for name, spellings in names.items():
        several = {splits[written] for written in spellings}
        if len(several) > 1:
            raise DataError(f"expected one split for group '{name}', received {', '.join(sorted(several))}")
        parts[several.pop()].append(name)
    return {split: sorted(part) for split, part in parts.items()}


def _require_groups(parts: Mapping[Split, Sequence[str]], total: int) -> None:
    if not all(parts[split] for split in SPLITS):
        received = ", ".join(f"{split} {len(parts[split])}" for split in SPLITS)
        raise DataError(
            f"expected groups in every split, received {received} of {total:,} groups; a group is one task: name "
            "another --group, or split otherwise (--ratio, --split-column, --lists)"
        )


def _numbered(
    spellings: Mapping[str, Sequence[str]], parts: Mapping[Split, Sequence[str]], rows: Mapping[str, int]
) -> Groups:
    names: list[str] = []
    bounds: dict[Split, range] = {}
    for split in SPLITS:
        bounds[split] = range(len(names), len(names) + len(parts[split]))
        names += parts[split]
    ids: dict[str | None, int] = {written: number for number, name in enumerate(names) for written in spellings[name]}
    counts = [sum(rows[written] for written in spellings[name]) for name in names]
    return Groups(
        names=tuple(names),
        rows=np.array(counts, dtype=np.int64),
        bounds=bounds,
        ids=ids,
        warnings=tuple(spelling_warnings(spellings)),
    )

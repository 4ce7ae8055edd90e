"""Sorting of records by group on the disk: into buckets of consecutive groups, then one bucket at a time in memory."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tasks.data.limits import Limits
from tasks.data.tables.convert import Numbers
from tasks.data.tables.groups import Groups
from tasks.family import SPLITS, Split

SMALLEST = 32 << 20  # bytes of a bucket, unless that made too many
MOST = 256  # buckets, each of them an open file
BYTES = 8  # of a number


@dataclass(frozen=True)
class Bucket:
    """Consecutive groups of a split.

    Attributes:
        split: the split.
        groups: their numbers.
        rows: rows that they have in the files.
    """

    split: Split
    groups: range
    rows: int


def plan(groups: Groups, width: int) -> list[Bucket]:
    """Returns buckets of about equal size that hold every group, in the order of the groups.

    Args:
        groups: of the table.
        width: numbers of a record.
    """
    total = int(groups.rows.sum()) * width * BYTES
    most_rows = max(SMALLEST, total // MOST) // (width * BYTES)
    buckets = []
    for split in SPLITS:
        first, rows = groups.bounds[split].start, 0
        for group in groups.bounds[split]:
            count = int(groups.rows[group])
            if rows and rows + count > most_rows:
                buckets.append(Bucket(split, range(first, group), rows))
                first, rows = group, 0
            rows += count
        buckets.append(Bucket(split, range(first, groups.bounds[split].stop), rows))
    return buckets


class Sorter:
    """Takes records in any order within a ``with`` block, and returns them bucket by bucket afterwards."""

    def __init__(self, folder: Path, buckets: Sequence[Bucket], width: int, limits: Limits) -> None:
        """Opens a file for each bucket.

        Args:
            folder: a folder for the files.
            buckets: as :func:`plan` returns them.
            width: numbers of a record; the first is its group, the second its time.
            limits: bounds what one bucket takes in memory.
        """
        self._buckets, self._width, self._limits = buckets, width, limits
        self._starts = np.array([bucket.groups.start for bucket in buckets])
        self._paths = [folder / f"bucket-{number}" for number in range(len(buckets))]
        self._files: list[Any] = []

    def __enter__(self) -> Self:
        """Begins to take records."""
        with ExitStack() as stack:
            self._files = [stack.enter_context(path.open("wb")) for path in self._paths]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Closes the files."""
        self._stack.close()

    def add(self, records: Numbers) -> None:
        """Takes records, float64 [n, width]."""
        if not len(records):
            return
        numbers = np.searchsorted(self._starts, records[:, 0], side="right") - 1
        order = np.argsort(numbers, kind="stable")
        bounds = np.flatnonzero(np.diff(numbers[order])) + 1
        for part in np.split(order, bounds):
            self._files[int(numbers[part[0]])].write(records[part].tobytes())

    def pieces(self, number: int, rows: int, *, by_time: bool) -> Iterator[Numbers]:
        """Yields the records of a bucket, sorted by group, in their order or by time within a group.

        A bucket is sorted in memory. One that is a single group whose rows stay in their order is read piece by piece.

        Args:
            number: of the bucket.
            rows: records of a piece.
            by_time: sort by time within a group.

        Raises:
            DataError: if a series takes more memory than the limits allow.
        """
        path, row_bytes = self._paths[number], self._width * BYTES
        if len(self._buckets[number].groups) == 1 and not by_time:
            with path.open("rb") as file:
                while block := file.read(rows * row_bytes):
                    yield np.frombuffer(block).reshape(-1, self._width)
            return
        size = path.stat().st_size
        if size > SMALLEST:
            self._limits.check_memory(f"the largest group, sorted by time ({self._width} numbers a row)", 3 * size)
        records = np.fromfile(path).reshape(-1, self._width)
        path.unlink()
        keys = (records[:, 1], records[:, 0]) if by_time else (records[:, 0],)
        yield records[np.lexsort(keys)]

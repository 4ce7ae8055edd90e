"""The Arrow store of tables: rows of numbers by group and split in files that any number of workers map into memory.

A store is a folder:

``manifest.json``
    Schema version, kind ``table``, the columns with what the training groups say of them, origin, and for each split
    its file, groups, rows and SHA-256.
``train.arrow``, ``val.arrow``, ``test.arrow``
    Arrow IPC files, uncompressed. The one column ``values`` holds rows of C numbers (float64), inputs then targets; the
    rows of a group are consecutive. Names and numbers of rows of the groups stand in the schema's metadata.

Drawing a task reads and copies its own rows; the workers of a node share the pages through the page cache.
"""

import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.data.errors import DataError
from tasks.data.store import FolderStore
from tasks.data.tables.convert import Numbers
from tasks.data.tables.manifest import TableManifest
from tasks.family import Split


@dataclass(frozen=True)
class _Opened:
    """A split's file, mapped: groups, the first row of each, and the rows in parts."""

    names: tuple[str, ...]
    rows: NDArray[np.int64]
    firsts: NDArray[np.int64]
    parts: list[Numbers]
    part_firsts: NDArray[np.int64]


class TableStore(FolderStore):
    """A store of tables on this machine's disk, open for reading."""

    manifest: TableManifest

    def __init__(self, root: Path) -> None:
        """Reads the manifest; a split's file is mapped when it is first used.

        Raises:
            DataError: if there is no store, it is damaged, or of another kind or schema version.
        """
        super().__init__(root, "a table")
        if not isinstance(self.manifest, TableManifest):
            raise DataError(
                f"expected a table store at '{root}', received one of images; name a store made by `metaray data "
                "prepare table`, or set task.family to images"
            )
        self._splits: dict[Split, _Opened] = {}

    def names(self, split: Split) -> tuple[str, ...]:
        """Returns the names of the groups of a split, by number."""
        return self._opened(split).names

    def rows(self, split: Split) -> NDArray[np.int64]:
        """Returns the number of rows of each group of a split, int64 [G]."""
        return self._opened(split).rows

    def values(self, split: Split, group: int, rows: NDArray[np.int64]) -> Numbers:
        """Returns a copy of some rows of a group, float64 [n, C], NaN where there is no value.

        Args:
            split: the split.
            group: number of the group within the split.
            rows: positions of the rows within the group, int64 [n].
        """
        opened = self._opened(split)
        places = opened.firsts[group] + rows
        parts = np.searchsorted(opened.part_firsts, places, side="right") - 1
        inside = places - opened.part_firsts[parts]
        columns = len(self.manifest.inputs) + len(self.manifest.targets)
        values = np.empty((len(rows), columns))
        for part in np.unique(parts).tolist():
            chosen = parts == part
            values[chosen] = opened.parts[part][inside[chosen]]
        return values

    def _opened(self, split: Split) -> _Opened:
        if split not in self._splits:
            self._splits[split] = self._open(split)
        return self._splits[split]

    def _open(self, split: Split) -> _Opened:
        path = self._file(split)
        columns = len(self.manifest.inputs) + len(self.manifest.targets)
        try:
            reader = pa.ipc.open_file(pa.py_buffer(_mapped(path)))
            names = tuple(json.loads(reader.schema.metadata[b"groups"]))
            rows = np.array(json.loads(reader.schema.metadata[b"rows"]), dtype=np.int64)
            batches = [reader.get_batch(number).column("values") for number in range(reader.num_record_batches)]
            parts = [_view(batch, columns) for batch in batches]
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: expected an Arrow file of rows, received a damaged one ({error})") from error
        sizes = [len(part) for part in parts]
        if len(names) != len(rows) or sum(sizes) != rows.sum():
            raise DataError(f"{path}: expected the rows of its groups, received others; prepare the data again")
        firsts = np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(np.int64)
        part_firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        return _Opened(names, rows, firsts, parts, part_firsts)


def _mapped(path: Path) -> mmap.mmap:
    """A file mapped into memory, of which the system reads the pages that are asked for, none ahead."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def _view(column: Any, columns: int) -> Numbers:
    """A column of lists as an array [n, C], without a copy; it keeps the mapped file open."""
    if column.type.list_size != columns:
        raise ValueError(f"rows of {column.type.list_size} values where the manifest has {columns} columns")
    values: Numbers = column.flatten().to_numpy(zero_copy_only=True)
    return values.reshape(-1, columns)

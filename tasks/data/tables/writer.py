"""Writing a store of tables (see :mod:`tasks.data.tables.store`) so that it is whole or absent."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.data.manifest import SCHEMA
from tasks.data.tables.convert import Numbers
from tasks.data.tables.manifest import Columns, TableManifest, TableSplit
from tasks.data.writer import FolderWriter
from tasks.family import Split

ROWS = 1 << 16  # rows of a record batch


class TableWriter(FolderWriter):
    """Writes a store of tables. :meth:`begin` starts a split, :meth:`add` appends the rows of its groups in turn.

    Attributes:
        columns: descriptions of the columns, to be set before the end of the block.
        origin: where the data came from, plain values, likewise.
        manifest: of the published store.
    """

    columns: Columns
    origin: Mapping[str, Any]
    manifest: TableManifest

    def __init__(self, root: Path, *, replace: bool = False) -> None:
        """Checks the place; nothing is written yet.

        Args:
            root: the store's folder.
            replace: whether a store at ``root`` may be overwritten.

        Raises:
            DataError: if ``root`` exists and ``replace`` is False, or is not a store.
        """
        super().__init__(root, replace=replace)
        self._splits: dict[Split, TableSplit] = {}

    @property
    def scratch(self) -> Path:
        """A folder on the store's disk that is removed when the block ends."""
        return self._scratch

    def begin(self, split: Split, names: Sequence[str], rows: Sequence[int], columns: int) -> None:
        """Starts a split's file.

        Args:
            split: the split.
            names: its groups, in the order in which their rows will be added.
            rows: rows of each group.
            columns: number of values of a row C.
        """
        values = pa.list_(pa.field("item", pa.float64(), nullable=False), columns)
        metadata = {"groups": json.dumps(list(names)), "rows": json.dumps(list(rows))}
        schema = pa.schema([pa.field("values", values, nullable=False)]).with_metadata(metadata)
        self._batches = self._open(split, schema)
        self._schema, self._split, self._rows = schema, split, list(rows)

    def add(self, values: Numbers) -> None:
        """Appends rows of the current split, float64 [n, C]."""
        for start in range(0, len(values), ROWS):
            part = np.ascontiguousarray(values[start : start + ROWS])
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), type=self._schema.field(0).type)
            self._batches.write_batch(pa.record_batch([column], schema=self._schema))

    def end(self) -> None:
        """Completes the current split and flushes its file to the disk."""
        self._splits[self._split] = TableSplit(
            **self._seal(), groups=len(self._rows), rows=sum(self._rows), smallest=min(self._rows, default=0)
        )

    def _describe(self) -> str:
        self.manifest = TableManifest(schema=SCHEMA, origin=self.origin, splits=self._splits, **vars(self.columns))
        return self.manifest.to_json()

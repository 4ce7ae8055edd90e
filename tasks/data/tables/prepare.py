"""Preparation of a store of tables: three passes over the data, with the memory of one bucket of rows.

The first pass reads the groups and assigns them to the splits, the second turns rows into numbers and writes them into
buckets of consecutive groups, the third sorts bucket after bucket. Equal rows give equal stores, whatever the files.
"""

from pathlib import Path
from typing import Any

from tasks.data.decoder import Progress
from tasks.data.errors import DataError
from tasks.data.left_out import LeftOut
from tasks.data.limits import GIB, Limits, in_words
from tasks.data.prepare import replaced, written
from tasks.data.splits import described
from tasks.data.tables.buckets import BYTES, Sorter, plan
from tasks.data.tables.final import Final
from tasks.data.tables.groups import find_groups
from tasks.data.tables.manifest import Columns, TableManifest
from tasks.data.tables.read import TableFile, table_files
from tasks.data.tables.request import TableSource
from tasks.data.tables.rows import RECORD, RowReader
from tasks.data.tables.writer import ROWS, TableWriter
from tasks.family import SPLITS, Split


def prepare_table(
    table: TableSource,
    root: str,
    *,
    replace: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
    shown: tuple[str, str] | None = None,
) -> TableManifest:
    """Writes a store of tables that is whole or absent; its size is bounded by the disk, not by the memory.

    Args:
        table: the data, and what their columns are for.
        root: folder or URI of the store.
        replace: write over a store that is there already.
        limits: bounds on what is unpacked, on the store's size, and on the memory of one series.
        progress: called with the rows done so far and their total.
        shown: a text in the names of files, and what the manifest shows instead of it.

    Raises:
        DataError: if the data, the columns or the place cannot be used.
    """

    def make(folder: Path) -> TableManifest:
        preparation = _Preparation(table, limits or Limits(), progress)
        with TableWriter(folder, replace=replace) as writer:
            preparation.write(writer)
            writer.origin = replaced(preparation.origin(), shown)
        return writer.manifest

    return written(root, make, replace=replace)


class _Preparation:
    """The three passes over one table."""

    def __init__(self, table: TableSource, limits: Limits, progress: Progress | None) -> None:
        """The first pass: files, columns and groups.

        Raises:
            DataError: if they cannot be used.
        """
        self._table, self._roles, self._limits, self._progress = table, table.roles, limits, progress
        self._left_out = LeftOut()
        paths = table_files(table.source, limits, self._left_out)
        self._files = [TableFile(path, limits) for path in paths]
        for file in self._files:
            self._roles.require_in(file.names, str(file.path))
        self._groups = find_groups(self._files, table, self._left_out)
        self._width = RECORD + len(self._roles.values)
        size = int(self._groups.rows.sum()) * self._width * BYTES
        if size > limits.size * GIB:
            raise DataError(
                f"{table.source}: expected a store of at most {limits.size:g} GiB, the rows would take "
                f"{in_words(size)}; name fewer --inputs, or raise --max-size"
            )

    def write(self, writer: TableWriter) -> None:
        """The second and the third pass."""
        buckets = plan(self._groups, self._width)
        with Sorter(writer.scratch, buckets, self._width, self._limits) as sorter:
            reader = self._read_into(sorter)
        unknown_labels = reader.leave_unknown_labels_out()
        if unknown_labels:
            reason = "held-out rows with a label that no training group has"
            self._left_out.add(reason, f"column '{self._roles.labels}'", unknown_labels)
        self._final = Final(self._roles, self._groups, reader)
        for split in SPLITS:
            kept = self._kept(split, reader)
            names, rows = [self._groups.names[one] for one in kept], reader.kept[kept].tolist()
            writer.begin(split, names, rows, len(self._roles.values))
            for number, bucket in enumerate(buckets):
                if bucket.split == split:
                    for records in sorter.pieces(number, ROWS, by_time=self._roles.time is not None):
                        writer.add(self._final.values(records))
            writer.end()
        inputs, targets = self._final.columns()
        writer.columns = Columns(
            name=self._table.source.name,
            group=self._roles.group,
            time=self._roles.time or "",
            inputs=inputs,
            targets=targets,
        )

    def origin(self) -> dict[str, Any]:
        """Returns where the data came from and what happened to them, when everything is written."""
        table = self._table
        by_column = f"column {table.split_column}"
        return {
            "source": str(table.source),
            "files": len(self._files),
            "split": by_column if table.split_column else described(table.ratio, table.lists, table.seed),
            "missing": table.missing,
            "unknown_categories": self._final.unknown,
            "left_out": self._left_out.as_plain(),
            "duplicates": self._final.duplicates,
            "warnings": [*self._groups.warnings, *self._final.warnings()],
        }

    def _read_into(self, sorter: Sorter) -> RowReader:
        reader = RowReader(self._roles, self._groups, self._table.missing, self._left_out)
        done, total = 0, int(self._groups.rows.sum())
        if self._progress is not None:
            self._progress(done, total)
        for file in self._files:
            for batch in file.batches(self._roles.read):
                sorter.add(reader.records(batch))
                done += len(batch.columns[self._roles.group])
                if self._progress is not None:
                    self._progress(min(done, total), total)
        return reader

    def _kept(self, split: Split, reader: RowReader) -> list[int]:
        """Numbers of the split's groups that have rows."""
        bounds = self._groups.bounds[split]
        for number in bounds:
            if not reader.kept[number]:
                self._left_out.add("groups without a row that can be used", self._groups.names[number])
        kept = [number for number in bounds if reader.kept[number]]
        if not kept:
            raise DataError(
                f"expected rows that can be used in the {split} split, received none in its {len(bounds):,} groups; "
                "use --missing impute, name other columns, or split otherwise"
            )
        return kept

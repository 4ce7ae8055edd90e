"""Reading the rows of CSV and Parquet files, a batch at a time."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tasks.data.errors import DataError
from tasks.data.left_out import LeftOut
from tasks.data.limits import Limits

CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.bz2", ".csv.zst")
PARQUET = (".parquet", ".pq")
DELIMITERS = ",;\t|"
ROWS = 1 << 16  # rows of a batch of Parquet
BLOCK = 4 << 20  # bytes of a batch of CSV
HEAD = 1 << 20  # bytes in which the names of a CSV file's columns must stand


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a file.

    Attributes:
        path: the file.
        first: number of the first row, from 1, the header not counted.
        columns: arrays by name, of any Arrow type; all text where the file is CSV.
    """

    path: Path
    first: int
    columns: dict[str, Any]

    def row(self, position: int) -> str:
        """Returns the place of a row, for messages.

        Args:
            position: number of the row within the batch.
        """
        return f"{self.path}, row {self.first + position}"


def table_files(source: Path, limits: Limits, left_out: LeftOut) -> list[Path]:
    """Returns the table files of a source, sorted by path.

    Args:
        source: a CSV or Parquet file, or a folder with such files in it or in folders below it.
        limits: bounds the number of files.
        left_out: counts the other files.

    Raises:
        DataError: if there is none, or CSV and Parquet files are mixed.
    """
    if not source.exists():
        raise DataError(f"expected --source: a CSV or Parquet file, or a folder of them, found nothing at '{source}'")
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    limits.check_files(str(source), len(files))
    tables = []
    for path in files:
        if path.name.lower().endswith((*CSV, *PARQUET)) and not path.name.startswith((".", "_")):
            tables.append(path)
        else:
            left_out.add("no CSV or Parquet file by its ending", str(path))
    if not tables:
        endings = ", ".join((*CSV, *PARQUET))
        raise DataError(f"expected files that end in {endings}, found none at '{source}'; rename them, or convert them")
    return tables


class TableFile:
    """One CSV or Parquet file. Its rows are read in their order, a batch at a time."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """Reads the names of the columns.

        Args:
            path: the file.
            limits: bounds what a compressed file may grow to.

        Raises:
            DataError: if it is not such a file.
        """
        self.path, self._limits = path, limits
        self._is_parquet = path.name.lower().endswith(PARQUET)
        if self._is_parquet:
            with self._errors_named(), pa.parquet.ParquetFile(path) as file:
                self.names: list[str] = list(file.schema_arrow.names)
        else:
            self._delimiter, self.names = self._head()

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yields the rows of some columns, batch after batch.

        Args:
            columns: names of columns that the file has.

        Raises:
            DataError: if the file is damaged.
        """
        first, packed, unpacked = 1, self.path.stat().st_size, 0
        with self._errors_named():
            for batch in self._parquet(columns) if self._is_parquet else self._csv(columns):
                unpacked += batch.nbytes
                self._limits.check_unpacked(str(self.path), unpacked, packed)
                arrays = {name: batch.column(position) for position, name in enumerate(columns)}
                yield Batch(self.path, first, arrays)
                first += batch.num_rows

    def _parquet(self, columns: Sequence[str]) -> Iterator[Any]:
        with pa.parquet.ParquetFile(self.path, buffer_size=BLOCK, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=ROWS, columns=list(columns)):
                yield batch.select(list(columns))

    def _csv(self, columns: Sequence[str]) -> Iterator[Any]:
        """Everything is read as text: the rows keep their numbers, and what is no number can be shown."""
        text = dict.fromkeys(columns, pa.string())
        with pa.csv.open_csv(
            self.path,
            read_options=pa.csv.ReadOptions(block_size=BLOCK),
            parse_options=pa.csv.ParseOptions(delimiter=self._delimiter),
            convert_options=pa.csv.ConvertOptions(include_columns=list(columns), column_types=text),
        ) as reader:
            yield from reader

    def _head(self) -> tuple[str, list[str]]:
        """Returns the delimiter, that of :data:`DELIMITERS` which the header has most of, and the header's names."""
        with self._errors_named(), pa.input_stream(str(self.path)) as stream:
            head = stream.read(HEAD)
        try:
            lines = head.decode("utf-8-sig", errors="strict" if len(head) < HEAD else "ignore").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}: expected text in UTF-8, received other bytes ({error}); convert it"
            ) from error
        if not lines or not lines[0].strip():
            raise DataError(f"{self.path}: expected a header, the names of the columns, received an empty line or file")
        delimiter = max(DELIMITERS, key=lines[0].count)
        return delimiter, next(csv.reader([lines[0]], delimiter=delimiter))

    def _errors_named(self) -> "_Named":
        return _Named(self.path)


class _Named:
    """Turns Arrow's errors into ones that name the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raises the error anew with the file's name."""
        if isinstance(error, pa.ArrowException):
            raise DataError(f"{self._path}: expected a whole CSV or Parquet file, received: {error}") from error

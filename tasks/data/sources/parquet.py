"""Image tables in Parquet files, as the Hugging Face hub keeps them."""

import dataclasses
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.data.checksums import verify
from tasks.data.errors import DataError
from tasks.data.left_out import LeftOut
from tasks.data.limits import Limits, Meter
from tasks.data.names import spelling_warnings
from tasks.data.sources.base import LazyImages, RawClass, RawData, RawImage
from tasks.data.sources.parquet_labels import Naming, Shard, shard_of
from tasks.data.sources.parquet_pages import unpacked_size
from tasks.data.spill import Spill
from tasks.data.splits import described, split_classes
from tasks.data.walk import Walk
from tasks.family import SPLITS

SUFFIXES = (".parquet", ".parq", ".pq")
BATCH = 256  # rows read at a time, at most: a file may hold one value once, and repeat it in all rows
IN_MEMORY = 256 << 20  # bytes that these may take, if each were as large as its column of a row group
BUFFER = 1 << 20  # bytes of a column read at a time


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The images of several files by class; see :class:`RawData`.

    Attributes:
        images: by class name, in the order of the rows.
        left_out: what is no part of the data set.
        warnings: what the user should know of it.
        raw_bytes: size of the files.
    """

    images: Mapping[str, Sequence[RawImage]]
    left_out: LeftOut
    warnings: Sequence[str]
    raw_bytes: int


def raw_data(
    source: Path,
    *,
    size: int = 84,
    grey: bool = False,
    ratio: str | None = None,
    lists: Path | None = None,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    limits: Limits | None = None,
) -> RawData:
    """Returns the data set of any table of images with a label column, all rows taken together and split by class.

    The files are read once, from beginning to end; encoded images wait on the disk until their class is due.

    Args:
        source: a file, a folder of Parquet files or a pattern such as ``data/train-*.parquet``.
        size: height and width of the store's images.
        grey: one channel instead of three.
        ratio: shares of the classes for train, val and test, by default ``0.64,0.16,0.2``.
        lists: a folder with class lists instead, see :func:`tasks.data.splits.by_lists`.
        seed: of the split by ratio.
        image_column: the column of images, by default the only one that looks like it.
        label_column: the column of labels, by default one of the usual name.
        limits: bounds on rows and on what comes out of each file.

    Raises:
        DataError: if there is no table, a column is ambiguous or unusable, the files name the classes differently, or
            there is more in one than the limits allow.
    """
    tables = images_by_class(source, image_column, label_column, limits)
    images = tables.images
    parts = split_classes(images.keys(), ratio, lists, seed)
    for name in images.keys() - {name for names in parts.values() for name in names}:
        tables.left_out.add("a class on no list", name)
    return RawData(
        name=source.stem.partition("*")[0].rstrip("-_") or "parquet",
        image_shape=(size, size, 1 if grey else 3),
        classes={split: [RawClass(name=name, images=images[name]) for name in parts[split]] for split in SPLITS},
        origin={"source": "parquet", "split": described(ratio, lists, seed)},
        left_out=tables.left_out,
        warnings=tables.warnings,
        raw_bytes=tables.raw_bytes,
    )


def files_of(source: Path, walk: Walk | None = None) -> list[Path]:
    """Returns the Parquet files of a path or pattern.

    Args:
        source: a file, a folder or a pattern such as ``data/train-*.parquet``.
        walk: counts the other files of a folder.

    Raises:
        DataError: if there are none, or the pattern cannot be read.
    """
    if source.is_file():
        return [source]
    if source.is_dir():
        walk = walk or Walk(SUFFIXES, Limits())
        paths = [Path(path) for inside in walk.files_below(str(source)).values() for path in inside]
    else:
        root = Path(source.anchor or ".")
        try:
            paths = sorted(path for path in root.glob(str(source.relative_to(source.anchor))) if path.is_file())
        except ValueError as error:
            raise DataError(f"expected a pattern of Parquet files, received '{source}': {error}") from error
    if not paths:
        raise DataError(f"expected Parquet files at '{source}', found none")
    return paths


@dataclass
class _Rows:
    """The rows of one class: 28 bytes each."""

    starts: "array[int]" = field(default_factory=lambda: array("q"))
    ends: "array[int]" = field(default_factory=lambda: array("q"))
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    files: "array[int]" = field(default_factory=lambda: array("i"))

    def add(self, key: slice, row: int, file: int) -> None:
        self.starts.append(key.start)
        self.ends.append(key.stop)
        self.rows.append(row)
        self.files.append(file)

    def images(self, spill: Spill, paths: Sequence[Path]) -> Sequence[RawImage]:
        """Returns the images, read from the spill file on access."""

        def make(number: int) -> RawImage:
            where = f"{paths[self.files[number]]}, row {self.rows[number]}"
            return RawImage(where=where, data=spill.get(slice(self.starts[number], self.ends[number])))

        return LazyImages(len(self.rows), make)


def images_by_class(
    source: Path, image_column: str | None, label_column: str | None, limits: Limits | None = None
) -> Tables:
    """Returns the images of each class in the order of the rows, by the class's name.

    Args:
        source: as for :func:`raw_data`.
        image_column: as for :func:`raw_data`.
        label_column: as for :func:`raw_data`.
        limits: as for :func:`raw_data`.

    Raises:
        DataError: as :func:`raw_data`.
    """
    limits = limits or Limits()
    walk = Walk(SUFFIXES, limits)
    paths = files_of(source, walk)
    shards = [_shard(path, image_column, label_column, limits) for path in paths]
    limits.check_files(str(source), sum(shard.rows for shard in shards))
    naming = Naming(shards)
    classes: dict[str, _Rows] = {}
    with Spill() as spill:
        for number, shard in enumerate(shards):
            meter = Meter(str(shard.path), shard.path.stat().st_size, limits)
            try:
                for row, (name, key) in enumerate(_rows(shard, naming, spill, meter)):
                    classes.setdefault(name, _Rows()).add(key, row, number)
            except (pa.ArrowException, MemoryError, OSError) as error:
                raise _unreadable(shard.path, error) from error
    return Tables(
        images={name: rows.images(spill, paths) for name, rows in classes.items()},
        left_out=walk.left_out,
        warnings=[*naming.warnings, *spelling_warnings({name: sorted(naming.written[name]) for name in classes})],
        raw_bytes=sum(path.stat().st_size for path in paths),
    )


def _shard(path: Path, image_column: str | None, label_column: str | None, limits: Limits) -> Shard:
    verify(path)
    try:
        with pq.ParquetFile(path) as table:
            shard = shard_of(path, table.schema_arrow, table.metadata.num_rows, image_column, label_column)
            limits.check_files(str(path), shard.rows)
            largest = _largest(path, table.metadata, (shard.image, shard.label), limits)
            return dataclasses.replace(shard, batch=max(1, min(BATCH, IN_MEMORY // largest)))
    except DataError:
        raise
    except (pa.ArrowException, MemoryError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _largest(path: Path, metadata: Any, columns: tuple[str, str], limits: Limits) -> int:
    """Returns the unpacked bytes of the largest column of a row group that is read; checks all against the limits.

    The larger of what the footer states and what the pages' headers state counts.
    """
    size, total, largest = path.stat().st_size, 0, 1
    with path.open("rb") as stream:
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for column in map(row_group.column, range(metadata.num_columns)):
                if column.path_in_schema.split(".")[0] in columns:
                    unpacked = max(column.total_uncompressed_size, unpacked_size(stream, column))
                    total, largest = total + unpacked, max(largest, unpacked)
                    limits.check_unpacked(str(path), total, size)
    return largest


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: expected a Parquet file, cannot read it: {error}")


def _rows(shard: Shard, naming: Naming, spill: Spill, meter: Meter) -> Iterator[tuple[str, slice]]:
    """Class name and place of the encoded image of every row; a missing image is empty."""
    image, label = _leaf(shard), shard.label
    row = 0
    with pq.ParquetFile(shard.path, read_dictionary=[label] if shard.text else None, buffer_size=BUFFER) as table:
        for batch in table.iter_batches(shard.batch, columns=[image, label]):
            column = batch.column(batch.schema.get_field_index(shard.image))
            column = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
            labels = _plain(batch.column(batch.schema.get_field_index(label)))
            for value, number in zip(column, labels, strict=True):
                encoded = memoryview(value.as_buffer() or b"")
                meter.entry()
                meter.add(len(encoded))
                yield naming.name(shard, number, row), spill.put(encoded)
                row += 1


def _leaf(shard: Shard) -> str:
    """The path of the column of bytes."""
    return f"{shard.image}.bytes" if shard.struct else shard.image


def _plain(column: Any) -> list[Any]:
    """Labels as Python values, each text once however often it stands there."""
    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    values = column.dictionary.to_pylist()
    return [None if at is None else values[at] for at in column.indices.to_pylist()]

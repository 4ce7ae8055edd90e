"""Image tables in Parquet files, as the Hugging Face hub keeps them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.data.checksums import verify
from tasks.data.errors import DataError
from tasks.data.sources.base import LazyImages, RawClass, RawData, RawImage
from tasks.data.spill import Spill
from tasks.data.splits import described, split_classes
from tasks.family import SPLITS

LABELS = ("label", "fine_label", "labels", "class", "target")  # usual names, the first that is there
BATCH = 256  # rows read at a time


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
) -> RawData:
    """Any table of images with a label column, all rows taken together and split by class.

    The files are read once, from beginning to end; encoded images wait on the disk until their class is due.

    Args:
        source: a file, a folder of ``*.parquet`` or a pattern such as ``data/train-*.parquet``.
        size: height and width of the store's images.
        grey: one channel instead of three.
        ratio: shares of the classes for train, val and test, by default ``0.64,0.16,0.2``.
        lists: a folder with class lists instead, see :func:`tasks.data.splits.by_lists`.
        seed: of the split by ratio.
        image_column: the column of images, by default the only one that looks like it.
        label_column: the column of labels, by default one of the usual name.

    Raises:
        DataError: if there is no table, or a column cannot be told or used.
    """
    images = images_by_class(source, image_column, label_column)
    parts = split_classes(images.keys(), ratio, lists, seed)
    return RawData(
        name=source.stem.partition("*")[0].rstrip("-_") or "parquet",
        image_shape=(size, size, 1 if grey else 3),
        classes={split: [RawClass(name=name, images=images[name]) for name in parts[split]] for split in SPLITS},
        origin={"source": "parquet", "split": described(ratio, lists, seed)},
    )


def files_of(source: Path) -> list[Path]:
    """The Parquet files that a path or pattern stands for.

    Raises:
        DataError: if there are none, or the pattern cannot be read.
    """
    if source.is_file():
        return [source]
    if source.is_dir():
        found = sorted(source.rglob("*.parquet"))
    else:
        root = Path(source.anchor or ".")
        try:
            found = sorted(path for path in root.glob(str(source.relative_to(source.anchor))) if path.is_file())
        except ValueError as error:
            raise DataError(f"expected a pattern of Parquet files, received '{source}': {error}") from error
    if not found:
        raise DataError(f"expected Parquet files at '{source}', found none")
    return found


def _images(spill: Spill, keys: list[tuple[str, slice]]) -> Sequence[RawImage]:
    """The images of one class, put aside."""
    return LazyImages(len(keys), lambda number: RawImage(where=keys[number][0], data=spill.get(keys[number][1])))


def images_by_class(
    source: Path, image_column: str | None, label_column: str | None
) -> Mapping[str, Sequence[RawImage]]:
    """The images of each class in the order of the rows, by the class's name.

    Raises:
        DataError: as :func:`raw_data`.
    """
    found: dict[str, list[tuple[str, slice]]] = {}
    with Spill() as spill:
        for path in files_of(source):
            verify(path)
            try:
                for row, (name, image) in enumerate(_rows(path, image_column, label_column)):
                    found.setdefault(name, []).append((f"{path}, row {row}", spill.put(image)))
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path}: expected a Parquet file, cannot read it: {error}") from error
    return {name: _images(spill, keys) for name, keys in found.items()}


def _rows(path: Path, image_column: str | None, label_column: str | None) -> Iterator[tuple[str, memoryview]]:
    """Class name and encoded image of every row; a missing image is empty."""
    with pq.ParquetFile(path) as table:
        schema = table.schema_arrow
        image, label = _image_column(schema, image_column, path), _label_column(schema, label_column, path)
        names = _class_names(schema, label)
        row = 0
        for batch in table.iter_batches(BATCH, columns=[image, label]):
            column = batch.column(image)
            encoded = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
            for value, number in zip(encoded, batch.column(label).to_pylist(), strict=True):
                yield _name(number, names, f"{path}, row {row}"), memoryview(value.as_buffer() or b"")
                row += 1


def _image_column(schema: Any, asked: str | None, path: Path) -> str:
    fits = [field.name for field in schema if _holds_bytes(field.type)]
    if asked is not None:
        if asked not in fits:
            raise DataError(
                f"{path}: expected a column '{asked}' of images (a struct with 'bytes', or binary), "
                f"{_listed(schema)}; choose another --image-column"
            )
        return asked
    if len(fits) != 1:
        raise DataError(
            f"{path}: expected one column of images (a struct with 'bytes', or binary), found "
            f"{', '.join(fits) or 'none'}; {_listed(schema)}; name it by --image-column"
        )
    return str(fits[0])


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _holds_labels(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_labels(kind.value_type)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return bool(pa.types.is_integer(kind) or any(is_text(kind) for is_text in texts))


def _label_column(schema: Any, asked: str | None, path: Path) -> str:
    fits = [field.name for field in schema if _holds_labels(field.type)]
    if asked is None:
        usual = [name for name in LABELS if name in fits][:1] or fits
        if len(usual) != 1:
            raise DataError(f"{path}: expected a column 'label', {_listed(schema)}; name it by --label-column")
        return str(usual[0])
    if asked not in fits:
        raise DataError(
            f"{path}: expected a column '{asked}' of integers or strings, {_listed(schema)}; "
            "choose another --label-column"
        )
    return asked


def _listed(schema: Any) -> str:
    return "received columns " + ", ".join(f"{field.name} ({field.type})" for field in schema)


def _class_names(schema: Any, column: str) -> list[str] | None:
    """Class names as the hub's metadata gives them, if it does."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return [str(name) for name in names]


def _name(label: int | str | None, names: list[str] | None, where: str) -> str:
    if label is None:
        raise DataError(f"{where}: expected a label, received none; remove the row")
    if names is None or isinstance(label, str):
        return str(label)
    if not 0 <= label < len(names):
        raise DataError(f"{where}: expected a label from 0 to {len(names) - 1}, received {label}; remove the row")
    return names[label]

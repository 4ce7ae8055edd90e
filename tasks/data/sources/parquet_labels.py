"""Image and label columns of Parquet files, and one naming of the classes for all files."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.data.errors import DataError
from tasks.data.names import class_name

LABELS = ("label", "fine_label", "labels", "class", "target")  # usual names, the first that is there
TAKEN = "integers, whole floats, booleans or strings"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file and its columns.

    Attributes:
        path: the file.
        image: name of the image column.
        struct: whether the image column is a struct with the bytes in its field ``bytes``.
        label: name of the label column.
        rows: number of rows.
        text: whether labels are text.
        names: class names that the file states, by label; None if it states none.
        batch: rows to read at a time.
    """

    path: Path
    image: str
    struct: bool
    label: str
    rows: int
    text: bool
    names: tuple[str, ...] | None
    batch: int = 1


def shard_of(path: Path, schema: Any, rows: int, image_column: str | None, label_column: str | None) -> Shard:
    """Returns the columns and class names in a file's schema.

    Args:
        path: the file.
        schema: its Arrow schema.
        rows: its number of rows.
        image_column: name of the image column; None: the only one of a fitting type.
        label_column: name of the label column; None: one of the usual names.

    Raises:
        DataError: if a column is ambiguous or cannot be used.
    """
    image, label = _image_column(schema, image_column, path), _label_column(schema, label_column, path)
    return Shard(
        path=path,
        image=image,
        struct=pa.types.is_struct(schema.field(image).type),
        label=label,
        rows=rows,
        text=_is_text(schema.field(label).type),
        names=_class_names(schema, label),
    )


class Naming:
    """Maps labels to names of classes, the same for all shards.

    Attributes:
        warnings: what was assumed.
        written: spellings of each class in the labels.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Decides the naming by the class names that the shards state.

        Raises:
            DataError: if a label would get two names, or a class.
        """
        self.warnings: list[str] = []
        self.written: dict[str, set[str]] = {}
        self._classes: dict[str, str] = {}
        named = [shard for shard in shards if shard.names is not None and not shard.text]
        bare = [shard for shard in shards if shard.names is None and not shard.text]
        texts = [shard for shard in shards if shard.text]
        self._common = self._agreed(named)
        self._known = {class_name(name, str(shard.path)) for shard in named for name in shard.names or ()}
        if bare and texts:
            raise _two_namings(bare[0], "numbers without names", texts[0], "text")
        if bare and named:
            self._adopt(bare, named)

    def _agreed(self, named: Sequence[Shard]) -> tuple[str, ...]:
        """Returns the names of the first shard. Others may have them in another order, or some of them."""
        for shard in named[1:]:
            first, other = named[0].names or (), shard.names or ()
            if first == other:
                continue
            first_classes, other_classes = (
                {class_name(name, str(shard.path)) for name in names} for names in (first, other)
            )
            if not (first_classes <= other_classes or other_classes <= first_classes):
                raise _two_namings(named[0], _listed_names(first), shard, _listed_names(other))
            self.warnings.append(
                f"{shard.path} numbers the classes otherwise than {named[0].path}; each file's labels were read by its "
                "own names"
            )
        return (named[0].names or ()) if named else ()

    def _adopt(self, bare: Sequence[Shard], named: Sequence[Shard]) -> None:
        other = next((shard for shard in named if shard.names != self._common), None)
        if other is not None:
            raise _two_namings(named[0], _listed_names(self._common), other, _listed_names(other.names or ()))
        names = ", ".join(str(shard.path) for shard in bare[:3]) + (" …" if len(bare) > 3 else "")
        self.warnings.append(
            f"{len(bare)} of the files state no class names ({names}); their numbers were read by the names of "
            f"{named[0].path}"
        )

    def name(self, shard: Shard, label: Any, row: int) -> str:
        """Returns the name of the class of a label.

        Args:
            shard: the file.
            label: value of its label column.
            row: number of the row, for the message.

        Raises:
            DataError: if the label stands for no class.
        """
        if label is None or label != label:  # a missing number of pandas is not equal to itself
            raise DataError(f"{shard.path}, row {row}: expected a label, received none; remove the row")
        where = f"{shard.path}, row {row}"
        if shard.text:
            name = self._class(label, where)
            if self._known and name not in self._known:
                raise DataError(
                    f"{where}: expected one of the class names that other files state, received '{name}'; name the "
                    "classes alike in all files"
                )
            return name
        if not math.isfinite(label) or label != int(label):
            raise DataError(
                f"{where}: expected a whole number as label, received {label}; choose another --label-column"
            )
        names = shard.names or self._common
        if not names:
            return self._class(str(int(label)), where)
        if not 0 <= label < len(names):
            raise DataError(f"{where}: expected a label from 0 to {len(names) - 1}, received {label}; remove the row")
        return self._class(names[int(label)], where)

    def _class(self, written: str, where: str) -> str:
        name = self._classes.get(written)
        if name is None:
            name = self._classes[written] = class_name(written, where)
            self.written.setdefault(name, set()).add(written)
        return name


def _two_namings(first: Shard, first_names: str, other: Shard, other_names: str) -> DataError:
    return DataError(
        f"expected one naming of the classes in all files, received two: {first.path} has {first_names}, "
        f"{other.path} has {other_names}; name the classes alike in all files, or prepare them one by one"
    )


def _listed_names(names: Sequence[str]) -> str:
    return f"{len(names)} names ({', '.join(map(repr, names[:3]))}{', …' if len(names) > 3 else ''})"


def _image_column(schema: Any, asked: str | None, path: Path) -> str:
    fits = [field.name for field in schema if _holds_bytes(field.type)]
    if asked is not None:
        if asked not in fits:
            raise _unfit(schema, asked, path, "images (a struct with 'bytes', or binary)", "--image-column")
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
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _holds_labels(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_labels(kind.value_type)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return _is_text(kind) or any(is_number(kind) for is_number in numbers)


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(is_text(kind) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _label_column(schema: Any, asked: str | None, path: Path) -> str:
    fits = [field.name for field in schema if _holds_labels(field.type)]
    if asked is not None:
        if asked not in fits:
            raise _unfit(schema, asked, path, TAKEN, "--label-column")
        return asked
    usual = [name for name in LABELS if name in schema.names]
    if usual and usual[0] not in fits:
        raise _unfit(schema, usual[0], path, TAKEN, "--label-column")
    candidates = usual[:1] or fits
    if len(candidates) != 1:
        raise DataError(f"{path}: expected a column 'label', {_listed(schema)}; name it by --label-column")
    return str(candidates[0])


def _unfit(schema: Any, name: str, path: Path, expected: str, option: str) -> DataError:
    if schema.names.count(name) == 1:
        received = f"the column is there, but holds {schema.field(name).type}"
    else:
        received = f"found {'several' if name in schema.names else 'none'} of that name, {_listed(schema)}"
    return DataError(f"{path}: expected a column '{name}' of {expected}, {received}; choose another {option}")


def _listed(schema: Any) -> str:
    return "received columns " + ", ".join(f"{field.name} ({field.type})" for field in schema)


def _class_names(schema: Any, column: str) -> tuple[str, ...] | None:
    """Returns the class names in the schema's Hugging Face metadata; None if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return tuple(str(name) for name in names) or None

"""Columns of a table as numbers: values, categories and times. What cannot be converted is named by row and column."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.data.errors import DataError
from tasks.data.tables.read import Batch

MISSING = ("", "?", "na", "n/a", "nan", "null", "none")  # how files write that there is no number, in any case
MOST_CATEGORIES = 1000  # of one column
MOST_SHOWN = 40  # characters of a value in a message

Numbers = NDArray[np.float64]


def numbers(batch: Batch, name: str) -> Numbers:
    """Returns a column of numbers, float64 [n], NaN where there is no value.

    Args:
        batch: the rows.
        name: the column.

    Raises:
        DataError: naming row and column of the first value that is no finite number.
    """
    column = _plain(batch.columns[name])
    if _is_text(column.type):
        column = pc.utf8_trim_whitespace(column)
        missing = pc.is_in(pc.utf8_lower(column), pa.array(MISSING, column.type))
        column = pc.if_else(missing, pa.scalar(None, column.type), column)
    elif not _is_numeric(column.type):
        raise DataError(
            f"{batch.path}: expected numbers in column '{name}', received {column.type}; convert the column, or leave "
            "it out"
        )
    try:
        cast = pc.cast(column, pa.float64())
    except pa.ArrowInvalid:
        position = next(position for position, value in enumerate(column) if not _is_number(value))
        raise _no_number(batch, name, position, column[position].as_py()) from None
    values: Numbers = cast.to_numpy(zero_copy_only=False)
    infinite = np.isinf(values)
    if infinite.any():
        position = int(infinite.argmax())
        raise _no_number(batch, name, position, column[position].as_py())
    return values


def texts(batch: Batch, name: str) -> tuple[NDArray[np.int64], list[str | None]]:
    """Returns a column of categories or groups: positions [n] in a list of the batch's distinct values, and the list.

    Args:
        batch: the rows.
        name: the column.

    Returns:
        Positions, int64 [n], and the distinct values as text; ``None`` stands for no value.

    Raises:
        DataError: if the column holds neither text, numbers nor dates.
    """
    column = _plain(batch.columns[name])
    if not _is_text(column.type):
        if not (_is_numeric(column.type) or pa.types.is_temporal(column.type)):
            raise DataError(
                f"{batch.path}: expected text or numbers in column '{name}', received {column.type}; convert the "
                "column, or leave it out"
            )
        if pa.types.is_floating(column.type):
            column = _whole(column)
        column = pc.cast(column, pa.string())
    encoded = pc.dictionary_encode(pc.utf8_trim_whitespace(column), null_encoding="encode")
    distinct = [value or None for value in encoded.dictionary.to_pylist()]
    positions: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return positions, distinct


class Times:
    """Reads a column of times: numbers, dates or timestamps, of one kind in the whole table."""

    def __init__(self, name: str) -> None:
        """Reads nothing yet.

        Args:
            name: the column.
        """
        self._name = name
        self._kind = ""

    def of(self, batch: Batch) -> Numbers:
        """Returns the times of a batch, float64 [n], in any unit that keeps their order; for dates microseconds.

        Raises:
            DataError: naming row and column of the first value that is no time, or of another kind than those before.
        """
        column = _plain(batch.columns[self._name])
        if pa.types.is_temporal(column.type):
            return self._dates(batch, column)
        if not _is_text(column.type):
            return self._checked("numbers", numbers(batch, self._name), batch)
        if self._kind != "dates":
            try:
                return self._checked("numbers", numbers(batch, self._name), batch)
            except DataError:
                if self._kind == "numbers":
                    raise
        return self._dates(batch, pc.utf8_trim_whitespace(column))

    def shown(self, time: float) -> str:
        """Returns a time as text, for messages.

        Args:
            time: as :meth:`of` returns it.
        """
        return f"{time:g}" if self._kind == "numbers" else str(np.datetime64(int(time), "us"))

    def _dates(self, batch: Batch, column: Any) -> Numbers:
        try:
            stamps = _timestamps(column)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            position = next(position for position in range(len(column)) if not _is_time(column.slice(position, 1)))
            value = _cut(column[position].as_py())
            raise DataError(
                f"{batch.row(position)}, column '{self._name}': expected a time, a number or a date such as 2024-01-31 "
                f"or 2024-01-31T12:00:00, received {value}; correct it, or name another --time"
            ) from None
        return self._checked("dates", pc.cast(stamps, pa.int64()).to_numpy(zero_copy_only=False), batch)

    def _checked(self, kind: str, values: NDArray[Any], batch: Batch) -> Numbers:
        if self._kind and kind != self._kind:
            raise DataError(f"{batch.row(0)}, column '{self._name}': expected {self._kind} as before, received {kind}")
        times: Numbers = values.astype(np.float64)
        if np.isnan(times).any():
            position = int(np.isnan(times).argmax())
            raise DataError(
                f"{batch.row(position)}, column '{self._name}': expected a time in every row, received none; add it, "
                "or take the row out"
            )
        self._kind = kind
        return times


def _plain(column: Any) -> Any:
    """A column without dictionary encoding, of one chunk."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_numeric(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def _is_number(value: Any) -> bool:
    try:
        pc.cast(value, pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _is_time(value: Any) -> bool:
    try:
        _timestamps(value)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _timestamps(column: Any) -> Any:
    """A column of dates, timestamps or their texts, with or without a zone, as microseconds."""
    if not _is_text(column.type):
        return pc.cast(column, pa.timestamp("us", getattr(column.type, "tz", None)), safe=False)
    try:
        return pc.cast(column, pa.timestamp("us"))
    except pa.ArrowInvalid:
        return pc.cast(column, pa.timestamp("us", "UTC"))


def _whole(column: Any) -> Any:
    """A column of floating-point numbers as integers where all are whole, as a table with gaps writes them."""
    valid = pc.is_finite(column)
    column = pc.if_else(pc.fill_null(valid, False), column, pa.scalar(None, column.type))
    whole = pc.all(pc.equal(pc.floor(column), column)).as_py()
    return pc.cast(column, pa.int64()) if whole is not False else column


def _no_number(batch: Batch, name: str, position: int, value: Any) -> DataError:
    return DataError(
        f"{batch.row(position)}, column '{name}': expected a number, received {_cut(value)}; correct it, leave it "
        "empty where there is no value, or name the column with --categorical (a target: --labels)"
    )


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} …"

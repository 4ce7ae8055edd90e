"""Unpacked sizes of the pages of a Parquet file, read from the pages' own headers.

A reader allocates memory for a page by the page's header but trusts the footer's sums of them. The footer may state
less than the headers, so headers are read here, in Thrift's compact protocol; two numbers of each are needed.
"""

from typing import Any, BinaryIO

UNCOMPRESSED, COMPRESSED = 2, 3  # fields of a page header
DEEPEST = 16  # structs within structs
_BINARY, _LIST, _SET, _STRUCT = 8, 9, 10, 12  # types of the protocol
_FIXED = {3: 1, 7: 8}  # bytes of a byte and of a double
_VARIABLE = (4, 5, 6)  # integers


def unpacked_size(stream: BinaryIO, column: Any) -> int:
    """Returns the bytes that all pages of a column chunk take when unpacked.

    Args:
        stream: the file.
        column: the chunk's metadata.

    Raises:
        ValueError: if a header cannot be read, or says a size below zero.
    """
    starts = [column.data_page_offset, column.dictionary_page_offset if column.has_dictionary_page else None]
    start = min(offset for offset in starts if offset)
    stream.seek(start)
    total = 0
    while stream.tell() < start + column.total_compressed_size:
        fields = _struct(stream, 0)
        if min(fields.get(UNCOMPRESSED, -1), fields.get(COMPRESSED, -1)) < 0:
            raise ValueError("a page header without sizes")
        total += fields[UNCOMPRESSED]
        stream.seek(fields[COMPRESSED], 1)
    return total


def _struct(stream: BinaryIO, depth: int) -> dict[int, int]:
    """Returns the integer fields of a struct by number; skips the others."""
    if depth > DEEPEST:
        raise ValueError("a page header of too many levels")
    fields: dict[int, int] = {}
    number = 0
    while head := _bytes(stream, 1)[0]:
        number = number + (head >> 4) if head >> 4 else _integer(stream)
        kind = head & 0x0F
        if kind in _VARIABLE:
            fields[number] = _integer(stream)
        elif kind > 2:  # booleans stand in the head
            _skip(stream, kind, depth)
    return fields


def _skip(stream: BinaryIO, kind: int, depth: int) -> None:
    """Skips one value."""
    if kind in _VARIABLE:
        _varint(stream)
    elif kind in _FIXED:
        _bytes(stream, _FIXED[kind])
    elif kind == _BINARY:
        stream.seek(_varint(stream), 1)
    elif kind == _STRUCT:
        _struct(stream, depth + 1)
    elif kind in (_LIST, _SET):
        head = _bytes(stream, 1)[0]
        for _ in range(_varint(stream) if head >> 4 == 15 else head >> 4):
            _element(stream, head & 0x0F, depth + 1)
    else:  # page headers hold no maps
        raise ValueError(f"a page header with a value of type {kind}")


def _element(stream: BinaryIO, kind: int, depth: int) -> None:
    """Skips one element of a list, where booleans take a byte."""
    if kind in (1, 2):
        _bytes(stream, 1)
    elif depth > DEEPEST:
        raise ValueError("a page header of too many levels")
    else:
        _skip(stream, kind, depth)


def _integer(stream: BinaryIO) -> int:
    value = _varint(stream)
    return (value >> 1) ^ -(value & 1)


def _varint(stream: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = _bytes(stream, 1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
        if shift > 63:
            raise ValueError("a page header with an endless number")


def _bytes(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise ValueError("a page header that is cut short")
    return data

"""Temporary storage of bytes on the disk, in a nameless file that the system removes when the process ends."""

import math
import mmap
import tempfile
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tasks.data.errors import DataError

IN_MEMORY = 128 << 20  # bytes of pixels of one class up to which they stay in memory


class Spill:
    """Appends pieces one after the other within a ``with`` block, and returns any of them afterwards.

    For data too large for the memory. The file is in the folder for temporary files (``$TMPDIR``).
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed at the end of the block
        self._size = 0
        self._map: mmap.mmap | bytes = b""

    def __enter__(self) -> Self:
        """Begin to take pieces."""
        return self

    def put(self, piece: bytes | memoryview) -> slice:
        """Appends a piece; returns the key for :meth:`get`.

        Raises:
            DataError: if the disk is full.
        """
        start = self._size
        rest = memoryview(piece)
        try:
            while len(rest):
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise DataError(
                f"expected room for temporary files in '{tempfile.gettempdir()}', received: {error}; make room, or "
                "name another folder by TMPDIR"
            ) from error
        self._size += len(piece)
        return slice(start, self._size)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Ends writing; pieces can be read from now on."""
        with self._file:
            if kind is None and self._size:
                self._map = mmap.mmap(self._file.fileno(), self._size, access=mmap.ACCESS_READ)

    def get(self, key: slice) -> bytes:
        """Returns a piece, copied into memory."""
        return self._map[key]

    def array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Returns all pieces as one memory-mapped array, uint8 of ``shape``."""
        return np.frombuffer(self._map, dtype=np.uint8).reshape(shape)


def put_aside(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns an equal array that is memory-mapped from the disk."""
    with Spill() as spill:
        spill.put(np.ascontiguousarray(array).reshape(-1).data)
    return spill.array(array.shape)


def stacked(images: Iterable[NDArray[np.uint8]], most: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Returns images as one array uint8 [N, *shape], memory-mapped from the disk if ``most`` of them are large.

    Args:
        images: N arrays of ``shape``.
        most: upper bound of N.
        shape: shape of one image.
    """
    if most * math.prod(shape) <= IN_MEMORY:
        return np.array([*images], dtype=np.uint8).reshape(-1, *shape)
    count = 0
    with Spill() as spill:
        for image in images:
            spill.put(np.ascontiguousarray(image).reshape(-1).data)
            count += 1
    return spill.array((count, *shape))

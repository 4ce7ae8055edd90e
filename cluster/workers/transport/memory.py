"""Memory shared by processes of one machine, known by its descriptor alone.

A segment has no name in any file system: the kernel frees it when the last process that holds it has ended, however
that ended. So nothing is ever left behind, and no size of ``/dev/shm`` limits it.
"""

import mmap
import os
from typing import Any

import numpy as np

from cluster.workers.transport.link import Bytes

AVAILABLE = hasattr(os, "memfd_create")


class Segment:
    """Bytes [N] of shared memory, of the process that made them."""

    def __init__(self, nbytes: int) -> None:
        """Make a new segment of zeros."""
        self.descriptor = os.memfd_create("metaray", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, nbytes)
        self.bytes = _mapped(self.descriptor, nbytes)

    def close(self) -> None:
        """Close the descriptor; the memory goes when nobody looks at it any more. May be called twice."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def received(descriptor: int, nbytes: int) -> Bytes:
    """Another process's segment, bytes [N].

    Args:
        descriptor: which a link brought; it is closed.
        nbytes: N.
    """
    try:
        return _mapped(descriptor, nbytes)
    finally:
        os.close(descriptor)


def _mapped(descriptor: int, nbytes: int) -> Bytes:
    data: Bytes = np.frombuffer(mmap.mmap(descriptor, nbytes), dtype=np.uint8)
    return data


class Segments:
    """Segments of one writer, numbered; each is lent out, written, and given back when its readers are done."""

    def __init__(self) -> None:
        """Hold none yet."""
        self._all: dict[int, Segment] = {}
        self._free: dict[int, list[int]] = {}  # by size

    def lend(self, nbytes: int) -> int:
        """The number of a segment of ``nbytes`` that nobody reads."""
        free = self._free.setdefault(nbytes, [])
        if free:
            return free.pop()
        number = len(self._all)
        self._all[number] = Segment(nbytes)
        return number

    def give_back(self, number: int) -> None:
        """Let a segment be lent again."""
        self._free[self._all[number].bytes.nbytes].append(number)

    def __getitem__(self, number: int) -> Segment:
        """The segment of a number."""
        return self._all[number]

    def close(self) -> None:
        """Close all descriptors."""
        for segment in self._all.values():
            segment.close()


def view(numbers: Any) -> Bytes:
    """An array's memory as bytes, without a copy if it is contiguous."""
    data: Bytes = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)
    return data

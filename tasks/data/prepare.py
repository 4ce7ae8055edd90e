"""From raw data to an Arrow store: decode on all cores, class after class."""

import errno
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from tasks.data.decode import BOMB, decode
from tasks.data.errors import BrokenImage, DataError
from tasks.data.manifest import Manifest
from tasks.data.places import cache_folder, scratch
from tasks.data.remote import RemoteStore, is_remote
from tasks.data.sources.base import RawClass, RawData
from tasks.data.store import Pixels
from tasks.data.writer import StoreWriter, check_place
from tasks.family import SPLITS, Split

CHUNK = 32  # images per job
AHEAD = 4  # jobs in flight per worker
FEWEST = 2  # classes that a task needs at least

Progress = Callable[[int, int], None]
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def prepare(
    raw: RawData,
    root: str,
    *,
    replace: bool = False,
    skip_broken: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Manifest:
    """Write a store that is whole or absent. No more than a class and what is in flight is held in memory.

    Args:
        raw: the data set.
        root: folder or URI of the store.
        replace: write over a store that is there already.
        skip_broken: leave out images that cannot be decoded; their number is ``skipped`` in the manifest's origin.
        progress: called with the images done so far and their total.
        workers: threads to decode with, by default one per core. Pillow decodes and resizes outside the interpreter's
            lock, so threads use all cores, and no pixel has to travel between processes.

    Raises:
        DataError: if the data or the place cannot be used, or the disk is full.
    """
    check_raw(raw)
    check_root(root, replace=replace)
    try:
        if not is_remote(root):
            return _prepare(raw, Path(root), replace, skip_broken, progress, workers)
        with scratch(cache_folder() / "upload") as folder:
            manifest = _prepare(raw, folder / "store", False, skip_broken, progress, workers)
            RemoteStore(root).upload(folder / "store", manifest, replace=replace)
            return manifest
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DataError(
                f"expected room for the store '{root}', received: {os.strerror(error.errno)}; make room, or name "
                "a --root on another disk"
            ) from error
        raise


def check_root(root: str, *, replace: bool) -> None:
    """See to it that a store may be written at a folder or URI.

    Raises:
        DataError: if there is a store already and ``replace`` is not asked for, or something else.
    """
    if not is_remote(root):
        check_place(Path(root), replace=replace)
    else:
        RemoteStore(root).check_place(replace=replace)


def check_raw(raw: RawData) -> None:
    """See to it that every split has classes, every class has images, and no class is in two splits.

    Raises:
        DataError: if not.
    """
    counts = {split: len(raw.classes.get(split, ())) for split in SPLITS}
    if min(counts.values()) < FEWEST:
        found = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise DataError(
            f"{raw.name}: expected at least {FEWEST} classes in every split, received {found}; "
            "add classes, or split them otherwise"
        )
    owner: dict[str, Split] = {}
    for split in SPLITS:
        for one in raw.classes[split]:
            if one.name in owner:
                raise DataError(
                    f"{raw.name}: expected splits without a common class, received '{one.name}' in {owner[one.name]} "
                    f"and {split}; give every class to one split"
                )
            owner[one.name] = split
            if not len(one.images):
                raise DataError(
                    f"{raw.name}: expected images in every class, class '{one.name}' of {split} has none; "
                    "add some, or leave the class out"
                )


@dataclass
class _Job:
    """Images of one class that are being decoded; the last job of a class completes it."""

    pixels: "Future[tuple[list[Pixels], int]]"
    last: bool
    images: int


class _Decoder:
    """Decodes classes on several threads, some jobs ahead, and gives them back in order."""

    def __init__(self, raw: RawData, skip_broken: bool, progress: Progress | None, pool: ThreadPoolExecutor) -> None:
        self._raw, self._skip_broken = raw, skip_broken
        self._progress, self._pool = progress, pool
        self._total = sum(len(one.images) for classes in raw.classes.values() for one in classes)
        self._done = 0
        self.skipped = 0

    def classes(self, classes: Sequence[RawClass], ahead: int) -> Iterator[Pixels]:
        """The pixels of each class, uint8 [N, height, width, channels]."""
        jobs = (job for one in classes for job in self._jobs(one))
        waiting = deque(islice(jobs, ahead))
        remaining = iter(classes)
        parts: list[Pixels] = []
        while waiting:
            job = waiting.popleft()
            pixels, broken = job.pixels.result()
            waiting.extend(islice(jobs, 1))
            parts += pixels
            self.skipped += broken
            self._done += job.images
            if self._progress is not None:
                self._progress(self._done, self._total)
            if job.last:
                name = next(remaining).name
                if not parts:
                    raise DataError(f"{name}: expected images in every class, all of this one's are broken")
                yield np.stack(parts)
                parts = []

    def _jobs(self, one: RawClass) -> Iterator[_Job]:
        count = len(one.images)
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            future = self._pool.submit(self._decode, one, range(start, stop))
            yield _Job(future, stop == count, stop - start)

    def _decode(self, one: RawClass, numbers: range) -> tuple[list[Pixels], int]:
        pixels = []
        for number in numbers:
            try:
                pixels.append(decode(one.images[number], self._raw.image_shape, self._raw.invert))
            except BrokenImage:
                if not self._skip_broken:
                    raise
        return pixels, len(numbers) - len(pixels)


def _cores() -> int:
    """The cores that this process may use; macOS only tells how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(
    raw: RawData, root: Path, replace: bool, skip_broken: bool, progress: Progress | None, workers: int | None
) -> Manifest:
    count = workers or _cores()
    with (
        warnings.catch_warnings(),
        StoreWriter(root, name=raw.name, image_shape=raw.image_shape, replace=replace) as writer,
        ThreadPoolExecutor(count) as pool,
    ):
        warnings.simplefilter("error", BOMB)
        try:
            decoder = _Decoder(raw, skip_broken, progress, pool)
            for split in SPLITS:
                writer.begin(split, [one.name for one in raw.classes[split]])
                for pixels in decoder.classes(raw.classes[split], AHEAD * count):
                    writer.add(pixels)
                writer.end()
        finally:
            pool.shutdown(cancel_futures=True)
        writer.origin = {**raw.origin, "inverted": raw.invert, "skipped": decoder.skipped}
    return writer.manifest

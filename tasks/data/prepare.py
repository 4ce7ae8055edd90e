"""Preparation of an Arrow store from raw data: decodes on all cores, class after class."""

import errno
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from meta.engine.machine import cache_folder
from tasks.data import limits as bounds
from tasks.data.decode import DEEP, bounded
from tasks.data.decoder import Decoder, FewerBits, Progress
from tasks.data.duplicates import in_words
from tasks.data.errors import DataError
from tasks.data.limits import Limits
from tasks.data.manifest import Manifest
from tasks.data.names import class_name
from tasks.data.places import scratch
from tasks.data.remote import RemoteStore, is_remote
from tasks.data.sources.base import RawData
from tasks.data.tables.manifest import AnyManifest
from tasks.data.writer import StoreWriter, check_place
from tasks.family import SPLITS, Split

AHEAD = 4  # jobs in flight per worker
FEWEST = 2  # classes that a task needs at least


@dataclass(frozen=True)
class _Work:
    """How to prepare."""

    limits: Limits
    replace: bool
    skip_broken: bool
    progress: Progress | None
    workers: int | None
    shown: tuple[str, str] | None


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def prepare(
    raw: RawData,
    root: str,
    *,
    replace: bool = False,
    skip_broken: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
    limits: Limits | None = None,
    shown: tuple[str, str] | None = None,
) -> Manifest:
    """Writes a store that is whole or absent; only images in progress and a small class are held in memory.

    The manifest's origin says what was left out (``left_out``, ``skipped``), which images are equal
    (``duplicates``), and what else the user should know (``warnings``).

    Args:
        raw: the data set.
        root: folder or URI of the store.
        replace: write over a store that is there already.
        skip_broken: leave out images that cannot be decoded; their number is ``skipped`` in the manifest's origin.
        progress: called with the images done so far and their total.
        workers: threads to decode with, by default one per core. Pillow decodes and resizes outside the interpreter's
            lock, so threads use all cores, and no pixel has to travel between processes.
        limits: bounds on the store's size, and on the images that are decoded.
        shown: a text in the names of files, and what the manifest shows instead of it.

    Raises:
        DataError: if the data or the place cannot be used, there is more than the limits allow, or the disk is full.
    """
    check_raw(raw)
    work = _Work(limits or Limits(), replace, skip_broken, progress, workers, shown)
    return written(root, lambda folder: _prepare(raw, folder, work), replace=replace)


Made = TypeVar("Made", bound=AnyManifest)


def written(root: str, make: Callable[[Path], Made], *, replace: bool) -> Made:
    """Makes a store in a folder, or in a folder of its own that is copied to a URI; returns its manifest.

    Args:
        root: folder or URI of the store.
        make: writes the store into a folder.
        replace: write over a store that is there already.

    Raises:
        DataError: if the place cannot be used, or the disk is full.
    """
    check_root(root, replace=replace)
    try:
        if not is_remote(root):
            return make(Path(root))
        with scratch(cache_folder() / "upload") as folder:
            manifest = make(folder / "store")
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
    """Checks that a store may be written at a folder or URI.

    Args:
        root: folder or URI.
        replace: whether a store there may be overwritten.

    Raises:
        DataError: if there is a store already and ``replace`` is False, or something else.
    """
    if not is_remote(root):
        check_place(Path(root), replace=replace)
    else:
        RemoteStore(root).check_place(replace=replace)


def check_raw(raw: RawData) -> None:
    """Checks that every split has classes, every class has images, and no class is in two splits.

    Raises:
        DataError: if not.
    """
    counts = {split: len(raw.classes.get(split, ())) for split in SPLITS}
    if min(counts.values()) < FEWEST:
        received = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise DataError(
            f"{raw.name}: expected at least {FEWEST} classes in every split, received {received}; "
            "add classes, or split them otherwise"
        )
    owner: dict[str, Split] = {}
    for split in SPLITS:
        for one in raw.classes[split]:
            name = class_name(one.name, raw.name)
            if name in owner:
                raise DataError(
                    f"{raw.name}: expected splits without a common class, received '{one.name}' in {owner[name]} "
                    f"and {split}; give every class to one split"
                )
            owner[name] = split
            if not len(one.images):
                raise DataError(
                    f"{raw.name}: expected images in every class, class '{one.name}' of {split} has none; "
                    "add some, or leave the class out"
                )


def _check_room(raw: RawData, root: Path, limits: Limits) -> None:
    """Compares the size of the store, known before the first image is decoded, with limits and free disk space.

    Raises:
        DataError: if it is too large.
    """
    images = sum(len(one.images) for classes in raw.classes.values() for one in classes)
    size = images * math.prod(raw.image_shape)
    limits.check_store(raw.name, size, raw.raw_bytes)
    place = root.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise DataError(
            f"expected room for the store '{root}', {bounds.in_words(size)}, there are {bounds.in_words(free)}; make "
            "room, lower --size, or name a --root on another disk"
        )


def _where(raw: RawData, split: int, number: int, image: int) -> str:
    return raw.classes[SPLITS[split]][number].images[image].where


def _cores() -> int:
    """Returns the number of cores that this process may use; on macOS the number of all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(raw: RawData, root: Path, work: _Work) -> Manifest:
    _check_room(raw, root, work.limits)
    bits = DEEP
    while True:
        try:
            return _written(raw, root, work, bits)
        except FewerBits as found:  # known after the last image: nothing of the store has been published
            bits = found.bits


def _written(raw: RawData, root: Path, work: _Work, bits: int) -> Manifest:
    count = work.workers or _cores()
    with (
        bounded(work.limits),
        StoreWriter(root, name=raw.name, image_shape=raw.image_shape, replace=work.replace) as writer,
        ThreadPoolExecutor(count) as pool,
    ):
        try:
            decoder = Decoder(raw, pool, bits=bits, skip_broken=work.skip_broken, progress=work.progress)
            for split in SPLITS:
                writer.begin(split, [one.name for one in raw.classes[split]])
                for pixels in decoder.classes(split, AHEAD * count):
                    writer.add(pixels)
                writer.end()
        finally:
            pool.shutdown(cancel_futures=True)
        writer.origin = replaced(_origin(raw, decoder, bits), work.shown)
    return writer.manifest


def _origin(raw: RawData, decoder: Decoder, bits: int) -> dict[str, Any]:
    """Returns the manifest's origin: where the data came from and how they were treated.

    Raises:
        FewerBits: if the images should have been decoded as using fewer bits.
    """
    depths = decoder.depths.checked(raw.name, bits)
    equal = decoder.fingerprints.duplicates(lambda *place: _where(raw, *place))
    return {
        **raw.origin,
        "inverted": raw.invert,
        "skipped": decoder.skipped,
        "skipped_first": decoder.skipped_first,
        "left_out": raw.left_out.as_plain(),
        "duplicates": equal,
        "warnings": [*raw.warnings, *in_words(equal), *depths, *decoder.frame_warnings()],
    }


def replaced(value: Any, shown: tuple[str, str] | None) -> Any:
    """Returns a plain value with one part of its texts replaced.

    Args:
        value: plain values.
        shown: the part and what takes its place; ``None``: nothing is replaced.
    """
    if shown is None:
        return value
    if isinstance(value, str):
        return value.replace(*shown)
    if isinstance(value, dict):
        return {key: replaced(one, shown) for key, one in value.items()}
    return [replaced(one, shown) for one in value] if isinstance(value, list) else value

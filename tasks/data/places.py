"""Folders on this machine's disk: the cache, and folders for work in progress that are always removed."""

import glob
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK = "lock"
OLD = "old"  # name, in a scratch folder, of what was taken from the target's place to make room


@contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """Yields a new folder ``.NAME.partial-…`` beside ``target``, on the same disk; it is removed when the block ends.

    Every process holds a lock in its own folder, which the system releases when the process dies. Folders of killed
    processes are therefore distinguished from those of running ones, and are removed first. What a process has moved
    to :data:`OLD` in its folder returns to the target's place, if that is empty when the folder is removed.
    """
    parent = target.parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    folder, lock = target, None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        while lock is None:
            folder = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")
            lock = _claim(folder)
        yield folder
    finally:
        if folder is not target:
            _remove(folder, target)
        if lock is not None:
            lock.release()
        with suppress(OSError):  # not empty: the work has succeeded, or somebody else lives there
            for empty in made:
                empty.rmdir()


def _claim(folder: Path) -> FileLock | None:
    """Makes the folder and locks it; returns None if another process removed it as stale before it was locked."""
    folder.mkdir()
    lock = _try_lock(folder)
    if lock is not None and (folder / _LOCK).exists():
        return lock
    if lock is not None:
        lock.release()
    return None


def _try_lock(folder: Path) -> FileLock | None:
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):
        return None
    return lock


def _remove_stale(target: Path) -> None:
    for folder in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        lock = _try_lock(folder)
        if lock is not None:
            _remove(folder, target)
            lock.release()


def _remove(folder: Path, target: Path) -> None:
    if not target.exists():
        with suppress(FileNotFoundError):
            (folder / OLD).rename(target)
    shutil.rmtree(folder, ignore_errors=True)

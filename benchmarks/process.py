"""Settings of a process that are the same for every competitor: the cores, memory from the system, empty caches."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

ALLOCATION = "glibc keeps freed memory (mallopt), for all competitors alike"
CACHES = ("METARAY_CACHE", "TORCHINDUCTOR_CACHE_DIR")  # where compiled programs are kept on the disk
QUIET = 0.2  # cores that other processes may use while something is timed
SYSTEM_ALLOCATION = "as the C library does by itself"


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Let this process and those it starts use ``count`` cores; some libraries have no setting of their own."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def empty_caches() -> Iterator[None]:
    """Let programs be compiled anew, whatever earlier processes have kept on the disk."""
    before = {name: os.environ.get(name) for name in CACHES}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update({name: str(Path(folder, name)) for name in CACHES})
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


class OtherLoad:
    """Mean number of cores that other processes keep busy while a block runs; zero where the system does not tell.

    On a machine that others use, a program of several threads suffers out of all proportion: its threads wait for the
    one that has no core.

    >>> with OtherLoad() as others:
    ...     pass
    >>> others.cores >= 0
    True
    """

    def __init__(self) -> None:
        self.cores = 0.0

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        busy, own, at = (now - then for now, then in zip(self._read(), self._before, strict=True))
        self.cores = max(0.0, (busy - own) / max(at, 0.1))

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Seconds that all processes have computed, that this one has, and the time."""
        stat, own, busy = Path("/proc/stat"), os.times(), 0.0
        if stat.exists():
            user, nice, system = map(int, stat.read_text().split(maxsplit=4)[1:4])
            busy = (user + nice + system) / os.sysconf("SC_CLK_TCK")
        return busy, own.user + own.system, time.monotonic()


def in_child(function: Callable[..., Any], *arguments: Any, timeout: float | None = None) -> Any:
    """The result of ``function(*arguments)`` in a fresh process.

    Args:
        function: importable by its name.
        *arguments: that can be pickled.
        timeout: seconds after which the process is ended; None: never.

    Raises:
        RuntimeError: with its message, if it failed there or took too long.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sender, function, arguments), daemon=True)
    child.start()
    sender.close()
    try:
        good, value = receiver.recv() if receiver.poll(timeout) else (False, f"took more than {timeout:g} s")
    except EOFError:
        good, value = False, "the process died"
    finally:
        if timeout is not None:
            child.kill()
        child.join()
        receiver.close()
    if not good:
        raise RuntimeError(value)
    return value


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer = True, function(*arguments)
    except Exception as error:
        answer = False, f"{type(error).__name__}: {error}"
    pipe.send(answer)
    pipe.close()

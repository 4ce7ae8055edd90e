"""Memory of a server: how much there is, who holds how much of it, and its return after a burst."""

import gc
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from meta.engine.memory import return_freed_memory

SHARE = 0.5  # of the machine's or the container's memory, by default
INBOUND = 0.25  # of the budget, for what is received and what is to be sent; the rest is for computing
SLACK = 64 * 2**20  # bytes above the size at rest that are not worth giving back
PATIENCE = 0.05  # seconds between two looks whether a computation that waits for memory is still wanted


class Budget:
    """A number of bytes, of which several threads hold parts. Those that wait are served in order."""

    def __init__(self, total: int) -> None:
        self.total, self.used = total, 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def try_hold(self, count: int) -> bool:
        """Hold ``count`` bytes, if they are free and nobody waits for them."""
        with self._changed:
            if self._waiting or self.used + count > self.total:
                return False
            self.used += count
            return True

    def release(self, count: int) -> None:
        """Give ``count`` bytes back."""
        with self._changed:
            self.used -= count
            self._changed.notify_all()

    @contextmanager
    def held(self, count: int, proceed: Callable[[], None]) -> Iterator[None]:
        """Hold ``count`` bytes for the time of a block, as soon as they are free.

        Args:
            count: bytes; no more than all are asked for.
            proceed: called while it waits; what it raises ends the waiting.
        """
        count, ticket = min(count, self.total), object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self.used + count > self.total:
                    proceed()
                    self._changed.wait(PATIENCE)
                self.used += count
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            self.release(count)


class Memory:
    """The budget of a server, in two parts that never wait for each other.

    Attributes:
        inbound: bodies, arrays and answers of requests; who finds none free is told to come again.
        work: reading and computing; at most one reader and one batch a thread hold some, others wait.
    """

    def __init__(self, total: int) -> None:
        inbound = int(INBOUND * total)
        self.inbound, self.work = Budget(inbound), Budget(total - inbound)

    @property
    def used(self) -> int:
        """Bytes that are held."""
        return self.inbound.used + self.work.used


class Held:
    """The share of a budget that one request holds; it grows and shrinks, and is given back at the end of a block."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self.count = budget, 0
        self._lock = threading.Lock()
        self._ended = False

    def try_set(self, count: int) -> bool:
        """Hold ``count`` bytes instead of those before, if they are free and the block has not ended."""
        with self._lock:
            if self._ended or (count > self.count and not self._budget.try_hold(count - self.count)):
                return False
            if count < self.count:
                self._budget.release(self.count - count)
            self.count = count
            return True

    def moved(self) -> "Held":
        """Another that holds what this one held."""
        other = Held(self._budget)
        other.count, self.count = self.count, 0
        return other

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.try_set(0)
        self._ended = True


class Trimmer:
    """Gives freed memory back to the system when the server has come to rest, or holds half its budget."""

    def __init__(self, budget: int) -> None:
        self._process, self._budget = psutil.Process(), budget
        self._resting = self._rss()

    def _rss(self) -> int:
        return int(self._process.memory_info().rss)

    def is_due(self, *, at_rest: bool) -> bool:
        """Whether enough has gathered."""
        return self._rss() > self._resting + (SLACK if at_rest else self._budget // 2)

    def trim(self, *, at_rest: bool) -> None:
        """Collect garbage and give back what is free; what stays at rest is the new size at rest."""
        gc.collect()
        return_freed_memory()
        if at_rest:
            self._resting = self._rss()


def default_memory() -> int:
    """Bytes for requests unless told otherwise: :data:`SHARE` of what the machine or the container has."""
    return int(SHARE * min(psutil.virtual_memory().total, container_memory()))


def container_memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that the control groups of this process allow, a huge number if none says.

    Args:
        root: where control groups are mounted.
        own: names the groups of this process.
    """
    bounds = [2**62]
    lines = own.read_text().splitlines() if own.is_file() else []
    for line in lines:
        _, kinds, group = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        folder = root / "memory" if kinds else root
        name = "memory.limit_in_bytes" if kinds else "memory.max"
        parts = [part for part in group.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            file = folder.joinpath(*parts[:depth], name)
            text = file.read_text().strip() if file.is_file() else ""
            bounds += [int(text)] if text.isdigit() else []
    return min(bounds)


def reading_bytes(body: bytes | bytearray) -> int:
    """Bytes that reading JSON takes at most: its text, an object for each value and name, two for each list."""
    lists = body.count(b"[") + body.count(b"{")
    return 5 * len(body) + 64 * (body.count(b",") + body.count(b":")) + 200 * lists


def shown(count: float) -> str:
    """A number of bytes in words: ``1,234 MiB``."""
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"

"""The account of what a pool lost: events with their cost, and when there are too many of them."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cluster.runs.events import Event, Kind

SLOW_EVERY = 60.0  # seconds between two events about the same slow worker
SLOW_LEAST = 1.0  # seconds that it has to cost


@dataclass
class _Slowness:
    """Seconds that a worker has cost since the last event about it, and when that was."""

    seconds: float = 0.0
    reported: float = float("-inf")


class Ledger:
    """Events of one pool."""

    def __init__(self, *, most: int, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without events.

        Args:
            most: losses of workers within a window that a run goes on with.
            window: seconds.
            clock: seconds from anywhere on.
        """
        self.events: list[Event] = []
        self.failures: list[str] = []
        self._most, self._window, self._clock = most, window, clock
        self._losses: deque[float] = deque()
        self._reason = ""  # of the last
        self._slow: dict[int, _Slowness] = {}
        self._away: dict[int, float] = {}  # since when, by worker
        self._on_nodes: dict[str, float] = {}  # seconds lost with the workers and relays of each node

    def lost(self, worker: int, reason: str, *, hung: bool, step: int | None, node: str | None, seconds: float) -> None:
        """Note a worker that is given up.

        Args:
            worker: its number.
            reason: why.
            hung: whether its process may still be there.
            step: of the jobs that it held, if it held any.
            node: where it ran, if it has said so.
            seconds: see :class:`cluster.runs.events.Event`.
        """
        at = "" if step is None else f" at step {step}"
        text = f"worker {worker} was lost{at} ({reason}); its shards were computed again"
        self.failures.append(text)
        kind: Kind = "worker hung" if hung else "worker lost"
        self._note(Event(kind=kind, text=text, seconds=seconds, step=step, worker=worker, node=node))
        now = self._clock()
        self._losses.append(now)
        self._reason = f"worker {worker}, {reason}"
        self._away.setdefault(worker, now)
        self._count_on_node(node, seconds)

    def relay_lost(self, node: str, reason: str, seconds: float) -> None:
        """Note a relay that is given up.

        Args:
            node: where it ran, or was to.
            reason: why.
            seconds: see :class:`cluster.runs.events.Event`.
        """
        text = f"the relay of node {node} was lost ({reason}); what it held was computed again"
        self.failures.append(text)
        self._note(Event(kind="relay lost", text=text, seconds=seconds, node=node))
        self._count_on_node(node, seconds)

    def _count_on_node(self, node: str | None, seconds: float) -> None:
        if node is not None:
            self._on_nodes[node] = self._on_nodes.get(node, 0.0) + seconds

    def joined(self, worker: int, node: str) -> None:
        """Note a worker that has started; an event, if it takes the place of one that was lost."""
        since = self._away.pop(worker, None)
        if since is not None:
            seconds = self._clock() - since
            text = f"worker {worker} was replaced after {seconds:.1f} s"
            self._note(Event(kind="worker replaced", text=text, seconds=seconds, worker=worker, node=node))

    def slow(self, worker: int, step: int, seconds: float, node: str | None) -> None:
        """Note a job that took a worker much longer than usual; an event a minute at most.

        Args:
            worker: its number.
            step: the job's.
            seconds: by how much.
            node: where it runs.
        """
        one = self._slow.setdefault(worker, _Slowness())
        one.seconds += seconds
        now = self._clock()
        if one.seconds >= SLOW_LEAST and now - one.reported >= SLOW_EVERY:
            text = f"worker {worker} took {one.seconds:.1f} s longer than usual; idle workers compute its shards too"
            self._note(Event(kind="worker slow", text=text, seconds=one.seconds, step=step, worker=worker, node=node))
            self._slow[worker] = _Slowness(reported=now)

    def node_joined(self, node: str) -> None:
        """Note a node that has come to the cluster."""
        self._note(Event(kind="node joined", text=f"node {node} has joined the cluster", node=node))

    def node_lost(self, node: str) -> None:
        """Note a node that has left the cluster, after its workers and its relay."""
        seconds = self._on_nodes.pop(node, 0.0)
        self._note(Event(kind="node lost", text=f"node {node} was lost", seconds=seconds, node=node))

    def _note(self, event: Event) -> None:
        self.events.append(event)

    @property
    def too_many(self) -> str | None:
        """Why a run should end: more losses of workers within the window than it may have."""
        while self._losses and self._clock() - self._losses[0] > self._window:
            self._losses.popleft()
        if len(self._losses) <= self._most:
            return None
        return f"the loss of {len(self._losses)} workers within {self._window:g} s (the last: {self._reason})"

"""Events of workers, nodes and the head of the cluster during a run, with their cost: ``events.jsonl``."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.errors import CheckpointError
from cluster.runs.storage import room_for

EVENTS = "events.jsonl"

Kind = Literal[
    "worker lost",
    "worker hung",
    "worker slow",
    "worker replaced",
    "relay lost",
    "node joined",
    "node lost",
    "head lost",
]
LOSSES = ("worker lost", "worker hung", "relay lost", "head lost")  # a node's are those of its workers and relays


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event.

    Attributes:
        kind: what happened.
        text: a sentence about it.
        seconds: what it cost. Of a lost or hung worker: from when the oldest job that it held was given to it until
            that was given to another. Of a slow one: by how much its jobs took longer than usual. Of a replaced one:
            for how long the run was a worker short. Of a lost relay: from when the oldest job of its workers was given
            to them, or the oldest gradient that it held was computed, until they were given to others. Of a lost node:
            the sum over its workers and relays. Of a lost head: since its last answer.
        step: the outer step, where one is concerned.
        worker: number of the worker, if it is about one.
        node: the host's name and Ray's identity of the node, as far as known.
        time: seconds since 1970.
    """

    kind: Kind
    text: str
    seconds: float = 0.0
    step: int | None = None
    worker: int | None = None
    node: str | None = None
    time: float = field(default_factory=time.time)

    def as_json(self) -> dict[str, Any]:
        """The keys of a line of the file, and of the list ``events`` of a result."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


class EventLog:
    """Appends events to a run's file, made with the first of them; a line that a crash cut short is removed."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self.path = path
        self.count, self.seconds = 0, 0.0
        for event in read_events(path):
            self._add(event)
        self._followed = 0

    def _add(self, event: Event) -> None:
        if event.kind in LOSSES:
            self.count += 1
            self.seconds += event.seconds

    def follow(self, events: Sequence[Event]) -> bool:
        """Write those events of a growing list that are new since the last call; whether there were any."""
        new = events[self._followed :]
        self._followed = len(events)
        self.write(new)
        return bool(new)

    def write(self, events: Iterable[Event]) -> None:
        """Write events."""
        lines = []
        for event in events:
            self._add(event)
            lines.append(json.dumps(event.as_json()).encode() + b"\n")
        if not lines:
            return
        with room_for(self.path), self.path.open("ab") as file:
            file.truncate(_whole(self.path))
            file.write(b"".join(lines))


def _whole(path: Path) -> int:
    """Bytes of a file's whole lines."""
    return path.read_bytes().rfind(b"\n") + 1


def read_events(path: Path) -> list[Event]:
    """The events of a file, none if there is no such file; a last line that a crash cut short is passed over.

    Raises:
        CheckpointError: naming a line that is damaged.
    """
    lines = path.read_bytes()[: _whole(path)].splitlines() if path.exists() else []
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(Event(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}, line {number}: expected an event, received {line[:80].decode(errors='replace')!r}; restore "
                "the file or remove the line"
            ) from error
    return events


def summary(events: Iterable[Event]) -> dict[str, tuple[int, float]]:
    """Number and seconds of the events of each kind, in the order of their first."""
    totals: dict[str, tuple[int, float]] = {}
    for event in events:
        count, seconds = totals.get(event.kind, (0, 0.0))
        totals[event.kind] = (count + 1, seconds + event.seconds)
    return totals

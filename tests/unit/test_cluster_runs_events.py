"""The file of events: whole lines alone, appended across resumptions."""

from pathlib import Path

import pytest

from cluster.errors import CheckpointError
from cluster.runs.events import Event, EventLog, read_events, summary

LOST = Event(kind="worker lost", text="worker 3 was lost", seconds=1.5, step=7, worker=3, node="a (0b74)", time=10.0)
REPLACED = Event(kind="worker replaced", text="worker 3 was replaced", seconds=4.0, worker=3, time=14.0)


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert not log.path.exists()
    growing = [LOST]
    assert log.follow(growing)
    assert not log.follow(growing)
    growing.append(REPLACED)
    assert log.follow(growing)
    assert read_events(log.path) == [LOST, REPLACED]
    assert (log.count, log.seconds) == (1, 1.5), "a replacement is no loss"


def test_a_resumed_run_counts_on_and_removes_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write([LOST])
    with path.open("ab") as file:
        file.write(b'{"kind": "worker lo')
    assert read_events(path) == [LOST]
    log = EventLog(path)
    log.write([LOST])
    assert read_events(path) == [LOST, LOST]
    assert (log.count, log.seconds) == (2, 3.0)


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"kind": "worker lost", "colour": "blue"}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(CheckpointError, match="line 1: expected an event"):
        read_events(path)


def test_the_summary_adds_up_by_kind() -> None:
    assert summary([LOST, REPLACED, LOST]) == {"worker lost": (2, 3.0), "worker replaced": (1, 4.0)}

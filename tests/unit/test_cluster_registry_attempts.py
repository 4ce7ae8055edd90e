"""Comparisons with a champion are counted where all machines see it, and no two of them share a test task."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import MetarayError
from cluster.registry import attempts
from cluster.registry.attempts import FIRST_TASK, PREFIX, Attempt, reserve


class Tags:
    """The tags of one registered model, as MLflow's client shows them; each call is one at a time, as in a database."""

    def __init__(self, parties: int = 1) -> None:
        self.tags: dict[str, str] = {"owner": "someone"}
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(parties)
        self._met: set[int] = set()

    def get_registered_model(self, name: str) -> Any:
        with self._lock:
            return SimpleNamespace(tags=dict(self.tags))

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        if threading.get_ident() not in self._met:  # all have seen the same attempts before any writes its own
            self._met.add(threading.get_ident())
            self._meeting.wait(timeout=30)
        with self._lock:
            self.tags[key] = value

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        with self._lock:
            del self.tags[key]


def test_each_attempt_has_tasks_of_its_own() -> None:
    tags = Tags()
    made = [reserve(tags, "model", tasks) for tasks in (40, 600, 2)]
    assert made == [Attempt(1, FIRST_TASK), Attempt(2, FIRST_TASK + 40), Attempt(3, FIRST_TASK + 640)]
    assert sorted(int(value) for key, value in tags.tags.items() if key.startswith(PREFIX)) == [2, 40, 600]


def test_attempts_at_the_same_moment_share_no_task() -> None:
    parties, tasks = 4, [10, 20, 30, 40]
    tags = Tags(parties)
    with ThreadPoolExecutor(parties) as threads:
        made = list(threads.map(lambda count: reserve(tags, "model", count), tasks))
    assert len({attempt.number for attempt in made}) == parties
    ranges = [range(attempt.first, attempt.first + count) for attempt, count in zip(made, tasks, strict=True)]
    assert len({index for one in ranges for index in one}) == sum(tasks)
    assert sum(key.startswith(PREFIX) for key in tags.tags) == parties


def test_one_that_never_gets_its_turn_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PAUSE", 1)

    class Crowded(Tags):
        def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
            super().set_registered_model_tag(name, key, value)
            number = key.removeprefix(PREFIX).partition(".")[0]
            self.tags[f"{PREFIX}{number}.another"] = "5"

    with pytest.raises(MetarayError, match="20 times somebody else counted one"):
        reserve(Crowded(), "model", 5)

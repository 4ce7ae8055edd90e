"""When another version takes the place of the one that is served, and what is counted of requests."""

import asyncio
import logging
import threading
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.errors import MetarayError
from cluster.serving import reload
from cluster.serving.metrics import Measured, Metrics
from cluster.serving.reload import Reloader

SECONDS = 20.0


class Registry:
    """Stands for a registry whose alias moves; a look at it is awaited."""

    def __init__(self) -> None:
        self.version, self.broken, self.down = 1, set[int](), False
        self.loads: list[int] = []
        self._looks = threading.Semaphore(0)

    def resolve(self) -> tuple[str, int]:
        self._looks.release()
        if self.down:
            raise MetarayError("no answer of http://me:secret@registry")
        return "sine", self.version

    def load(self, name: str, version: int) -> Any:
        self.loads.append(version)
        if version in self.broken:
            raise MetarayError("expected θ, received none")
        return name, version

    def look(self, times: int = 2) -> None:
        """Wait for looks; the last may not be over, those before are."""
        while self._looks.acquire(blocking=False):
            pass
        for _ in range(times):
            assert self._looks.acquire(timeout=SECONDS)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def swapped() -> list[Any]:
    return []


@pytest.fixture
def noted() -> list[bool]:
    return []


@pytest.fixture
def reloader(registry: Registry, swapped: list[Any], noted: list[bool]) -> Any:
    found = Reloader(registry, 1, swapped.append, 0.001, noted.append)
    yield found
    found.close()
    assert not found._thread.is_alive()


def test_a_moved_alias_is_followed(registry: Registry, reloader: Reloader, swapped: list[Any], noted: list[bool]):
    registry.look()
    assert swapped == []
    for version in (3, 2):
        registry.version = version
        registry.look(3)
    assert swapped == [("sine", 3), ("sine", 2)]
    assert (reloader.failure, noted) == (None, [True, True])


def test_a_broken_version_is_tried_less_and_less_often(
    registry: Registry, reloader: Reloader, swapped: list[Any], noted: list[bool], caplog: pytest.LogCaptureFixture
):
    registry.broken = {2}
    with caplog.at_level(logging.WARNING):
        registry.version = 2
        registry.look(40)
    assert reloader.failure == "version 2: expected θ, received none"
    assert swapped == []
    assert 3 <= len(registry.loads) <= 7  # after 1, 3, 7, 15, … looks
    assert noted[0] is False
    assert [record.getMessage() for record in caplog.records] == [
        "version 1 is served on: version 2: expected θ, received none"
    ]
    registry.version = 3  # another one is tried at once
    registry.look(3)
    assert (swapped, reloader.failure) == ([("sine", 3)], None)


def test_an_alias_that_moves_back_is_no_failure(registry: Registry, reloader: Reloader):
    registry.broken, registry.version = {2}, 2
    registry.look(3)
    assert reloader.failure
    registry.version = 1
    registry.look(3)
    assert reloader.failure is None


def test_a_registry_that_is_down_changes_nothing(
    registry: Registry, reloader: Reloader, swapped: list[Any], caplog: pytest.LogCaptureFixture
):
    registry.down = True
    registry.look(5)
    assert reloader.failure == "no answer of http://***@registry"
    assert len(caplog.records) == 1
    registry.down, registry.version = False, 2
    registry.look(3)
    assert (swapped, reloader.failure) == ([("sine", 2)], None)


def test_a_swap_that_fails_is_a_version_that_is_not_served(registry: Registry, monkeypatch: pytest.MonkeyPatch):
    def refuse(served: Any) -> None:
        raise ValueError("it diverges")

    monkeypatch.setattr(reload, "LONGEST", 1)
    registry.version = 2
    reloader = Reloader(registry, 1, refuse, 0.001)
    try:
        registry.look(3)
        assert reloader.failure == "version 2: it diverges"
    finally:
        reloader.close()


def values(metrics: Metrics) -> dict[tuple[str, ...], float]:
    text, kind = metrics.exposed()
    assert kind.startswith("text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def ask(metrics: Metrics, status: int | None, kind: bytes = b"application/json", path: str = "/invocations") -> None:
    async def answering(scope: Any, receive: Any, send: Any) -> None:
        if status is None:
            raise RuntimeError("a fault")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "path": path, "headers": [(b"content-type", kind)]}
    asyncio.run(Measured(answering, metrics)(scope, receive, send))


def test_requests_are_counted_by_form_and_status():
    metrics = Metrics()
    for status, kind in ((200, b"application/json"), (400, b"application/x-npz"), (415, b"\xff/nonsense")):
        ask(metrics, status, kind)
    ask(metrics, 200, b"Multipart/Form-Data; boundary=x")
    ask(metrics, 200, path="/health")
    with pytest.raises(RuntimeError):
        ask(metrics, None)
    found = values(metrics)
    assert {key[1:]: value for key, value in found.items() if key[0] == "metaray_requests_total"} == {
        ("200", "json"): 1,
        ("400", "npz"): 1,
        ("415", "other"): 1,
        ("200", "images"): 1,
        ("500", "json"): 1,
    }
    assert found["metaray_request_seconds_count", "json"] == 2


def test_figures_are_looked_up_when_they_are_asked_for():
    metrics, waiting = Metrics(), [0]
    metrics.gauge("requests_waiting", "Questions that wait.", lambda: waiting[0])
    metrics.serves("sine", 1)
    assert values(metrics)["metaray_requests_waiting",] == 0
    waiting[0] = 7
    metrics.serves("sine", 2)
    metrics.batch(3)
    metrics.batch(40)
    metrics.reloaded(False)
    found = values(metrics)
    assert found["metaray_requests_waiting",] == 7
    assert [key for key in found if key[0] == "metaray_model_info"] == [("metaray_model_info", "2", "sine")]
    assert (found["metaray_tasks_total",], found["metaray_batch_tasks_bucket", "4.0"]) == (43, 1)
    assert (found["metaray_reloads_total", "failed"], found["metaray_reloads_total", "loaded"]) == (1, 0)

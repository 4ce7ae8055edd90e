"""Counts and times of a server, in the form that Prometheus reads at ``/metrics``.

Labels are of bounded sets: forms of requests, statuses of HTTP, and the one model that is served.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from cluster.serving.forms import NAMES, media_type

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TASKS = (1, 2, 4, 8, 16, 32, 64)
OTHER = "other"
ASKED = "/invocations"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        """All at zero."""
        self._registry = CollectorRegistry()
        named: dict[str, Any] = {"namespace": "metaray", "registry": self._registry}
        self._requests = Counter("requests", "Questions answered or refused.", ("form", "status"), **named)
        self._seconds = Histogram(
            "request_seconds", "From a question's first byte to its answer's last.", ("form",), buckets=SECONDS, **named
        )
        self._batch = Histogram("batch_tasks", "Tasks that are adapted to in one go.", buckets=TASKS, **named)
        self._tasks = Counter("tasks", "Tasks that were adapted to.", **named)
        self._model = Info("model", "The model that is served.", **named)
        self._reloads = Counter(
            "reloads", "Versions that were loaded in place of another, or failed to.", ("result",), **named
        )
        for name in ("loaded", "failed"):
            self._reloads.labels(name)
        for form in (*NAMES.values(), OTHER):
            self._seconds.labels(form)
        ProcessCollector(registry=self._registry)  # processor time, memory, open files
        PlatformCollector(registry=self._registry)

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Add a figure that is read each time the metrics are requested.

        Args:
            name: of the figure.
            meaning: its help text.
            read: returns its value.
        """
        Gauge(name, meaning, namespace="metaray", registry=self._registry).set_function(read)

    def serves(self, name: str, version: int) -> None:
        """Set the model that is served from now on.

        Args:
            name: of the registered model.
            version: its number.
        """
        self._model.info({"name": name, "version": str(version)})

    def answered(self, form: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            form: of its body.
            status: HTTP status.
            seconds: time from the request to the answer.
        """
        self._requests.labels(form, str(status)).inc()
        self._seconds.labels(form).observe(seconds)

    def batch(self, tasks: int) -> None:
        """Count tasks that are adapted to in one go."""
        self._batch.observe(tasks)
        self._tasks.inc(tasks)

    def reloaded(self, loaded: bool) -> None:
        """Count a version that took another's place, or failed to."""
        self._reloads.labels("loaded" if loaded else "failed").inc()

    def exposed(self) -> tuple[bytes, str]:
        """All figures as text, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class Measured:
    """An ASGI application that counts and times the questions to another."""

    def __init__(self, app: Application, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note its answer's status."""
        if scope["type"] != "http" or scope["path"] != ASKED:
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500  # what is raised becomes one

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.answered(_form(scope), status, time.perf_counter() - began)


def _form(scope: Scope) -> str:
    header = next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"")
    return NAMES.get(media_type(header.decode("latin-1")), OTHER)

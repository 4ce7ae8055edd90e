"""The HTTP side: MLflow's form of scoring, limits on what is taken on, and a reason for whatever is refused."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.registry.adapting import Adaptable
from cluster.serving.batching import Batcher
from cluster.serving.forms import require_form, written
from cluster.serving.limits import Limits, Refused
from cluster.serving.openapi import describe
from cluster.serving.requests import read

RETRY = 1  # seconds after which a caller that was turned away may try again

CODES = {404: "ENDPOINT_NOT_FOUND", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


@dataclass(frozen=True, kw_only=True)
class Described:
    """What is served.

    Attributes:
        name: of the registered model.
        version: of it.
        card: its description.
        model: the model itself.
    """

    name: str
    version: int
    card: str
    model: Adaptable


class Service:
    """Answers requests, as many at a time as the limits let it."""

    def __init__(self, served: Described, limits: Limits, threads: int) -> None:
        """Start the threads that adapt."""
        self._served, self._limits = served, limits
        self._batcher = Batcher(served.model, threads)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")  # bodies are large, and lists of numbers larger
        self._openapi = describe(served.model, served.name, served.version, limits)
        self._inside = 0
        self.is_stopping = False

    def app(self) -> Starlette:
        """The ASGI application; the threads end with it."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            del app
            yield
            self._batcher.close()
            self._reader.shutdown()

        routes = [
            Route("/invocations", self._invocations, methods=["POST"]),
            Route("/health", self._health),
            Route("/ping", self._health),  # MLflow's other name for it
            Route("/ready", self._ready),
            Route("/model", self._model),
            Route("/openapi.json", self._description),
        ]
        handlers: Mapping[Any, Callable[[Request, Any], Awaitable[Response]]] = {
            Refused: _refused,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _fault,  # it is logged after that
        }
        return Starlette(routes=routes, exception_handlers=dict(handlers), lifespan=lifespan)

    async def _invocations(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            await self._body(request, keep=False)
            raise refusal
        self._inside += 1
        try:
            return await self._answer(await self._body(request, keep=True), request.headers)
        finally:
            self._inside -= 1

    def _refusal(self, request: Request) -> Refused | None:
        """Why a request is not looked at, if there is a reason."""
        try:
            require_form(request.headers.get("content-type", ""), self._served.model)
        except Refused as refusal:
            return refusal
        if self._inside >= self._limits.requests:
            return Refused(503, f"{self._inside} requests are read, wait or are computed; try again in {RETRY} s")
        return None

    async def _body(self, request: Request, *, keep: bool) -> bytes:
        """The body. What is not kept is received all the same: a caller that is still sending hears no answer."""
        most, seconds = self._limits.body_bytes, self._limits.seconds
        keep = keep and int(request.headers.get("content-length", "0")) <= most  # digits, the protocol has seen to that
        parts, size = [], 0
        try:
            async with asyncio.timeout(seconds):
                async for part in request.stream():
                    size += len(part)
                    if keep and size <= most:
                        parts.append(part)
                    if size > 2 * most:
                        break
        except TimeoutError:
            raise Refused(408, f"body: expected it whole within {seconds:g} s, received {size} bytes") from None
        if size > most:
            raise Refused(413, f"body: expected at most {most} bytes, received more; ask in parts")
        return b"".join(parts)

    async def _answer(self, body: bytes, headers: Mapping[str, str]) -> Response:
        loop, limits = asyncio.get_running_loop(), self._limits
        kind = headers.get("content-type", "")
        question = await loop.run_in_executor(self._reader, read, body, kind, self._served.model, limits)
        answer = self._batcher.ask(question)
        try:
            async with asyncio.timeout(limits.seconds):
                predictions = await asyncio.wrap_future(answer)
        except TimeoutError:
            if answer.cancel():
                raise Refused(503, f"waited {limits.seconds:g} s for others to be answered; try again later") from None
            raise Refused(
                504, f"expected an answer within {limits.seconds:g} s; take fewer tasks or inner_steps"
            ) from None
        answer_body, media_type = written(predictions, headers.get("accept", ""))
        return Response(answer_body, media_type=media_type)

    async def _health(self, request: Request) -> Response:
        del request
        alive = self._batcher.is_alive
        return _json({"status": "ok" if alive else "a thread that adapts has died"}, 200 if alive else 503)

    async def _ready(self, request: Request) -> Response:
        del request
        full = self._inside >= self._limits.requests
        ready = self._batcher.is_alive and not full and not self.is_stopping
        return _json({"ready": ready, "requests": self._inside}, 200 if ready else 503)

    async def _model(self, request: Request) -> Response:
        del request
        served = self._served
        model = served.model
        return _json(
            {
                "name": served.name,
                "version": served.version,
                "card": served.card,
                "inputs": [field._asdict() for field in model.inputs],
                "output": model.output._asdict(),
                "params": {"inner_steps": model.inner_steps, "inner_lr": model.inner_lr},
                "limits": vars(self._limits),
            }
        )

    async def _description(self, request: Request) -> Response:
        del request
        return _json(self._openapi)


def _json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: a caller's broken letters, quoted in a reason, have no other form."""
    body = json.dumps(content, allow_nan=False)
    return Response(body, status, headers, media_type="application/json")


def _error(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"error_code": CODES.get(status, "BAD_REQUEST"), "message": reason}, status, headers)


async def _refused(request: Request, error: Refused) -> Response:
    del request
    return _error(error.status, error.reason, {"Retry-After": str(RETRY)} if error.status == 503 else None)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}", error.headers)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    del request, error
    return Response(status_code=400)  # nobody is there to read it


async def _fault(request: Request, error: Exception) -> Response:
    del request
    return _error(500, f"expected an answer, received {type(error).__name__}; see the server's log")

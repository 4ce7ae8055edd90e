"""The HTTP side: MLflow's form of scoring, limits on what is taken on, and a reason for whatever is refused."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.registry.adapting import Adaptable
from cluster.serving.access import Access, Write
from cluster.serving.auth import is_allowed
from cluster.serving.batching import Answer, Batcher, Dropped
from cluster.serving.encoding import content_encoding, require_encoding, unpacked
from cluster.serving.estimates import Estimates, Need
from cluster.serving.limits import Limits, Refused
from cluster.serving.memory import Held, Memory, Trimmer, reading_bytes, shown
from cluster.serving.openapi import describe
from cluster.serving.receiving import Receiver, gone, media_type, require_media_type
from cluster.serving.requests import Question, read

TYPES = ("application/json",)
OPEN = ("/health", "/ping", "/ready")  # without a token: who starts and stops servers asks these
PIECE = 2**18  # bytes of an answer
TRIM = 1.0  # seconds between two looks at how much memory has gathered
RETRY = 1  # seconds after which a caller that was turned away may try again

CODES = {
    401: "UNAUTHENTICATED",
    404: "ENDPOINT_NOT_FOUND",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


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

    def __init__(
        self, served: Described, limits: Limits, threads: int, token: bytes | None = None, log: Write | None = None
    ) -> None:
        """Start the threads that adapt.

        Args:
            served: what is served.
            limits: what is accepted.
            threads: that adapt.
            token: that callers have to show for all but :data:`OPEN`.
            log: writes a line for each request.
        """
        self._served, self._limits, self._token, self.log = served, limits, token, log
        self._memory = Memory(limits.memory)
        self._estimates = Estimates(served.model, self._memory.work.total // threads)
        self._batcher = Batcher(served.model, threads, self._memory)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")  # bodies are large, and lists of numbers larger
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")  # what is answered waits for no reading
        self._receiver = Receiver(limits)
        self._trimmer = Trimmer(limits.memory)
        self._openapi = describe(served.model, served.name, served.version, limits)
        self._inside = self._arriving = 0
        self.has_token = token is not None
        self.is_stopping = False

    def app(self) -> ASGIApp:
        """The ASGI application; the threads end with it."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            del app
            trimming = asyncio.create_task(self._trim())
            yield
            trimming.cancel()
            self._batcher.close()
            self._reader.shutdown()
            self._writer.shutdown()

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
        app = Starlette(routes=routes, exception_handlers=dict(handlers), lifespan=lifespan)
        return Access(Authenticated(app, self._token), self.log)

    async def _trim(self) -> None:
        """Give memory back after every burst."""
        while True:
            await asyncio.sleep(TRIM)
            at_rest = not self._inside and not self._arriving
            if self._trimmer.is_due(at_rest=at_rest):
                await asyncio.to_thread(self._trimmer.trim, at_rest=at_rest)

    async def _invocations(self, request: Request) -> Response:
        with Held(self._memory.inbound) as held:  # what is written takes over from it
            self._arriving += 1
            try:
                if refusal := self._refusal(request):
                    await self._receiver.discard(request)
                    raise refusal
                body = [await self._receiver.body(request, held)]
            finally:
                self._arriving -= 1
            if refusal := self._full():
                raise refusal
            self._inside += 1
            try:
                return await self._answer(request, body, held)
            finally:
                self._inside -= 1

    def _refusal(self, request: Request) -> Refused | None:
        """Why a request is not looked at, if there is a reason."""
        try:
            require_media_type(media_type(request), TYPES)
            require_encoding(content_encoding(request))
        except Refused as error:
            return error
        return self._full()

    def _full(self) -> Refused | None:
        if self._inside >= self._limits.requests:
            return Refused(503, f"{self._inside} requests are read, wait or are computed; try again in {RETRY} s")
        return None

    async def _answer(self, request: Request, body: list[bytes], held: Held) -> Response:
        """Read, adapt and write, unless the caller goes or the time is over; ``body`` is emptied once it is read."""
        asking = Asking(self._batcher)
        encoding = content_encoding(request)
        answered = asyncio.ensure_future(self._answered(asking, body, encoding, held))
        left = asyncio.ensure_future(gone(request))
        try:
            await asyncio.wait({answered, left}, timeout=self._limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                return answered.result()
            waited = asking.drop() and not asking.is_reading
            if left.done():
                raise ClientDisconnect
        finally:
            answered.cancel()
            left.cancel()
        seconds = self._limits.seconds
        if waited:
            raise Refused(503, f"waited {seconds:g} s for others to be answered; try again later")
        raise Refused(504, f"expected an answer within {seconds:g} s; take fewer tasks or inner_steps")

    async def _answered(self, asking: "Asking", body: list[bytes], encoding: str, held: Held) -> Response:
        loop = asyncio.get_running_loop()
        question, need = await loop.run_in_executor(self._reader, self._read, asking, body, encoding, held)
        answer = asking.ask(question, need)
        predictions = await asyncio.wrap_future(answer)
        text = await loop.run_in_executor(self._writer, _written, predictions)
        return Pieces(text, held)

    def _read(self, asking: "Asking", body: list[bytes], encoding: str, held: Held) -> tuple[Question, Need]:
        """The question in a body, and what memory it needs.

        Raises:
            Refused: 413 if it needs more than there is at all, 503 if it is taken by others.
        """
        asking.is_reading = True
        asking.proceed()
        whole = unpacked(body.pop(), encoding, self._limits.body_bytes)
        work, most = self._memory.work, self._limits.memory
        if (count := reading_bytes(whole)) > work.total:
            raise Refused(413, f"reading this body may take {shown(count)}; {_more(work.total, most)}")
        with work.held(count, asking.proceed):
            question = read(whole, self._served.model, self._limits)
            del whole
            need = self._estimates.of(question)
        if (count := need.work(question.tasks, 1)) > work.total:
            reason = f"{question.tasks} tasks of this size take about {shown(count)} of memory"
            raise Refused(413, f"{reason}; {_more(work.total, most)}")
        resting = sum(array.nbytes for array in question.arrays.values()) + need.answer * question.tasks
        if resting > self._memory.inbound.total:
            reason = f"the arrays and the answer of this request take about {shown(resting)} of memory"
            raise Refused(413, f"{reason}; {_more(self._memory.inbound.total, most)}")
        if not held.try_set(resting):
            raise Refused(503, f"{shown(resting)} of memory are taken by other requests; try again in {RETRY} s")
        asking.is_reading = False
        return question, need

    async def _health(self, request: Request) -> Response:
        del request
        alive = self._batcher.is_alive
        return _json({"status": "ok" if alive else "a thread that adapts has died"}, 200 if alive else 503)

    async def _ready(self, request: Request) -> Response:
        del request
        full = self._inside >= self._limits.requests
        ready = self._batcher.is_alive and not full and not self.is_stopping
        content = {"ready": ready, "requests": self._inside, "arriving": self._arriving}
        return _json(content, 200 if ready else 503)

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


class Pieces(Response):
    """An answer in pieces: the next is written when the caller has read the one before. Memory is held to the end."""

    def __init__(self, text: bytes, held: Held) -> None:
        super().__init__(text, media_type="application/json")
        self._held = held.moved()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        del scope, receive
        with self._held:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            text, self.body = self.body, b""
            for first in range(0, len(text), PIECE):
                more = first + PIECE < len(text)
                await send({"type": "http.response.body", "body": text[first : first + PIECE], "more_body": more})


class Asking:
    """A question on its way through the server, and whether somebody waits for the answer."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._answer: Answer | None = None
        self._is_dropped = self.is_reading = False

    def ask(self, question: Question, need: Need) -> Answer:
        """The answer to come."""
        self._answer = self._batcher.ask(question, need)
        return self._answer

    def drop(self) -> bool:
        """End it as soon as possible; whether nothing had been computed."""
        self._is_dropped = True
        return self._answer is None or self._batcher.drop(self._answer)

    def proceed(self) -> None:
        """Raise :class:`Dropped` if nobody waits."""
        if self._is_dropped:
            raise Dropped


def _more(part: int, most: int) -> str:
    return (
        f"expected at most {shown(part)} of the server's {shown(most)}; send fewer or smaller examples and queries, or "
        "start the server with more --memory"
    )


def _written(predictions: NDArray[Any]) -> bytes:
    return json.dumps({"predictions": predictions.tolist()}, allow_nan=False).encode("ascii")


def _json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: a caller's broken letters, quoted in a reason, have no other form."""
    body = json.dumps(content, allow_nan=False)
    return Response(body, status, headers, media_type="application/json")


def _error(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"error_code": CODES.get(status, "BAD_REQUEST"), "message": reason}, status, headers)


class Authenticated:
    """Lets those through who show the token; nothing of others is read."""

    def __init__(self, app: ASGIApp, token: bytes | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
            if not is_allowed(given[0] if len(given) == 1 else None, self._token):
                reason = "Authorization: expected Bearer and the token of this server, received none or another"
                await _error(401, reason, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


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

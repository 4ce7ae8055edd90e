"""The HTTP side: MLflow's form of scoring, limits on requests, and refusals with a reason."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cluster.serving.access import Access, Write
from cluster.serving.answers import HANDLERS, RETRY, Authenticated, Pieces, as_json
from cluster.serving.batching import Answer, Dropped
from cluster.serving.bodies import Health, Ready
from cluster.serving.encoding import content_encoding, require_encoding, unpacked
from cluster.serving.estimates import Need
from cluster.serving.forms import require_form, written
from cluster.serving.limits import Limits, Refused
from cluster.serving.live import Described, Live, card_of
from cluster.serving.memory import Held, Memory, Trimmer, shown
from cluster.serving.metrics import Measured, Metrics
from cluster.serving.receiving import Receiver, gone
from cluster.serving.reload import Reloader
from cluster.serving.requests import Question, read, reading_bytes

TRIM = 1.0  # seconds between two looks at how much memory has gathered


class Service:
    """Answers requests, as many at a time as the limits let it."""

    def __init__(
        self,
        served: Described,
        limits: Limits,
        threads: int,
        token: bytes | None = None,
        log: Write | None = None,
        reload: float = 0.0,
    ) -> None:
        """Start the threads that adapt.

        Args:
            served: what is served.
            limits: what is accepted.
            threads: that adapt.
            token: that callers have to show for all but :data:`OPEN`.
            log: writes a line for each request.
            reload: seconds between two looks whether another version is to be served; 0: there are none.
        """
        self._limits, self._threads, self._token, self.log = limits, threads, token, log
        self._memory = Memory(limits.memory)
        self.metrics = Metrics()
        self._live = Live(served, limits, threads, self._memory, self.metrics)
        self._reload = reload
        self._reloader: Reloader | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")  # bodies are large, and lists of numbers larger
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")  # what is answered waits for no reading
        self._receiver = Receiver(limits)
        self._trimmer = Trimmer(limits.memory)
        self._inside = self._arriving = 0
        self.has_token = token is not None
        self.is_stopping = False
        self._measure()

    def _measure(self) -> None:
        """Name the figures that are looked up when they are asked for."""
        served = self._live.served
        self.metrics.serves(served.name, served.version)
        for name, meaning, read_it in (
            ("requests_inside", "Questions that are read, wait or are computed.", lambda: self._inside),
            ("requests_arriving", "Questions of which not all has arrived.", lambda: self._arriving),
            ("requests_waiting", "Questions that wait to be computed.", lambda: self._live.batcher.waiting),
            ("compiled_programs", "Kinds of question that are compiled.", lambda: self._live.batcher.compiled),
            ("memory_held_bytes", "Memory that questions hold.", lambda: self._memory.used),
        ):
            self.metrics.gauge(name, meaning, read_it)

    def app(self) -> ASGIApp:
        """The ASGI application; the threads end with it."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            del app
            trimming = asyncio.create_task(self._trim())
            self._loop, served = asyncio.get_running_loop(), self._live.served
            if served.source is not None and self._reload:
                self._reloader = Reloader(
                    served.source, served.version, self._serve_instead, self._reload, self.metrics.reloaded
                )
            yield
            trimming.cancel()
            if self._reloader is not None:
                await asyncio.to_thread(self._reloader.close)
            self._live.batcher.close()
            self._reader.shutdown()
            self._writer.shutdown()

        routes = [
            Route("/invocations", self._invocations, methods=["POST"]),
            Route("/health", self._health),
            Route("/ping", self._health),  # MLflow's other name for it
            Route("/ready", self._ready),
            Route("/model", self._model),
            Route("/openapi.json", self._description),
            Route("/metrics", self._metrics),
        ]
        app = Starlette(routes=routes, exception_handlers=dict(HANDLERS), lifespan=lifespan)
        return Access(Measured(Authenticated(app, self._token), self.metrics), self.log)

    def _serve_instead(self, served: Described) -> None:
        """Serve another version from now on; those who asked the one before are answered by it."""
        live = Live(served, self._limits, self._threads, self._memory, self.metrics)
        try:
            live.warm(self._live)
        except BaseException:
            live.retire()
            raise
        asyncio.run_coroutine_threadsafe(self._exchange(live), self._loop).result()

    async def _exchange(self, live: Live) -> None:
        """Between two requests: whoever has entered the version before is answered by it."""
        before, self._live = self._live, live
        before.retire()
        self.metrics.serves(live.served.name, live.served.version)

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
                with self._live as live:  # to the end, whatever is served meanwhile
                    return await self._answer(live, request, body, held)
            finally:
                self._inside -= 1

    def _refusal(self, request: Request) -> Refused | None:
        """The refusal of a request that is not to be read; None if it is accepted."""
        try:
            require_form(request.headers.get("content-type", ""), self._live.served.model)
            require_encoding(content_encoding(request))
        except Refused as error:
            return error
        return self._full()

    def _full(self) -> Refused | None:
        if self._inside >= self._limits.requests:
            return Refused(503, f"{self._inside} requests are read, wait or are computed; try again in {RETRY} s")
        return None

    async def _answer(self, live: Live, request: Request, body: list[bytes], held: Held) -> Response:
        """Read, adapt and write, unless the caller goes or the time is over; ``body`` is emptied once it is read."""
        asking = Asking(live, request)
        answered = asyncio.ensure_future(self._answered(asking, body, held))
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

    async def _answered(self, asking: "Asking", body: list[bytes], held: Held) -> Response:
        loop = asyncio.get_running_loop()
        question, need = await loop.run_in_executor(self._reader, self._read, asking, body, held)
        answer = asking.ask(question, need)
        predictions = await asyncio.wrap_future(answer)
        asking.live.remember(question)
        text, kind = await loop.run_in_executor(self._writer, written, predictions, asking.accept)
        return Pieces(text, kind, asking.live.served.version, held)

    def _read(self, asking: "Asking", body: list[bytes], held: Held) -> tuple[Question, Need]:
        """The question in a body, and what memory it needs.

        Raises:
            Refused: 413 if it needs more than there is at all, 503 if it is taken by others.
        """
        asking.is_reading = True
        asking.proceed()
        whole = unpacked(body.pop(), asking.encoding, self._limits.body_bytes)
        work, most = self._memory.work, self._limits.memory
        if (count := reading_bytes(whole, asking.content_type, self._limits)) > work.total:
            raise Refused(413, f"reading this body may take {shown(count)}; {_more(work.total, most)}")
        with work.held(count, asking.proceed):
            question = read(whole, asking.content_type, asking.live.served.model, self._limits)
            del whole
            need = asking.live.estimates.of(question)
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
        alive = self._live.batcher.is_alive
        health = Health(status="ok" if alive else "a thread that adapts has died")
        return as_json(vars(health), 200 if alive else 503)

    async def _ready(self, request: Request) -> Response:
        del request
        full = self._inside >= self._limits.requests
        ready = self._live.batcher.is_alive and not full and not self.is_stopping
        failure = self._reloader.failure if self._reloader else None
        state = Ready(ready=ready, requests=self._inside, arriving=self._arriving, warning=failure or None)
        content = {name: value for name, value in vars(state).items() if value is not None}
        return as_json(content, 200 if ready else 503)

    async def _model(self, request: Request) -> Response:
        del request
        reload = {"seconds": self._reload, "failure": self._reloader.failure} if self._reloader else None
        return as_json({**card_of(self._live.served), "limits": vars(self._limits), "reload": reload})

    async def _description(self, request: Request) -> Response:
        del request
        return as_json(self._live.description)

    async def _metrics(self, request: Request) -> Response:
        del request
        text, kind = await asyncio.to_thread(self.metrics.exposed)
        return Response(text, media_type=kind)


class Asking:
    """A question on its way through the server, and whether somebody waits for the answer.

    Attributes:
        live: the version that answers.
        content_type: of the body.
        encoding: of the body.
        accept: in which form it is to be answered.
    """

    def __init__(self, live: Live, request: Request) -> None:
        self.live = live
        self.content_type, self.accept = (request.headers.get(name, "") for name in ("content-type", "accept"))
        self.encoding = content_encoding(request)
        self._answer: Answer | None = None
        self._is_dropped = self.is_reading = False

    def ask(self, question: Question, need: Need) -> Answer:
        """A future of the predictions for a question.

        Args:
            question: checked arrays, inner steps and α.
            need: memory that the answer takes.
        """
        self._answer = self.live.batcher.ask(question, need)
        return self._answer

    def drop(self) -> bool:
        """End it as soon as possible; whether nothing had been computed."""
        self._is_dropped = True
        return self._answer is None or self.live.batcher.drop(self._answer)

    def proceed(self) -> None:
        """Raise :class:`Dropped` if nobody waits."""
        if self._is_dropped:
            raise Dropped


def _more(part: int, most: int) -> str:
    return (
        f"expected at most {shown(part)} of the server's {shown(most)}; send fewer or smaller examples and queries, or "
        "start the server with more --memory"
    )

"""Connections: strict HTTP/1.1, deadlines for callers that send or read slowly, and a limit on how many are open.

uvicorn answers a request once its header is there; until then, and once the answer is written, nothing of it bounds
how long a connection may take, and an idle one is closed only after its first answer.
"""

import asyncio
import json
import logging
import re
import time
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cluster.serving.access import Write, line
from cluster.serving.limits import Limits

MOST_HEADERS = 100  # lines of a header
HEADER_BYTES = 32 * 2**10  # of a header, and of the extensions of a chunk
OVERHEAD = 4  # times the limit of a body may be received for it, chunks and their extensions included
LINGER = 2.0  # seconds in which the rest of a refused body is received, so that the answer is not lost
SURE = 1.0  # seconds after which a body on its way may have to make room for other connections
ABSOLUTE = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
LOGGED, WINDOW = 5, 10.0  # lines of one kind in so many seconds


class StrictConnection(h11.Connection):
    """Refuses what programs before or behind a server might read in another way.

    Attributes:
        problem: status and reason of the error that was raised.
    """

    problem: tuple[int, str] = (400, "expected HTTP/1.1, received something else")

    def next_event(self) -> Any:
        """The next event.

        Raises:
            h11.RemoteProtocolError: if the caller sends what is no HTTP, or ambiguous.
        """
        try:
            if self.their_state is h11.IDLE:
                _require_plain(self.trailing_data[0])
            event = super().next_event()
            return _origin_form(event) if isinstance(event, h11.Request) else event
        except h11.RemoteProtocolError as error:
            if self.their_state is not h11.ERROR:
                self._process_error(h11.CLIENT)
            self.problem = (error.error_status_hint, str(error))
            raise


def _require_plain(received: bytes) -> None:
    """Check the lines of a header, once it is complete; h11 takes more than the standard does."""
    start = re.match(rb"[\r\n]*", received)
    first = start.end() if start else 0
    end = re.search(rb"\n\r?\n", received[first:])
    if end is None:
        if len(received) > HEADER_BYTES:
            raise h11.RemoteProtocolError(f"header: expected at most {HEADER_BYTES} bytes", error_status_hint=431)
        return
    header = received[first : first + end.end()]
    if len(header) > HEADER_BYTES or header.count(b"\n") > MOST_HEADERS + 2:
        reason = f"header: expected at most {MOST_HEADERS} lines and {HEADER_BYTES} bytes"
        raise h11.RemoteProtocolError(reason, error_status_hint=431)
    if re.search(rb"(?<!\r)\n", header):
        raise h11.RemoteProtocolError("header: expected lines that end with CR LF, received LF alone")
    if re.search(rb"\n[ \t]", header):
        raise h11.RemoteProtocolError("header: expected one line for each name, received a continued one")


def _origin_form(request: h11.Request) -> h11.Request:
    """The request with a path as its target.

    Raises:
        h11.RemoteProtocolError: if it is ambiguous or of another version.
    """
    headers = dict(request.headers.raw_items())
    names = [bytes(name).lower() for name in headers]
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            raise h11.RemoteProtocolError("expected Content-Length or Transfer-Encoding, received both")
        if request.http_version < b"1.1":
            raise h11.RemoteProtocolError("Transfer-Encoding: expected HTTP/1.1, received HTTP/1.0")
    if request.http_version not in (b"1.0", b"1.1"):
        raise h11.RemoteProtocolError("expected HTTP/1.0 or 1.1, received another version", error_status_hint=505)
    for name, value in request.headers:
        if name == b"expect" and value.strip().lower() != b"100-continue":
            raise h11.RemoteProtocolError("Expect: expected 100-continue, received another", error_status_hint=417)
    absolute = ABSOLUTE.match(request.target)
    if absolute is None:
        return request
    rest = request.target[absolute.end() :]
    target = rest if rest.startswith(b"/") else b"/" + rest
    return h11.Request(
        method=request.method, headers=list(request.headers), target=target, http_version=request.http_version
    )


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with deadlines. A class of its own is made for each server, see :func:`guarded`."""

    limits: ClassVar[Limits]
    log: Write | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Not yet connected."""
        super().__init__(*args, **kwargs)
        self.conn = StrictConnection(h11.SERVER, HEADER_BYTES)
        self.since = self.loop.time()
        self.answered = 0
        self._received = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being received or answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_receiving(self) -> bool:
        """Whether a body is on its way."""
        return not self.is_waiting and self.conn.their_state is h11.SEND_BODY

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a header; another connection is closed if there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=1, low=0)  # anything unsent has a deadline; TLS would pause at 0 bytes
        self._await_header()
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._cancel_timers()

    def _cancel_timers(self) -> None:
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = self._write_timer = None

    def _make_room(self) -> None:
        """Close the connection that has waited longest, one that was never answered first; else a slow body's."""
        now = self.loop.time()
        others: list[Any] = [other for other in self.connections if other is not self]
        waiting = [other for other in others if other.is_waiting]
        slow = [other for other in others if other.is_receiving and now - other.since > SURE]
        if waiting:
            self._discard(min(waiting, key=lambda other: (other.answered > 0, other.since)))
        elif slow:
            self._discard(min(slow, key=lambda other: other.since))
        else:
            self.refuse(503, f"{len(others)} connections are open and busy; try again later")

    def _discard(self, other: "GuardedProtocol") -> None:
        self.connections.discard(other)  # now, not only once it is closed
        other.transport.abort()

    def _await_header(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.limits.header_seconds, self._header_late)

    def _header_late(self) -> None:
        self._header_timer = None
        if self.transport.is_closing() or not self.is_waiting:
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self.refuse(408, f"header: expected it whole within {self.limits.header_seconds:g} s")
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Bytes of a header or a body."""
        if self.transport.is_closing():
            return
        was_waiting = self.is_waiting
        self._received += len(data)
        super().data_received(data)
        if self.is_waiting:
            self._await_header()
            return
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        if was_waiting:
            self.since, self._received = self.loop.time(), len(data)
        elif self._received > OVERHEAD * self.limits.body_bytes + 2**20:
            self.transport.close()  # chunks of next to nothing

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request; uvicorn calls this."""
        del msg
        self.refuse(*self.conn.problem)  # type: ignore[attr-defined]

    def refuse(self, status: int, reason: str) -> None:
        """Send a refusal before a request has been read, and close the connection.

        Args:
            status: HTTP status.
            reason: a sentence for the caller.
        """
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(
                {"error_code": "BAD_REQUEST" if status < 500 else "TEMPORARILY_UNAVAILABLE", "message": reason[:1000]}
            ).encode("ascii")
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode("ascii")),
                (b"connection", b"close"),
            ]
            phrase = HTTPStatus(status).phrase.encode("ascii")
            events = (
                h11.Response(status_code=status, headers=headers, reason=phrase),
                h11.Data(body),
                h11.EndOfMessage(),
            )
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
            if self.log is not None:
                self.log(line(self.client, method="-", path="-", status=status))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of a body that was refused."""
        self.answered += 1
        self.since = self.loop.time()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.loop.call_later(LINGER, self._end_refused)

    def _end_refused(self) -> None:
        if self.is_waiting and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as if no upgrade had been asked for, which is the standard; two lines a request help nobody."""

    def pause_writing(self) -> None:
        """Give a caller that does not read some time."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """All is sent."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def guarded(limits: Limits, log: Write | None) -> type[GuardedProtocol]:
    """The protocol class of one server.

    Args:
        limits: of connections and requests.
        log: writes the access log, None: there is none.
    """
    return type("Guarded", (GuardedProtocol,), {"limits": limits, "log": staticmethod(log) if log else None})


class Seldom(logging.Filter):
    """Lets a few lines of each kind through in a while, and says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, list[float]] = {}  # began, passed, left out

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        now, key = time.monotonic(), str(record.msg)[:100]
        if len(self._kinds) > 1000:
            self._kinds.clear()
        kind = self._kinds.setdefault(key, [now, 0, 0])
        if now - kind[0] > WINDOW:
            if kind[2]:
                record.msg = f"{record.msg} ({kind[2]:.0f} more of these were left out)"
            self._kinds[key] = [now, 1, 0]
            return True
        kind[1 if kind[1] < LOGGED else 2] += 1
        return kind[2] == 0

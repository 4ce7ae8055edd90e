"""A request's body, within its limits of size, time, speed and memory."""

import asyncio
import time

from starlette.requests import ClientDisconnect, Request

from cluster.serving.limits import Limits, Refused
from cluster.serving.memory import Held, shown


class Receiver:
    """Receives bodies."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def body(self, request: Request, held: Held) -> bytes:
        """The whole body of a request; ``held`` then holds memory for it.

        Args:
            request: the request.
            held: the request's share of the server's memory.

        Raises:
            Refused: 408 if it comes too slowly, 413 if it is too large, 503 if no memory is left for it.
            ClientDisconnect: if the caller is gone.
        """
        most, parts, size = self._limits.body_bytes, list[bytes](), 0
        if length(request) > most:
            await self.discard(request)
            raise self._too_large(f"{length(request)} bytes")
        began, more = time.monotonic(), True
        while more:
            part, more = await self._part(request, began, size)
            size += len(part)
            refusal = self._too_large("more") if size > most else None
            if refusal is None and not held.try_set(2 * size):  # the parts, and the whole
                refusal = Refused(503, f"memory for {shown(2 * size)} of body is taken by others; try again later")
            if refusal is not None:
                parts.clear()
                held.try_set(0)
                if more:
                    await self.discard(request)
                raise refusal
            parts.append(part)
        return b"".join(parts)

    async def discard(self, request: Request) -> None:
        """Receive what is left of a body and keep nothing: a caller that is still sending hears no answer.

        Not from one that waits to be told to send (``Expect: 100-continue``), nor more than twice the limit.
        """
        if "100-continue" in request.headers.get("expect", "").lower():
            return
        size, began, more = 0, time.monotonic(), True
        try:
            while more and size <= 2 * self._limits.body_bytes:
                part, more = await self._part(request, began, size)
                size += len(part)
        except Refused:
            pass  # there is a better reason already

    async def _part(self, request: Request, began: float, size: int) -> tuple[bytes, bool]:
        """The next part, and whether there are more."""
        limits = self._limits
        slowest = limits.body_grace + size / limits.body_rate
        try:
            async with asyncio.timeout(max(0.0, began + min(limits.seconds, slowest) - time.monotonic())):
                message = await request.receive()
        except TimeoutError:
            expected = f"it whole within {limits.seconds:g} s"
            if slowest < limits.seconds:
                expected = f"{limits.body_rate} bytes a second after the first {limits.body_grace:g} s"
            raise Refused(408, f"body: expected {expected}, received {size} bytes") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message.get("body", b""), message.get("more_body", False)

    def _too_large(self, received: str) -> Refused:
        return Refused(
            413,
            f"body: expected at most {self._limits.body_bytes} bytes (--max-megabytes), received {received}; "
            "ask in parts",
        )


def length(request: Request) -> int:
    """The announced length of a body, 0 where none is; the protocol has seen to it that it is a number."""
    return int(request.headers.get("content-length", "0"))


async def gone(request: Request) -> None:
    """Return when the caller has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

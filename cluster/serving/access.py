"""One line for each request, and a name for it that callers and logs share."""

import json
import logging
import logging.handlers
import re
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LONGEST = 200  # letters of a path

Write = Callable[[dict[str, Any]], None]


class Access:
    """Gives every request an ``X-Request-ID``, the caller's if it is a plain one, and writes a line when it is done.

    The line has neither headers nor the query, which may carry secrets.
    """

    def __init__(self, app: ASGIApp, write: Write | None) -> None:
        self._app, self._write = app, write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        supplied_id = Headers(scope=scope).get("x-request-id", "")
        request_id = supplied_id if NAME.fullmatch(supplied_id) else uuid.uuid4().hex
        began, status, sent, received = time.perf_counter(), 0, 0, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def named(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted, named)
        finally:
            if self._write is not None:
                self._write(
                    line(
                        scope.get("client"),
                        request_id=request_id,
                        method=scope["method"],
                        path=scope["path"],
                        status=status,
                        received=received,
                        sent=sent,
                        milliseconds=round(1e3 * (time.perf_counter() - began), 1),
                    )
                )


def line(client: Any, *, method: str, path: str, **more: Any) -> dict[str, Any]:
    """The log entry of a request; the path without its query, cut short.

    Args:
        client: host and port of the caller, None where they are not known.
        method: of the request.
        path: of the request.
        **more: further entries by name.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    path = path.partition("?")[0][:LONGEST]
    return {"time": now, "client": client[0] if client else None, "method": method[:20], "path": path} | more


def writer(where: str | None) -> Write | None:
    """Writes lines of JSON, in ASCII, to a file that may be moved away meanwhile, or to standard error for ``-``.

    Raises:
        OSError: if the file cannot be opened.
    """
    if where is None:
        return None
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if where != "-":
        handler = logging.handlers.WatchedFileHandler(where, encoding="ascii")
    logger = logging.Logger("metaray.access")  # one of its own, which no other configuration changes
    logger.addHandler(handler)
    return lambda content: logger.info("%s", json.dumps(content))

"""Answers of the HTTP side: predictions in pieces, JSON, and refusals with a reason."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.serving.auth import is_allowed
from cluster.serving.bodies import Error
from cluster.serving.limits import Refused
from cluster.serving.memory import Held

OPEN = ("/health", "/ping", "/ready")  # without a token: who starts and stops servers asks these
PIECE = 2**18  # bytes of an answer
RETRY = 1  # seconds after which a caller that was turned away may try again

CODES = {
    401: "UNAUTHENTICATED",
    404: "ENDPOINT_NOT_FOUND",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Pieces(Response):
    """An answer in pieces: the next is written when the caller has read the one before. Memory is held to the end."""

    def __init__(self, text: bytes, kind: str, version: int, held: Held) -> None:
        super().__init__(text, headers={"X-Model-Version": str(version)}, media_type=kind)
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


def as_json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response in JSON, in ASCII: letters of a caller that are not valid Unicode have no other form in a reason.

    Args:
        content: the JSON object.
        status: HTTP status.
        headers: further headers.
    """
    body = json.dumps(content, allow_nan=False)
    return Response(body, status, headers, media_type="application/json")


def as_reason(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response to a request that is refused for a reason.

    Args:
        status: HTTP status.
        reason: a sentence for the caller.
        headers: further headers.
    """
    return as_json(vars(Error(error_code=CODES.get(status, "BAD_REQUEST"), message=reason)), status, headers)


class Authenticated:
    """Lets those through who show the token; nothing of others is read."""

    def __init__(self, app: ASGIApp, token: bytes | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            authorizations = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
            if not is_allowed(authorizations[0] if len(authorizations) == 1 else None, self._token):
                reason = "Authorization: expected Bearer and the token of this server, received none or another"
                await as_reason(401, reason, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _refused(request: Request, error: Refused) -> Response:
    del request
    return as_reason(error.status, error.reason, {"Retry-After": str(RETRY)} if error.status == 503 else None)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return as_reason(error.status_code, f"{request.method} {request.url.path}: {error.detail}", error.headers)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    del request, error
    return Response(status_code=400)  # nobody is there to read it


async def _fault(request: Request, error: Exception) -> Response:
    del request
    return as_reason(500, f"expected an answer, received {type(error).__name__}; see the server's log")


HANDLERS: Mapping[Any, Callable[[Request, Any], Awaitable[Response]]] = {
    Refused: _refused,
    HTTPException: _http_error,
    ClientDisconnect: _gone,
    Exception: _fault,  # it is logged after that
}

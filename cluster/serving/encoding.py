"""Bodies that were compressed on their way."""

import zlib

from starlette.requests import Request

from cluster.serving.limits import Refused

ACCEPTED = ("", "identity", "gzip", "x-gzip")
PIECE = 2**20  # bytes unpacked at a time


def content_encoding(request: Request) -> str:
    """The content encoding in small letters, empty where none is named."""
    return ", ".join(request.headers.getlist("content-encoding")).strip().lower()


def require_encoding(encoding: str) -> None:
    """Check a ``Content-Encoding``.

    Raises:
        Refused: with status 415, if it is not one of :data:`ACCEPTED`.
    """
    if encoding not in ACCEPTED:
        raise Refused(415, f"Content-Encoding: expected gzip or none, received {encoding[:60]!r}")


def unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """A body as it was before it was compressed.

    Args:
        body: as received.
        encoding: one of :data:`ACCEPTED`.
        most: bytes that it may have; never are more unpacked.

    Raises:
        Refused: with status 413 if it has more, 400 if it is no gzip, or not all of it.
    """
    if "gzip" not in encoding:
        return body
    parts: list[bytes] = []
    size, rest = 0, body
    try:
        while rest:  # a gzip file may have several members
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                part = member.decompress(rest, PIECE)
                rest = member.unconsumed_tail
                size += len(part)
                parts.append(part)
                if size > most:
                    raise Refused(413, f"body: expected at most {most} bytes unpacked, received more; ask in parts")
                if not part and not rest and not member.eof:
                    raise Refused(400, "body: expected gzip to its end, received a part of it")
            rest = member.unused_data
    except zlib.error as error:
        raise Refused(400, f"body: expected gzip as Content-Encoding says, received something else ({error})") from None
    return b"".join(parts)

"""The greeting on a new connection: both ends prove that they know the run's secret before anything else is read.

Each end sends a random challenge of 32 bytes and answers the other's with HMAC-SHA256 under the secret, with a word
for its side, so that no answer can be sent back to the one who asked. The secret reaches workers through Ray and is
never sent over a link.
"""

import hashlib
import hmac
import secrets
import socket

SIZE = 32
POOL, WORKER = b"pool", b"worker"


class Refused(Exception):  # noqa: N818 - one connection less, not a fault of the run
    """The other end does not know the secret, or did not answer in time."""


def greet(connection: socket.socket, secret: bytes, *, side: bytes, timeout: float) -> None:
    """Prove to the other end that we know the secret, and have it prove the same.

    Args:
        connection: a blocking socket on which nothing has been sent.
        secret: the run's.
        side: ours, :data:`POOL` or :data:`WORKER`.
        timeout: seconds that each read or write may take.

    Raises:
        Refused: if the other end fails to.
    """
    other = WORKER if side == POOL else POOL
    challenge = secrets.token_bytes(SIZE)
    try:
        connection.settimeout(timeout)
        connection.sendall(challenge)
        connection.sendall(_answer(secret, side, _exactly(connection)))
        if not hmac.compare_digest(_exactly(connection), _answer(secret, other, challenge)):
            raise Refused("the other end does not know the run's secret")
        connection.settimeout(None)
    except OSError as error:
        raise Refused(f"no greeting: {error}") from error


def _answer(secret: bytes, side: bytes, challenge: bytes) -> bytes:
    return hmac.new(secret, side + challenge, hashlib.sha256).digest()


def _exactly(connection: socket.socket) -> bytes:
    """The next SIZE bytes."""
    data = b""
    while len(data) < SIZE:
        part = connection.recv(SIZE - len(data))
        if not part:
            raise Refused("the other end closed the connection")
        data += part
    return data

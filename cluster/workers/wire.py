"""Messages as bytes: a short header, then the numbers as they lie in memory.

Ray passes ``bytes`` through untouched, which for the few kilobytes of a small model takes a third less time than
pickled objects or arrays. From :data:`LARGE` bytes on numbers travel as an array instead: it lies in the object
store once per node and is read there without a copy. Nothing is unpickled on either side.
"""

import dataclasses
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.workers.messages import REPLIES, REQUESTS, Flat, Reply, Request, RolloutRequest, TaskRange

LARGE = 1_000_000
ALIGNMENT = 64
Payload = bytes | NDArray[np.uint8]
RANGES = ("tasks", "upcoming")  # fields that hold a range of tasks
BESIDE = ("request", "buffer")  # fields of a reply that do not travel in its header


def encode_request(request: Request) -> bytes:
    """A request as bytes: its kind and its fields."""
    return json.dumps([request.kind, dataclasses.asdict(request)]).encode()


def decode_request(message: bytes) -> Request:
    """The inverse of :func:`encode_request`."""
    kind, values = json.loads(message)
    for name in RANGES:
        if values.get(name) is not None:
            values[name] = TaskRange(**values[name])
    return REQUESTS[kind](**_with_tuples(values))


def encode_vectors(theta: Flat, second: Flat | None) -> Payload:
    """θ [P], and a second vector [P] where the requests have one, as a payload.

    Args:
        theta: θ [P].
        second: the second vector [P], or None.
    """
    numbers = theta if second is None else np.concatenate([theta, second.astype(theta.dtype, copy=False)])
    return numbers.tobytes() if numbers.nbytes < LARGE else numbers.view(np.uint8)


def decode_vectors(payload: Payload, dtype: str, request: Request) -> tuple[Flat, Flat | None]:
    """The vectors of a payload that :func:`encode_vectors` made, as read-only views.

    Args:
        payload: the bytes or array.
        dtype: numpy's name of θ's type.
        request: tells whether there is a second vector.
    """
    numbers: Flat = np.frombuffer(payload, dtype=dtype)
    if not isinstance(request, RolloutRequest):
        return numbers, None
    theta, second = np.split(numbers, 2)
    return theta, second


def encode_reply(reply: Reply) -> Payload:
    """A reply's header and buffer in one piece, without the request, which the receiver has."""
    fields = {f.name: getattr(reply, f.name) for f in dataclasses.fields(reply) if f.name not in BESIDE}
    header = json.dumps([reply.buffer.dtype.str, fields]).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    start = ALIGNMENT + len(header)
    first = len(header).to_bytes(ALIGNMENT, "little")
    if reply.buffer.nbytes < LARGE:
        return b"".join((first, header, reply.buffer.tobytes()))
    message = np.empty(start + reply.buffer.nbytes, dtype=np.uint8)
    message[:start] = np.frombuffer(first + header, dtype=np.uint8)
    message[start:] = reply.buffer.view(np.uint8)
    return message


def decode_reply(request: Request, message: Payload) -> Reply:
    """The reply in a message that :func:`encode_reply` made.

    Args:
        request: the request that is answered.
        message: header and numbers.
    """
    data = np.frombuffer(message, dtype=np.uint8)
    start = ALIGNMENT + int.from_bytes(data[:ALIGNMENT].tobytes(), "little")
    dtype, fields = json.loads(data[ALIGNMENT:start].tobytes())
    return REPLIES[request.kind](request=request, buffer=data[start:].view(dtype), **_with_tuples(fields))


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Fields as messages hold them: JSON has lists where they have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

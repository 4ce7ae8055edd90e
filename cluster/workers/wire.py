"""Messages as bytes: a short header, then the numbers as they lie in memory.

Ray passes ``bytes`` through untouched, which for the few kilobytes of a small model takes a third less time than
pickled objects or arrays. From :data:`LARGE` bytes on numbers travel as an array instead: it lies in the object
store once per node and is read there without a copy. Nothing is unpickled on either side.
"""

import json

import numpy as np
from numpy.typing import NDArray

from cluster.workers.messages import Flat, Order, Result, TaskRange
from tasks.family import Split

LARGE = 1_000_000
ALIGNMENT = 64
Payload = bytes | NDArray[np.uint8]


def encode_order(order: Order) -> bytes:
    """An order as bytes."""
    upcoming = None if order.upcoming is None else _span(order.upcoming)
    fields = (order.kind, order.step, order.shard, _span(order.tasks), order.inner_steps, upcoming)
    return json.dumps(fields).encode()


def decode_order(message: bytes) -> Order:
    """The inverse of :func:`encode_order`."""
    kind, step, shard, tasks, inner_steps, upcoming = json.loads(message)
    return Order(
        kind=kind,
        step=step,
        shard=shard,
        tasks=_range(tasks),
        inner_steps=tuple(inner_steps),
        upcoming=None if upcoming is None else _range(upcoming),
    )


def _span(tasks: TaskRange) -> tuple[Split, int, int]:
    return tasks.split, tasks.start, tasks.stop


def _range(span: tuple[Split, int, int]) -> TaskRange:
    split, start, stop = span
    return TaskRange(split=split, start=start, stop=stop)


def encode_numbers(numbers: Flat) -> Payload:
    """A flat vector as a payload."""
    return numbers.tobytes() if numbers.nbytes < LARGE else numbers.view(np.uint8)


def decode_numbers(payload: Payload, dtype: str) -> Flat:
    """The inverse of :func:`encode_numbers`; a read-only view."""
    numbers: Flat = np.frombuffer(payload, dtype=dtype)
    return numbers


def encode_result(result: Result) -> Payload:
    """A result's header and buffer in one piece; its order is known to whoever gave it."""
    header = json.dumps([result.buffer.dtype.str, result.metrics, result.nonfinite]).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    start = ALIGNMENT + len(header)
    first = len(header).to_bytes(ALIGNMENT, "little")
    if result.buffer.nbytes < LARGE:
        return b"".join((first, header, result.buffer.tobytes()))
    message = np.empty(start + result.buffer.nbytes, dtype=np.uint8)
    message[:start] = np.frombuffer(first + header, dtype=np.uint8)
    message[start:] = result.buffer.view(np.uint8)
    return message


def decode_result(order: Order, message: Payload) -> Result:
    """The inverse of :func:`encode_result`."""
    data = np.frombuffer(message, dtype=np.uint8)
    start = ALIGNMENT + int.from_bytes(data[:ALIGNMENT].tobytes(), "little")
    dtype, metrics, nonfinite = json.loads(data[ALIGNMENT:start].tobytes())
    return Result(
        order=order,
        buffer=data[start:].view(dtype),
        metrics=tuple(metrics),
        nonfinite=tuple(nonfinite),
    )

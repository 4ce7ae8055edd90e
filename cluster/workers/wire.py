"""Requests and replies as headers of messages (:mod:`cluster.workers.transport.link`); vectors travel beside them."""

import dataclasses
from typing import Any

from cluster.workers.messages import REPLIES, REQUESTS, Flat, Reply, Request, TaskRange

RANGES = ("tasks", "upcoming")  # fields that hold a range of tasks
BESIDE = ("request", "buffer")  # fields of a reply that do not travel in its header

Header = list[Any]


def encode_request(request: Request) -> Header:
    """A request as a header: its kind and its fields."""
    fields = {name: vars(value) if name in RANGES and value else value for name, value in vars(request).items()}
    return [request.kind, fields]


def decode_request(header: Header) -> Request:
    """The inverse of :func:`encode_request`."""
    kind, values = header
    values = {name: TaskRange(**value) if name in RANGES and value else value for name, value in values.items()}
    return REQUESTS[kind](**_with_tuples(values))


def encode_reply(reply: Reply) -> Header:
    """A reply as a header: all but its request, which the receiver has, and its numbers, which travel beside it."""
    return [
        reply.buffer.dtype.str,
        {f.name: getattr(reply, f.name) for f in dataclasses.fields(reply) if f.name not in BESIDE},
    ]


def decode_reply(request: Request, header: Header, buffer: Flat) -> Reply:
    """The reply to a request.

    Args:
        request: the request that is answered.
        header: what :func:`encode_reply` made.
        buffer: the reply's numbers, of the type that the header names.
    """
    return REPLIES[request.kind](request=request, buffer=buffer, **_with_tuples(header[1]))


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Fields as messages hold them: JSON has lists where they have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

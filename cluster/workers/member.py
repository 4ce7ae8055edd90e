"""One worker of a pool of Ray actors, as the pool knows it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)

from cluster import errors
from cluster.errors import MetarayError
from cluster.workers.nodes import label
from cluster.workers.transport.link import Bytes, Link, Message
from cluster.workers.transport.memory import received
from cluster.workers.vectors import Receiver

LOST = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError, RaySystemError)
CAUSE_SECONDS = 1.0  # that Ray may take to say why a worker's link has closed


@dataclass(eq=False)
class Member:
    """A worker.

    Attributes:
        number: its place among the workers; a replacement has that of the worker it replaces.
        actor: Ray's handle.
        serving: Ray's reference to the call that serves until the worker ends.
        since: when it was started.
        link: to it, once it has connected.
        heard: when anything last arrived from it.
        receiver: what it has been sent.
        node: Ray's identity of its node, once it has connected.
        host: the node's name.
        segments: its shared memory by number.
    """

    number: int
    actor: Any
    serving: Any
    since: float
    link: Link | None = None
    pid: int | None = None
    heard: float = 0.0
    receiver: Receiver | None = None
    node: str = ""
    host: str = ""
    segments: dict[int, Bytes] = field(default_factory=dict)

    @property
    def where(self) -> str | None:
        """Its node in messages and events, once it has connected."""
        return label(self.node, self.host) if self.node else None

    def cause(self) -> str:
        """Why the worker has ended, as Ray says.

        Raises:
            MetarayError: if it could not be built, or could not reach us: so would be its replacement.
        """
        try:
            ray.get(self.serving, timeout=CAUSE_SECONDS)
        except RayTaskError as error:
            if isinstance(error.cause, MetarayError):
                raise error.cause from error
            raise MetarayError(f"a worker failed: {type(error.cause).__name__}: {error.cause}") from error
        except LOST as error:
            if getattr(error, "actor_init_failed", False):
                reason = str(error).strip().splitlines()[-1]
                raise MetarayError(f"a worker could not be built: {reason}") from error
            return type(error).__name__
        except GetTimeoutError:
            return "its connection was lost"
        return "it ended its connection"

    def numbers(self, message: Message) -> Any:
        """A reply's numbers as bytes [N], which nobody changes any more."""
        if "segment" not in message.header:
            return message.numbers
        number, nbytes = message.header["segment"]
        if message.descriptors:
            self.segments[number] = received(message.descriptors[0], nbytes)
        return np.array(self.segments[number])  # the worker writes there again


def fault(name: str, text: str, trace: str) -> MetarayError:
    """The error that a worker raised, of the same class if it is one of ours.

    Args:
        name: of the error's class.
        text: its message.
        trace: the worker's traceback, added as a note.
    """
    kind = getattr(errors, name, MetarayError)
    error: MetarayError = (
        kind(text) if isinstance(kind, type) and issubclass(kind, MetarayError) else MetarayError(text)
    )
    error.add_note(trace)
    return error

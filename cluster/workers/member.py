"""One worker of a pool of Ray actors, as the pool knows it."""

from dataclasses import dataclass, field
from typing import Any

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

from cluster.errors import MetarayError
from cluster.workers.nodes import label
from cluster.workers.relayed import AnyLink, RelayedLink
from cluster.workers.schedule import Job
from cluster.workers.transport.link import LinkClosed
from cluster.workers.vectors import Receiver, Replies, Vectors
from cluster.workers.wire import encode_request

LOST = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError, RaySystemError)
CAUSE_SECONDS = 1.0  # that Ray may take to say why a worker's link has closed


@dataclass(eq=False)
class Member:
    """A worker.

    Attributes:
        number: its place among the workers; a replacement has that of the worker it replaces.
        actor: Ray's handle.
        serving: Ray's reference to the call that serves until the worker ends.
        since: when it was started, or lost its relay.
        start: number of its start among all of the pool's.
        link: to it, once it has connected.
        returning: whether it was connected by a relay that was lost.
        heard: when anything last arrived from it.
        receiver: what it has been sent.
        node: Ray's identity of its node, once it has connected.
        host: the node's name.
        replies: what it has replied.
    """

    number: int
    actor: Any
    serving: Any
    since: float
    start: int = 0
    link: AnyLink | None = None
    returning: bool = False
    pid: int | None = None
    heard: float = 0.0
    receiver: Receiver | None = None
    node: str = ""
    host: str = ""
    replies: Replies = field(default_factory=Replies)

    def give(self, assignment: int, job: Job, vectors: Vectors) -> None:
        """Send a request, or have its relay send it with others.

        Args:
            assignment: its number.
            job: the request's.
            vectors: the pool's.
        """
        if isinstance(self.link, RelayedLink):
            self.link.order(assignment, job)
            return
        assert self.link is not None
        assert self.receiver is not None
        fields, numbers, descriptors = self.receiver.header(job.vectors, vectors)
        try:
            self.link.send({"job": assignment, "request": encode_request(job.request)} | fields, numbers, descriptors)
        except LinkClosed:
            return  # the hub reports it, and the job is given to another worker then

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
            said: str | None = ray.get(self.serving, timeout=CAUSE_SECONDS)
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
        return said or "it ended its connection"

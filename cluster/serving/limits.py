"""Limits on requests and connections, and the error raised when one is exceeded."""

from dataclasses import dataclass, field

from cluster.serving.memory import default_memory


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a server accepts.

    Attributes:
        body_bytes: of a request's body, received and unpacked.
        tasks: of a request.
        steps: inner steps of a request.
        requests: that are read, wait or are computed at a time; more are turned away. A body on its way is none.
        seconds: in which a body has to arrive, and again in which a request is answered.
        memory: bytes that all requests together may take, beside what the server takes at rest.
        connections: open at a time. Above that, those that wait longest without a request are closed.
        header_seconds: from the first byte of a request, or from the connection, to the end of its header.
        idle_seconds: between two requests of one connection.
        body_grace: seconds after which a body has to arrive at ``body_rate`` on average.
        body_rate: bytes a second.
    """

    body_bytes: int = 16 * 2**20
    tasks: int = 64
    steps: int = 100
    requests: int = 128
    seconds: float = 30.0
    memory: int = field(default_factory=default_memory)
    connections: int = 2048
    header_seconds: float = 10.0
    idle_seconds: float = 20.0
    body_grace: float = 5.0
    body_rate: int = 16 * 2**10


class Refused(Exception):  # noqa: N818 - an answer rather than a fault
    """A request that is not answered with predictions.

    Attributes:
        status: the HTTP status.
        reason: what was expected, what was received, what to do.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason if len(reason) <= LONGEST else f"{reason[:LONGEST]} …"


LONGEST = 1000  # letters of a reason, which may quote what a caller sent

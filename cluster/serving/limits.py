"""What a server takes on, and how it says no."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a server accepts.

    Attributes:
        body_bytes: of a request's body.
        tasks: of a request.
        steps: inner steps of a request.
        requests: that are read, wait or are computed at a time; more are turned away.
        seconds: in which a body has to arrive, and again in which a request is answered.
    """

    body_bytes: int = 16 * 2**20
    tasks: int = 64
    steps: int = 100
    requests: int = 128
    seconds: float = 30.0


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

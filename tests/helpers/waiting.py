"""Waiting for events, and ports of 127.0.0.1 that are free."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")
HANGS_AFTER = 300.0  # seconds: no test waits so long for what happens at all, not on a machine full of other work


def wait_for(question: Callable[[], Answer], event: str = "", seconds: float = HANGS_AFTER) -> Answer:
    """Ask until the answer is true, and return it.

    Raises:
        AssertionError: naming the event, if it does not happen.
    """
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {event or question}"
        time.sleep(0.05)  # between two questions
    return answer


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()

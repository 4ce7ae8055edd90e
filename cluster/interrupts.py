"""Ctrl-C and SIGTERM: finish the step, save, leave. A second one leaves at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Set once the user or the system has asked to stop."""

    def __init__(self) -> None:
        """The flag is not set."""
        self.reason: str | None = None
        self.head_lost: float | None = None  # seconds without an answer, if the cluster's head is the reason

    def __bool__(self) -> bool:
        """Whether a stop was requested."""
        return self.reason is not None


class SignalFlag(StopFlag):
    """Set by SIGINT and SIGTERM while it listens; the second of them raises KeyboardInterrupt."""

    def listen(self) -> None:
        """Handle the signals. To be called again after ``ray.init``, which sets its own handler of SIGTERM."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first SIGINT or SIGTERM of a block, and let it clean up undisturbed by others."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def stop_on_signals() -> Iterator[SignalFlag]:
    """Turn SIGINT and SIGTERM into a flag for the duration of a block. Main thread only."""
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    flag = SignalFlag()
    flag.listen()
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

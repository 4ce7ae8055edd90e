"""Ctrl-C and SIGTERM: finish the step, save, leave. A second one leaves at once."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

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
        """Handle the signals. To be called again after ``ray.init``, which sets its own handler of SIGTERM.

        Python lets the main thread alone do so; in another one the flag stays as it is.
        """
        if threading.current_thread() is not threading.main_thread():
            return
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
        _put_back(previous)


@contextmanager
def stop_on_signals() -> Iterator[SignalFlag]:
    """Turn SIGINT and SIGTERM into a flag for the duration of a block, where it runs in the main thread."""
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    flag = SignalFlag()
    flag.listen()
    try:
        yield flag
    finally:
        _put_back(previous)


def _put_back(handlers: Mapping[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)

"""Progress and warnings, for people, on standard error: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LINE_EVERY = 10.0  # seconds between lines where there is no terminal
REDRAW_EVERY = 0.25  # seconds
SMOOTH_OVER = 3.0  # seconds that the shown rate is an average over
FRESH = {"loss": 0.02, "return": 0.1}  # share of the last step in what is shown
FORM = {"loss": ".4f", "return": ".4g"}


class Progress(Protocol):
    """Something that is called after every step."""

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show outer steps done and the last step's metrics.

        Args:
            step: outer steps done.
            metrics: numbers by name.
        """
        ...


class _Report:
    """Smooths the rate and the loss, or the return where there is one; shows them now and then."""

    def __init__(self, console: Console, label: str, first: int, steps: int, unit: str) -> None:
        self._console, self._unit = console, unit
        self._label, self._steps = label, steps
        self._bar = _bar(console) if console.is_terminal else None
        self._task = self._bar.add_task(label, total=steps, completed=first, note="") if self._bar else None
        self._shown = (first, time.monotonic())
        self._metric, self._value = "", 0.0
        self._rate = 0.0

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the step, unless it is too soon."""
        name = "return" if "return" in metrics else "loss"
        if name in metrics:
            before = self._value if self._metric else metrics[name]
            self._metric, self._value = name, before + FRESH[name] * (metrics[name] - before)
        (shown, at), now = self._shown, time.monotonic()
        every = REDRAW_EVERY if self._bar else LINE_EVERY
        if now - at < every and step < self._steps:
            return
        latest = (step - shown) / max(now - at, 1e-9)
        share = min(1.0, (now - at) / SMOOTH_OVER) if self._rate else 1.0
        rate = self._rate = (1 - share) * self._rate + share * latest
        self._shown = (step, now)
        note = f"{rate:.1f} {self._unit}s/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/{self._unit}"
        note += f", {self._metric} {self._value:{FORM[self._metric]}}" if self._metric else ""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, note=note)
        else:
            left = (self._steps - step) / max(rate, 1e-9)
            self._console.print(f"{self._label}: {self._unit} {step} of {self._steps}, {note}, {left:.0f} s left")


def _bar(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
    )


@contextmanager
def progress(label: str, first: int, steps: int, unit: str = "step") -> Iterator[Progress]:
    """Show progress from step ``first`` to ``steps`` while the block runs.

    Args:
        label: stands before the bar.
        first: steps done before.
        steps: steps in all.
        unit: the word for a step.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False, file=sys.stderr)
    report = _Report(console, label, first, steps, unit)
    if report._bar is None:
        yield report
    else:
        with report._bar:
            yield report


_warned: set[str] = set()


def warn(text: str) -> None:
    """A warning on standard error, once in a command."""
    if text not in _warned:
        from cluster.config.credentials import without_credentials

        _warned.add(text)
        print(f"warning: {without_credentials(text)}", file=sys.stderr)


def say(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr)


def forget_warnings() -> None:
    """Let every warning be printed again, in another command of this process."""
    _warned.clear()

"""Progress and warnings, for people, on standard error: one screen on a terminal, a line now and then elsewhere."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_EVERY = 10.0  # seconds between lines where there is no terminal
REDRAW_EVERY = 0.25  # seconds
SMOOTH_OVER = 3.0  # seconds that the shown rate is an average over
FRESH = {"loss": 0.02, "return": 0.1}  # share of the last step in what is shown
SHOWN_WORKERS = 16  # on one screen
MOST_SECONDS = 1e8  # that are worth showing
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


@dataclass(frozen=True)
class Beside:
    """State of a training beside its steps.

    Attributes:
        validation: the last validation score and the best, in words; empty before the first.
        workers: for each worker, what it does.
        failures: number of losses of workers, relays and of the cluster's head.
        last_failure: a sentence about the last of them.
    """

    validation: str = ""
    workers: Sequence[str] = ()
    failures: int = 0
    last_failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """State of a training or of another piece of work, as it is shown here and by ``metaray watch``.

    Attributes:
        label: name of the work.
        unit: the word for a step.
        step: steps done.
        steps: steps in all.
        rate: steps per second.
        tasks: tasks of a step; 0: it has none.
        note: rate and metric, in words.
        seconds: since the beginning.
        beside: what else is known, of a training.
    """

    label: str
    unit: str
    step: int
    steps: int
    rate: float
    tasks: int
    note: str
    seconds: float
    beside: Beside | None = None

    @property
    def left(self) -> float:
        """Seconds left at the present rate."""
        return (self.steps - self.step) / max(self.rate, 1e-9)

    @property
    def line(self) -> str:
        """The state in a line."""
        return f"{self.label}: {self.unit} {self.step} of {self.steps}, {self.note}, {self.left:.0f} s left"

    def as_json(self) -> dict[str, Any]:
        """The snapshot as plain values, for a file."""
        return asdict(self)

    @staticmethod
    def of(plain: Mapping[str, Any]) -> "Snapshot":
        """The snapshot that :meth:`as_json` wrote."""
        beside = plain["beside"]
        return Snapshot(**{**plain, "beside": None if beside is None else Beside(**beside)})


def frame(snapshot: Snapshot) -> Group:
    """One screen: the bar, rates, validation, what each worker does, failures, time left.

    Args:
        snapshot: what to show.
    """
    head = Table.grid(padding=(0, 1))
    for _ in range(4):
        head.add_column(no_wrap=True)
    bar = ProgressBar(total=snapshot.steps, completed=snapshot.step, width=30)
    times = f"{_clock(snapshot.seconds)}, {_clock(snapshot.left)} left"
    head.add_row(Text(snapshot.label), bar, f"{snapshot.step}/{snapshot.steps}", times)
    beside = snapshot.beside
    rows = Table.grid(padding=(0, 2))
    tasks = f", {snapshot.tasks * snapshot.rate:.4g} tasks/s" if snapshot.tasks else ""
    rows.add_row("rate", f"{snapshot.note}{tasks}")
    if beside is None:
        return Group(head, rows)
    rows.add_row("validation", beside.validation or "none yet")
    for number, text in enumerate(beside.workers[:SHOWN_WORKERS]):
        rows.add_row(f"worker {number}", Text(text))
    if len(beside.workers) > SHOWN_WORKERS:
        rows.add_row("", f"and {len(beside.workers) - SHOWN_WORKERS} workers more")
    rows.add_row("failures", Text(f"{beside.failures}: {beside.last_failure}" if beside.failures else "none"))
    return Group(head, rows)


def _clock(seconds: float) -> str:
    """A duration as hours, minutes and seconds.

    >>> _clock(3725), _clock(float("inf"))
    ('1:02:05', '-:--:--')
    """
    return "-:--:--" if not seconds < MOST_SECONDS else str(timedelta(seconds=round(seconds)))


class Report:
    """Smooths the rate and the loss, or the return where there is one; shows them now and then.

    Attributes:
        beside: gives what else is to be shown; set by a training.
    """

    def __init__(
        self, console: Console, label: str, first: int, steps: int, unit: str, tasks: int = 0, path: Path | None = None
    ) -> None:
        """Show nothing yet; see :func:`progress`."""
        self.beside: Callable[[], Beside] | None = None
        self._console, self._unit, self._tasks, self._path = console, unit, tasks, path
        self._label, self._steps = label, steps
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal and _view == "auto" else None
        self._shown = (first, time.monotonic())
        self._began = self._shown[1]
        self._printed = self._began
        self._metric, self._value = "", 0.0
        self._rate = 0.0

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the step, unless it is too soon."""
        name = "return" if "return" in metrics else "loss"
        if name in metrics:
            before = self._value if self._metric else metrics[name]
            self._metric, self._value = name, before + FRESH[name] * (metrics[name] - before)
        (shown, at), now = self._shown, time.monotonic()
        every = REDRAW_EVERY if self._live or self._path else LINE_EVERY
        if now - at < every and step < self._steps:
            return
        latest = (step - shown) / max(now - at, 1e-9)
        share = min(1.0, (now - at) / SMOOTH_OVER) if self._rate else 1.0
        self._rate = (1 - share) * self._rate + share * latest
        self._shown = (step, now)
        self._show(self._snapshot(step, now), now)

    def _snapshot(self, step: int, now: float) -> Snapshot:
        rate = self._rate
        note = f"{rate:.1f} {self._unit}s/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/{self._unit}"
        note += f", {self._metric} {self._value:{FORM[self._metric]}}" if self._metric else ""
        return Snapshot(
            label=self._label,
            unit=self._unit,
            step=step,
            steps=self._steps,
            rate=rate,
            tasks=self._tasks,
            note=note,
            seconds=now - self._began,
            beside=None if self.beside is None else self.beside(),
        )

    def _show(self, snapshot: Snapshot, now: float) -> None:
        if self._path is not None:
            _write(self._path, snapshot)
        if self._live is not None:
            self._live.update(frame(snapshot))
        elif prints_lines() and (now - self._printed >= LINE_EVERY or snapshot.step >= self._steps):
            self._printed = now
            self._console.print(snapshot.line, markup=False)


def _write(path: Path, snapshot: Snapshot) -> None:
    """Put a snapshot in the place of the one before; one that cannot be written stops no training."""
    new = path.with_name(f".{path.name}.new")
    with contextlib.suppress(OSError):
        new.write_text(json.dumps(snapshot.as_json()), encoding="utf-8")
        new.replace(path)


@contextmanager
def progress(
    label: str, first: int, steps: int, unit: str = "step", tasks: int = 0, path: Path | None = None
) -> Iterator[Report]:
    """Show progress from step ``first`` to ``steps`` while the block runs.

    Args:
        label: stands before the bar.
        first: steps done before.
        steps: steps in all.
        unit: the word for a step.
        tasks: tasks of a step, of a training.
        path: file for ``metaray watch``, which holds the state as long as the block runs.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False, file=sys.stderr)
    report = Report(console, label, first, steps, unit, tasks, path)
    try:
        with report._live or contextlib.nullcontext():
            yield report
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


View = Literal["auto", "plain", "quiet"]
_view: View = "auto"


def show_as(view: View) -> None:
    """Choose how this command shows progress.

    Args:
        view: ``auto``: one screen on a terminal and lines elsewhere; ``plain``: lines; ``quiet``: none.
    """
    global _view
    _view = view


def prints_lines() -> bool:
    """Whether progress is shown at all."""
    return _view != "quiet"


def draws_screens() -> bool:
    """Whether progress may be redrawn in place where standard error is a terminal."""
    return _view == "auto"


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
    """Let every warning be printed again, and progress be shown as usual, in another command of this process."""
    _warned.clear()
    show_as("auto")

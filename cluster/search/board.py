"""Table of trials on standard error: redrawn on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.progress import draws_screens, prints_lines
from cluster.search.trials import Trial, by_value

LINE_EVERY = 10.0  # seconds between lines where there is no terminal
SHOWN = 20  # trials on a terminal: those under way and the best


class Board:
    """Shows the state of the trials."""

    def __init__(
        self,
        console: Console,
        metric: str,
        keys: Sequence[str],
        total: int,
        steps: int,
        *,
        higher: bool,
        noun: str = "search",
    ) -> None:
        """Show nothing yet.

        Args:
            console: where to.
            metric: what trials are judged by.
            keys: of the trials' values.
            total: number of trials.
            steps: outer steps of a whole trial.
            higher: whether larger scores are better.
            noun: what the trials are of.
        """
        self._console, self._metric, self._keys, self._noun = console, metric, keys, noun
        self._total, self._steps, self._higher = total, steps, higher
        self._trials: dict[int, Trial] = {}
        self._live: Live | None = None
        self._shown = time.monotonic()

    def update(self, trial: Trial) -> None:
        """Record the state of a trial."""
        self._trials[trial.number] = trial
        if self._live is not None:
            self._live.update(self.table())
        elif prints_lines() and time.monotonic() - self._shown > LINE_EVERY:
            self._shown = time.monotonic()
            self._console.print(self.line(), soft_wrap=True)

    def line(self) -> str:
        """State of all trials, in a line."""
        over = [trial for trial in self._trials.values() if trial.over]
        kinds = {kind: sum(trial.status == kind for trial in over) for kind in ("stopped", "diverged", "failed")}
        notes = [f"{count} {kind}" for kind, count in kinds.items() if count]
        text = f"{self._noun}: {len(over)} of {self._total} trials over" + (f" ({', '.join(notes)})" if notes else "")
        running = sorted(trial.number for trial in self._trials.values() if trial.status == "running")
        if running:
            text += f", {', '.join(str(number) for number in running)} under way"
        if ranked := by_value(self._trials.values(), higher=self._higher):
            best = ranked[0]
            text += f"; best {self._metric} {best.value:.4g} in trial {best.number} ({words(best.values)})"
        return text

    def table(self) -> Group:
        """Trials under way, then the best."""
        table = Table()
        table.add_column("trial", justify="right")
        for key in self._keys:
            table.add_column(key, justify="right")
        table.add_column("steps", justify="right")
        table.add_column(self._metric, justify="right")
        table.add_column("")
        running = [trial for trial in self._trials.values() if trial.status == "running"]
        rest = [trial for trial in by_value(self._trials.values(), higher=self._higher) if trial.over]
        for trial in [*running, *rest][:SHOWN]:
            score = "" if trial.value is None else f"{trial.value:.4g}"
            values = (shown(trial.values.get(key)) for key in self._keys)
            table.add_row(str(trial.number), *values, f"{trial.steps}/{self._steps}", score, trial.status)
        return Group(table, Text(self.line()))


def shown(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def words(values: Mapping[str, Any]) -> str:
    """Values by key, in a line."""
    return ", ".join(f"{key} {shown(value)}" for key, value in values.items())


@contextmanager
def board(
    metric: str, keys: Sequence[str], total: int, steps: int, *, higher: bool, noun: str = "search"
) -> Iterator[Board]:
    """Show trials while the block runs.

    Args:
        metric: name of the validation score.
        keys: of the trials' values.
        total: number of trials.
        steps: outer steps of a trial.
        higher: whether larger scores are better.
        noun: what the trials are of.
    """
    console = Console(stderr=True, highlight=False, file=sys.stderr)
    shown = Board(console, metric, keys, total, steps, higher=higher, noun=noun)
    if not (console.is_terminal and draws_screens()):
        yield shown
        return
    with Live(console=console, refresh_per_second=2) as live:
        shown._live = live
        yield shown

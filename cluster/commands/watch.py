"""``metaray watch``: the screen of a training that runs in another terminal."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from cluster.commands.console import AsJson, Debug, Run, print_json, reports_errors
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from cluster.history.record import Record
    from cluster.progress import Snapshot

EVERY = 1.0  # seconds between two looks at the files


@reports_errors
def watch(
    run: Run,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a screen.")] = False,
    root: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of the runs.")] = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Watch a training: loss, validation, rates, what each worker does, failures, time left; ends when the run does."""
    del debug
    from cluster.history.record import locate
    from cluster.history.watch import watched

    path = locate(run, root)
    record, snapshot = watched(path)
    if record.kind != "run":
        raise ConfigError(
            f"expected a run, received the {record.kind} '{path}'; watch one of its trials, {path}/trials/000"
        )
    if as_json or once:
        _print(record, snapshot, as_json=as_json)
        return
    console = Console(stderr=True, highlight=False, file=sys.stderr)
    screen = Live(console=console, auto_refresh=False) if console.is_terminal and not plain else None
    try:
        if screen is not None:
            screen.start()
        _follow(path, console, screen)
    finally:
        if screen is not None:
            screen.stop()
    _print(watched(path)[0], None, as_json=False)


def _print(record: "Record", snapshot: "Snapshot | None", *, as_json: bool) -> None:
    from cluster.progress import frame

    if as_json:
        print_json({**record.as_json(), "live": None if snapshot is None else snapshot.as_json()})
        return
    console = Console(stderr=True, highlight=False, file=sys.stderr)
    if snapshot is None:
        console.print(f"{record.path}: {record.status}, {record.steps} of {record.of_steps} steps", markup=False)
    else:
        console.print(frame(snapshot))


def _follow(path: Path, console: Console, screen: Live | None) -> None:
    """Show the run's state until it ends."""
    from cluster.history.watch import watched
    from cluster.progress import frame

    shown = ""
    while True:
        record, snapshot = watched(path)
        if record.status != "running":
            return
        if screen is not None:
            waiting = f"{record.name}: no training at the moment (starting, or evaluating)"
            screen.update(waiting if snapshot is None else frame(snapshot), refresh=True)
        elif snapshot is not None and snapshot.line != shown:
            shown = snapshot.line
            console.print(shown, markup=False, soft_wrap=True)
        time.sleep(EVERY)

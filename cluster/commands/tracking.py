"""``metaray tracking``: bring MLflow up to date after its server was down."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cluster.commands.console import AsJson, Debug, print_json, print_table, reports_errors
from cluster.errors import MetarayError

if TYPE_CHECKING:
    from cluster.tracking.replay import Replayed

tracking = typer.Typer(help="MLflow: send what a server that was down has missed.", no_args_is_help=True)


@tracking.callback()
def _main() -> None:
    # A callback keeps typer from turning a lone command into the program itself.
    pass


@tracking.command()
@reports_errors
def replay(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs, searches, or folders of them; default runs/.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Send MLflow what is unsent of the named runs and end those that are over; nothing is sent twice.

    Runs that are being trained now are left alone: they send what they have themselves.
    """
    del debug
    from cluster.tracking.replay import replay, tracked_folders

    done = list(replay(tracked_folders(runs or [])))
    if as_json:
        print_json({"runs": [one.as_json() for one in done]})
    else:
        _print(done)
    failed = [one for one in done if one.error is not None]
    if failed:
        raise MetarayError(
            f"{len(failed)} of {len(done)} runs could not be sent, all is kept and can be sent again:\n"
            + "\n".join(f"{one.run_dir}: {one.error}" for one in failed)
        )


def _print(done: "list[Replayed]") -> None:
    table = Table(title="sent to MLflow")
    for name in ("run", "MLflow run", "values sent", "status"):
        table.add_column(name, justify="right" if name == "values sent" else "left", overflow="fold")
    for one in done:
        table.add_row(_short(one.run_dir), one.run_id or "none", str(one.sent), one.status)
    print_table(table)


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)

"""``metaray reproduce``: rows of docs/results.md, each by one command, in the background, resumable."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cluster.commands.console import AsJson, Debug, Overrides, print_json, print_lines, print_table, reports_errors
from cluster.commands.tables import rows_table
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from cluster.reproduce.rows import Row


@reports_errors
def reproduce(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A row; without it rows are listed.")] = None,
    overrides: Overrides = None,
    record: Annotated[bool, typer.Option("--record", help="Keep the result in docs/results/ and its page.")] = False,
    renew: Annotated[bool, typer.Option("--renew", help="Write the page's tables anew from the records.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train and score a row of docs/results.md beside what is published; a second call goes on where one has ended.

    It runs at a low priority, beside other work. Overrides are about machine, folders and seeds.
    """
    del debug
    from cluster.reproduce import page, records
    from cluster.reproduce.rows import load_rows, row_of

    rows = load_rows()
    if name is None:
        if record or overrides:
            raise ConfigError("expected a row's name beside --record and overrides, received none")
        if renew:
            page.renew(rows, records.read_all())
        _list(rows, as_json)
        return
    plain = _reproduce(row_of(rows, name), overrides or [], record)
    if record or renew:
        page.renew(rows, records.read_all())
    if as_json:
        print_json(plain)
        return
    print_table(rows_table(plain))
    print_lines({"row": name, "folder": plain["compare_dir"], "page": plain["page"]} | plain["kept"])


def _reproduce(row: "Row", overrides: list[str], record: bool) -> dict[str, Any]:
    """Run a row, and keep its record if asked to."""
    from cluster.interrupts import stop_on_signals
    from cluster.reproduce.records import keep
    from cluster.reproduce.run import reproduce as run

    with stop_on_signals() as stop:
        reproduction = run(row, overrides, stop)
    for warning in reproduction.result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    kept = {"record": str(keep(reproduction, overrides))} if record else {}
    return reproduction.as_json() | {"kept": kept}


def _list(rows: Mapping[str, "Row"], as_json: bool) -> None:
    """Print the rows: what is published, what was recorded, the hours it took and the machine."""
    from cluster.reproduce.page import brief
    from cluster.reproduce.records import read_all

    lines = brief(rows, read_all())
    if as_json:
        print_json({"rows": lines})
        return
    table = Table(title="rows of docs/results.md; metaray reproduce NAME runs one")
    for head in ("name", "", "published", "ours", "hours", "machine"):
        table.add_column(head, overflow="fold")
    for line in lines:
        table.add_row(*line.values())
    print_table(table)

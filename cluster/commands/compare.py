"""``metaray compare``: variants of a configuration on one budget, from several seeds, in one table."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.console import (
    AsJson,
    Debug,
    Plain,
    Quiet,
    print_json,
    print_lines,
    print_table,
    reports_errors,
    show_progress,
)
from cluster.commands.tables import rows_table
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from cluster.compare.folder import CompareFolder
    from cluster.compare.settings import Comparison


@reports_errors
def compare(
    comparison: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="A YAML file with a section 'compare', or a name of `metaray configs`."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. compare.seeds=5 compare.budget.steps=500")
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="COMPARISON", help="Go on with this comparison.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the comparison; one that is there goes on.")] = None,
    quiet: Quiet = False,
    plain: Plain = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train rows of changes to a configuration on one budget and several seeds; table, intervals, picture.

    With --resume the file is left out; the comparison goes on with its own.
    """
    del debug
    show_progress(quiet=quiet, plain=plain)
    from cluster.compare.run import run
    from cluster.interrupts import stop_on_signals

    loaded, folder = _chosen(comparison, overrides or [], resume, name)
    with stop_on_signals() as stop:
        result = run(loaded, folder, stop)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    summary = result.as_json() | {"figures": [str(path) for path in result.figures]}
    if as_json:
        print_json(summary)
        return
    print_table(rows_table(summary))
    lines = {"comparison": summary["compare_dir"], "page": summary["page"]}
    lines |= {f"figure {Path(path).stem}": path for path in summary["figures"]}
    if summary["run_id"] is not None:
        lines["MLflow"] = f"run {summary['run_id']}"
    print_lines(lines)


def _chosen(
    comparison: str | None, overrides: list[str], resume: str | None, name: str | None
) -> "tuple[Comparison, CompareFolder]":
    """The comparison that is asked for and its folder, one that is there or a new one."""
    from cluster.compare import folder as folders
    from cluster.compare.settings import load, reload

    if resume is not None and name is not None:
        raise ConfigError(
            "expected --resume COMPARISON or --name NAME, received both; a comparison has its name already"
        )
    if resume is not None:
        folder = folders.find(resume)
        words = [*([] if comparison is None else [comparison]), *overrides]
        return reload(folder.path / folders.SETTINGS, words), folder
    if comparison is None:
        raise ConfigError("expected a comparison file, received none; for example: metaray compare compare/sinusoid")
    loaded = load(Path(comparison), overrides)
    return loaded, folders.named_or_new(loaded, name, Path(comparison).stem)

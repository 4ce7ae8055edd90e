"""``metaray tune``: search step sizes, or any other keys of a configuration."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from cluster.commands.tables import plain_interval, trials_table
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from cluster.search.folder import SearchFolder
    from cluster.search.settings import Search


@reports_errors
def tune(
    search: Annotated[
        str | None,
        typer.Argument(metavar="[SEARCH]", help="A YAML file with a section 'search', or a name of `metaray configs`."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. search.trials=32 outer.steps=2000")
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="SEARCH", help="Go on with this search.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the search; one that is there goes on.")] = None,
    quiet: Quiet = False,
    plain: Plain = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Search a space of configurations on Ray Tune: many trainings, bad ones stopped early, the best looked at again.

    With --resume the file is left out; the search goes on with its own.
    """
    del debug
    show_progress(quiet=quiet, plain=plain)
    from cluster.interrupts import stop_on_signals
    from cluster.search.outcome import outcome
    from cluster.search.run import run

    loaded, folder = _chosen(search, overrides or [], resume, name)
    with stop_on_signals() as stop:
        result = run(loaded, folder, stop)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    summary = outcome(result)
    if as_json:
        print_json(summary)
        return
    print_table(trials_table(summary))
    _print_best(summary)


def _chosen(
    search: str | None, overrides: list[str], resume: str | None, name: str | None
) -> "tuple[Search, SearchFolder]":
    """The search that is asked for and its folder, one that is there or a new one."""
    from cluster.registry.client import require_names
    from cluster.search import folder as folders
    from cluster.search.settings import load, reload

    if resume is not None and name is not None:
        raise ConfigError("expected --resume SEARCH or --name NAME, received both; a search has its name already")
    if resume is not None:
        folder = folders.find(resume)
        return reload(folder.path / "search.yaml", [*([] if search is None else [search]), *overrides]), folder
    if search is None:
        raise ConfigError("expected a search file, received none; for example: metaray tune search/sinusoid")
    loaded = load(Path(search), overrides)
    if loaded.settings.register_as is not None:
        require_names(loaded.settings.register_as, loaded.settings.alias)
    return loaded, folders.named_or_new(loaded, name, Path(search).stem)


def _print_best(plain: Mapping[str, Any]) -> None:
    from cluster.search.board import shown

    best = plain["best"]
    lines = {"best": f"trial {best['trial']}: " + ", ".join(f"{k}={shown(v)}" for k, v in best["values"].items())}
    for name, words in (("lead", "the runner-up"), ("gain", "the base configuration")):
        if plain[name] is not None:
            sure = "sure" if plain[name]["sure"] else "not sure"
            lines[name] = f"{plain_interval(plain[name])} over {words}, trial {plain[name]['over']}: {sure}"
    lines |= {"run": best["run_dir"], "search": plain["search_dir"]}
    lines |= {f"figure {Path(path).stem}": path for path in plain["figures"]}
    if "registered" in plain:
        lines["registered"] = plain["registered"]["uri"]
    if plain["run_id"] is not None:
        lines["MLflow"] = f"run {plain['run_id']}"
    print_lines(lines)

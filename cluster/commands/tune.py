"""``metaray tune``: search step sizes, or any other keys of a configuration."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cluster.commands.console import AsJson, Debug, print_json, print_lines, print_table, reports_errors
from cluster.errors import ConfigError, MetarayError

if TYPE_CHECKING:
    from cluster.search.folder import SearchFolder
    from cluster.search.settings import Search

SHOWN = 12  # trials in the table at the end


@reports_errors
def tune(
    search: Annotated[
        str | None, typer.Argument(metavar="[SEARCH]", help="A YAML file with a section 'search'.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. search.trials=32 outer.steps=2000")
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="SEARCH", help="Go on with this search.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the search; one that is there goes on.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Search a space of configurations on Ray Tune: many trainings, bad ones stopped early, the best looked at again.

    With --resume the file is left out; the search goes on with its own.
    """
    del debug
    from cluster.interrupts import stop_on_signals
    from cluster.registry.register import register
    from cluster.search.run import run

    loaded, folder = _chosen(search, overrides or [], resume, name)
    with stop_on_signals() as stop:
        result = run(loaded, folder, stop)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    plain = result.as_json() | {"figures": [str(path) for path in result.figures]}
    name, alias = loaded.settings.register_as, loaded.settings.alias
    if name is not None:
        best = folder.run(result.best.number)
        try:
            plain["registered"] = register(best, name, alias=alias).as_json()
        except MetarayError as error:
            raise MetarayError(
                f"the search is done (see {folder.path}), but its best trial could not be registered: {error}. "
                f"Register it with: metaray register {best.path} --name {name}" + (f" --alias {alias}" if alias else "")
            ) from error
    if as_json:
        print_json(plain)
        return
    _print_trials(plain)
    _print_best(plain)


def _chosen(
    search: str | None, overrides: list[str], resume: str | None, name: str | None
) -> "tuple[Search, SearchFolder]":
    """The search that is asked for and its folder, one that is there or a new one."""
    from cluster.registry.client import require_names
    from cluster.runs.folder import new_name
    from cluster.search import folder as folders
    from cluster.search.settings import load, reload

    if resume is not None and name is not None:
        raise ConfigError("expected --resume SEARCH or --name NAME, received both; a search has its name already")
    if resume is not None:
        folder = folders.find(resume)
        return reload(folder.path / "search.yaml", [*([] if search is None else [search]), *overrides]), folder
    if search is None:
        raise ConfigError(
            "expected a search file, received none; for example: metaray tune tune_configs/search/sinusoid.yaml"
        )
    loaded = load(Path(search), overrides)
    if loaded.settings.register_as is not None:
        require_names(loaded.settings.register_as, loaded.settings.alias)
    if name is not None:
        return loaded, folders.plan_named(loaded, name)
    return loaded, folders.plan(loaded, new_name(f"search-{Path(search).stem}"))


def _print_trials(plain: Mapping[str, Any]) -> None:
    """A table of the trials, those that were looked at again first."""
    from cluster.search.board import shown

    again = list(plain["confirmed"])
    rest = [trial for trial in plain["trials"] if str(trial["trial"]) not in again]
    scored = [trial for trial in rest if trial["value"] is not None]
    trials = {str(trial["trial"]): trial for trial in plain["trials"]}
    order = [trials[number] for number in again] + scored + [trial for trial in rest if trial["value"] is None]
    table = Table(title=f"{plain['metric']}, best of a trial; again: on fresh validation tasks, mean ± 95 % interval")
    table.add_column("trial", justify="right")
    for key in plain["best"]["values"]:
        table.add_column(key, justify="right")
    for name in ("steps", plain["metric"], "again"):
        table.add_column(name, justify="right")
    table.add_column("")
    for trial in order[:SHOWN]:
        confirmed = plain["confirmed"].get(str(trial["trial"]))
        table.add_row(
            f"{trial['trial']}{' (base)' if trial['trial'] == plain['base'] else ''}",
            *(shown(value) for value in trial["values"].values()),
            str(trial["steps"]),
            "" if trial["value"] is None else f"{trial['value']:.4g}",
            "" if confirmed is None else _interval(confirmed),
            trial["status"],
        )
    if len(order) > SHOWN:
        table.caption = f"and {len(order) - SHOWN} more, in {plain['search_dir']}"
    print_table(table)


def _print_best(plain: Mapping[str, Any]) -> None:
    from cluster.search.board import shown

    best = plain["best"]
    lines = {"best": f"trial {best['trial']}: " + ", ".join(f"{k}={shown(v)}" for k, v in best["values"].items())}
    for name, words in (("lead", "the runner-up"), ("gain", "the base configuration")):
        if plain[name] is not None:
            sure = "sure" if plain[name]["sure"] else "not sure"
            lines[name] = f"{_interval(plain[name])} over {words}, trial {plain[name]['over']}: {sure}"
    lines |= {"run": best["run_dir"], "search": plain["search_dir"]}
    lines |= {f"figure {Path(path).stem}": path for path in plain["figures"]}
    if "registered" in plain:
        lines["registered"] = plain["registered"]["uri"]
    if plain["run_id"] is not None:
        lines["MLflow"] = f"run {plain['run_id']}"
    print_lines(lines)


def _interval(figure: Mapping[str, Any]) -> str:
    from cluster.evaluation.protocol import mean_in_words

    return mean_in_words(figure, mean=".4g", half=".2g")

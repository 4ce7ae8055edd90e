"""``metaray train``: meta-train, evaluate, draw."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.console import (
    AsJson,
    Debug,
    Overrides,
    Plain,
    Quiet,
    print_json,
    print_lines,
    print_table,
    reports_errors,
    show_progress,
)
from cluster.commands.tables import evaluation_table, further_tables
from cluster.errors import ConfigError
from cluster.progress import warn

if TYPE_CHECKING:
    from cluster.runs.events import Event
    from cluster.training.start import Start


@reports_errors
def train(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A YAML file, or a name of `metaray configs`.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with this run.")] = None,
    begin_from: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="Begin with the θ of a run, or of models:/NAME@ALIAS.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the run; one that is there goes on.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say which engine runs, and why no other.")] = False,
    quiet: Quiet = False,
    plain: Plain = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Meta-train, evaluate on held-out tasks, draw the figures, keep the run in MLflow.

    With --resume RUN the configuration may be left out; it is then the run's own. --from RUN is model.weights with the
    best checkpoint of that run.
    """
    del debug
    show_progress(quiet=quiet, plain=plain)
    from cluster.interrupts import stop_on_signals
    from cluster.training import run as training

    start = _start(config, overrides or [], resume, begin_from, name)
    folder = start.folder
    if verbose:
        _print_engine(folder.info)
    with stop_on_signals() as stop:
        outcome = training.run(start, stop)
    for warning in outcome.warnings:
        warn(warning)
    if as_json:
        print_json(outcome.as_json())
        return
    for table in (evaluation_table(outcome.evaluation), *further_tables(outcome.evaluation)):
        print_table(table)
    rate = f"{outcome.steps} outer steps, {outcome.seconds:.0f} s"
    print_lines(
        {"trained": rate}
        | ({"events": _lost(outcome.events)} if outcome.events else {})
        | ({"frozen": ", ".join(frozen)} if (frozen := folder.info.get("frozen")) else {})
        | {"run": folder.path, "page": folder.path / "report.html"}
        | {f"figure {path.stem}": path for path in outcome.figures}
        | {"MLflow": _tracked(folder.info)}
    )


def _start(
    config: str | None, overrides: list[str], resume: str | None, begin_from: str | None, name: str | None
) -> "Start":
    """The training that the command's words ask for, checked; see :func:`train`."""
    from cluster.config.overrides import is_override, with_values
    from cluster.config.schema import load, overridden, parse
    from cluster.runs.folder import find
    from cluster.training import start as starts
    from cluster.training.weights import weights_of

    if resume is not None and name is not None:
        raise ConfigError("expected --resume RUN or --name NAME, received both; a run has its name already")
    if resume is not None and begin_from is not None:
        raise ConfigError("expected --resume RUN or --from RUN, received both; a run that goes on has its θ already")
    if config is not None and is_override(config) and resume is not None:
        overrides, config = [config, *overrides], None
    if resume is not None:
        folder = find(resume)
        return starts.resume(load(Path(config), overrides) if config else overridden(folder.config, overrides), folder)
    if config is None:
        raise ConfigError(
            "expected a configuration, received none; for example: metaray train sinusoid_demo (see: metaray configs)"
        )
    loaded = load(Path(config), overrides)
    if begin_from is not None:
        values = {"model.weights": weights_of(begin_from, loaded)}
        loaded = parse(with_values(loaded.model_dump(mode="json"), values))
    return starts.named_or_new(loaded, name, Path(config).stem)


def _lost(events: "Sequence[Event]") -> str:
    """Events of workers and nodes by kind, with their seconds.

    >>> from cluster.runs.events import Event
    >>> _lost([Event(kind="worker lost", text="", seconds=1.24), Event(kind="node joined", text="")])
    'worker lost: 1 (1.2 s), node joined: 1'
    """
    from cluster.runs.events import summary

    return ", ".join(
        f"{kind}: {count}" + (f" ({seconds:.1f} s)" if seconds else "")
        for kind, (count, seconds) in summary(events).items()
    )


def _tracked(info: Mapping[str, Any]) -> str:
    """Where MLflow has a run, or that it has none yet."""
    run = info["mlflow_run_id"]
    return f"run {run} in {info['mlflow_uri']}" if run else "not there yet; send it with: metaray tracking replay"


def _print_engine(info: Mapping[str, Any]) -> None:
    """Print the engine of a run, why it was chosen, and why others were not."""
    print(f"engine {info['engine']}: {info.get('engine_reason', 'of an earlier version')}", file=sys.stderr)
    for name, reason in info.get("engines_passed_over", {}).items():
        print(f"engine {name} passed over: {reason}", file=sys.stderr)

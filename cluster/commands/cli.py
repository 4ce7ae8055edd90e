"""The command line: ``metaray``, also ``python -m cluster``. Results on standard output, all else on standard error."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cluster.commands.bench import bench
from cluster.commands.console import AsJson, Debug, Trust, print_json, print_lines, print_table, reports_errors, warn
from cluster.commands.data import data
from cluster.commands.register import register
from cluster.commands.serve import serve
from cluster.commands.submit import submit
from cluster.commands.tracking import tracking
from cluster.commands.tune import tune
from cluster.errors import ConfigError
from cluster.own_packages import put_first

app = typer.Typer(
    name="metaray",
    help="Distributed model-agnostic meta-learning on PyTorch and Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data, name="data")
app.add_typer(tracking, name="tracking")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. inner.lr=0.02")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, its name under runs/, or its MLflow run id.")]


@app.callback()
def _main() -> None:
    # A callback keeps typer from turning a lone command into the program itself.
    pass


@app.command()
@reports_errors
def train(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="A YAML file.")] = None,
    overrides: Overrides = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with this run.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the run; one that is there goes on.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Say which engine runs, and why no other.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Meta-train, evaluate on held-out tasks, draw the figures, keep the run in MLflow.

    With --resume RUN the configuration may be left out; it is then the run's own.
    """
    del debug
    from cluster.config.schema import is_override, load, overridden
    from cluster.interrupts import stop_on_signals
    from cluster.runs.checkpoint import require_config
    from cluster.runs.folder import find, new_name
    from cluster.training import run as training
    from cluster.training.start import plan_folder, plan_named

    if resume is not None and name is not None:
        raise ConfigError("expected --resume RUN or --name NAME, received both; a run has its name already")
    if config is not None and is_override(config) and resume is not None:
        overrides, config = [config, *(overrides or [])], None
    if resume is not None:
        folder = find(resume)
        own = folder.config
        loaded = load(Path(config), overrides or []) if config else overridden(own, overrides or [])
        require_config(str(folder.path), own, loaded, moved=True)
    elif config is None:
        raise ConfigError(
            "expected a configuration file, received none; for example: metaray train tune_configs/sinusoid.yaml"
        )
    else:
        loaded = load(Path(config), overrides or [])
        folder = plan_folder(loaded, new_name(Path(config).stem)) if name is None else plan_named(loaded, name)
    if verbose:
        _print_engine(folder.info)
    with stop_on_signals() as stop:
        outcome = training.run(loaded, folder, stop)
    for warning in outcome.warnings:
        warn(warning)
    if as_json:
        print_json(outcome.as_json())
        return
    _print_evaluation(outcome.evaluation)
    rate = f"{outcome.steps} outer steps, {outcome.seconds:.0f} s"
    print_lines(
        {"trained": rate}
        | ({"frozen": ", ".join(frozen)} if (frozen := folder.info.get("frozen")) else {})
        | {"run": folder.path, "page": folder.path / "report.html"}
        | {f"figure {path.stem}": path for path in outcome.figures}
        | {"MLflow": _tracked(folder.info)}
    )


@app.command()
@reports_errors
def evaluate(
    run: Run,
    overrides: Overrides = None,
    tasks: Annotated[int | None, typer.Option(help="Number of held-out tasks.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="K,K,…", help="Numbers of inner steps.")] = None,
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    trust: Trust = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Evaluate a run and its baselines on held-out tasks: mean and 95 % interval at each number of inner steps."""
    del debug
    from cluster.evaluation.run import evaluate_named

    asked = list(overrides or [])
    asked += [] if tasks is None else [f"eval.tasks={tasks}"]
    asked += [] if steps is None else [f"eval.steps=[{steps}]"]
    evaluation = evaluate_named(run, asked, split, trust or ())
    for warning in evaluation.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    if as_json:
        print_json(evaluation)
    else:
        _print_evaluation(evaluation)


@app.command()
@reports_errors
def report(run: Run, overrides: Overrides = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Draw a run's figures and write its page, report.html."""
    del debug
    from cluster.runs.folder import find
    from cluster.training.run import draw

    folder = find(run)
    figures = draw(folder, overrides or [])
    page = folder.path / "report.html"
    if as_json:
        print_json({"page": str(page), "figures": [str(path) for path in figures]})
    else:
        print_lines({"page": page} | {f"figure {path.stem}": path for path in figures})


app.command()(tune)
app.command()(register)
app.command()(serve)
app.command()(bench)
app.command()(submit)


def _tracked(info: Mapping[str, Any]) -> str:
    """Where MLflow has a run, or that it has none yet."""
    run = info["mlflow_run_id"]
    return f"run {run} in {info['mlflow_uri']}" if run else "not there yet; send it with: metaray tracking replay"


def _print_engine(info: Mapping[str, Any]) -> None:
    """Which engine a run came to, why, and why others were passed over."""
    print(f"engine {info['engine']}: {info.get('engine_reason', 'of an earlier version')}", file=sys.stderr)
    for name, reason in info.get("engines_passed_over", {}).items():
        print(f"engine {name} passed over: {reason}", file=sys.stderr)


def _print_evaluation(evaluation: Mapping[str, Any]) -> None:
    """A table of the metric against the number of inner steps, one row per algorithm and kind of task."""
    from cluster.evaluation.protocol import rows

    table = Table(
        title=f"{evaluation['metric']} after inner steps, mean ± 95 % interval (median)",
        caption=f"{evaluation['tasks']} {evaluation['split']} tasks, {_sampled(evaluation)}",
    )
    table.add_column("")
    for number in evaluation["steps"]:
        table.add_column(f"{number} steps" if number != "1" else "1 step", justify="right")
    for name, figures in rows(evaluation, evaluation["algorithm"]):
        table.add_row(name, *(_cell(figure) for figure in figures.values()))
    print_table(table)


def _sampled(evaluation: Mapping[str, Any]) -> str:
    """What was sampled of a task, and how it was adapted to."""
    from cluster.evaluation.protocol import is_acted, kinds_in_words, step_size, trajectories

    alpha = f"α {step_size(evaluation)}"
    if evaluation.get("kind_tasks"):
        alpha += f", mean over kinds of task ({kinds_in_words(evaluation['kind_tasks'])})"
    if is_acted(evaluation):
        return f"{trajectories(evaluation)} per inner step, {alpha}"
    batch_norm = f", batch norm {evaluation['batch_norm']}" if evaluation["batch_norm"] else ""
    return f"{evaluation['shot']} support and {evaluation['query_per_class']} query examples, {alpha}{batch_norm}"


def _cell(figure: Mapping[str, Any]) -> str:
    from cluster.evaluation.protocol import mean_in_words

    mean = mean_in_words(figure, mean=".3f", half=".3f")
    median = "" if figure["median"] is None else f" ({figure['median']:.3f})"
    return mean + median + (f", {figure['diverged']} diverged" if figure["diverged"] else "")


def main() -> None:
    """Entry point of the ``metaray`` command.

    Classes of the user's own are found from the working directory; a folder there that is called ``tasks`` or ``meta``
    does not stand in for the product's own package.
    """
    put_first()
    if "" not in sys.path:
        sys.path.insert(0, "")
    app()

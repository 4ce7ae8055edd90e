"""``metaray register``: a run's best θ as a version of a model in MLflow's registry."""

import sys
from typing import Annotated

import typer

from cluster.commands.console import AsJson, Debug, Trust, print_json, print_lines, reports_errors
from cluster.interrupts import interrupt_on_signals


@reports_errors
def register(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, its name under runs/, or its MLflow run id.")
    ],
    name: Annotated[str, typer.Option(help="Name of the registered model; it is made if there is none.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="task.root, cluster.… or tracking.uri.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Name for the version, e.g. champion.")] = None,
    if_better: Annotated[
        bool,
        typer.Option("--if-better", help="Move the alias, champion by default, only if it beats the present one."),
    ] = False,
    tasks: Annotated[int | None, typer.Option(min=2, help="Test tasks of that comparison.")] = None,
    trust: Trust = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Package a run's best model and register it in MLflow, from where anyone loads it and adapts it to new tasks.

    With --if-better the version is registered in any case, and gets the alias only if the 95 % interval of its gain
    over the version that has it, on the same test tasks, lies above zero.
    """
    del debug
    from cluster.registry.register import register as registered
    from cluster.runs.folder import find

    with interrupt_on_signals():
        result = registered(
            find(run),
            name,
            alias=alias,
            if_better=if_better,
            tasks=tasks,
            overrides=tuple(overrides or ()),
            trusted=trust or (),
        )
    if as_json:
        print_json(result.as_json())
        return
    print_lines(
        {"registered": result.uri}
        | ({result.alias: "this version" if result.promoted else f"version {result.champion}"} if result.alias else {})
        | ({"comparison": result.verdict} if result.verdict else {})
    )
    print(f"load it with: mlflow.pyfunc.load_model('{result.uri}')", file=sys.stderr)

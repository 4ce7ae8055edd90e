"""``metaray evaluate``: scores on held-out tasks."""

from typing import Annotated

import typer

from cluster.commands.console import AsJson, Debug, Overrides, Run, Trust, print_json, print_table, reports_errors
from cluster.commands.tables import evaluation_table, further_tables
from cluster.progress import warn


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
    from cluster.registry.evaluate import evaluate_named

    changes = list(overrides or [])
    changes += [] if tasks is None else [f"eval.tasks={tasks}"]
    changes += [] if steps is None else [f"eval.steps=[{steps}]"]
    evaluation = evaluate_named(run, changes, split, trust or ())
    for warning in evaluation.get("warnings", ()):
        warn(warning)
    if as_json:
        print_json(evaluation)
    else:
        for table in (evaluation_table(evaluation), *further_tables(evaluation)):
            print_table(table)

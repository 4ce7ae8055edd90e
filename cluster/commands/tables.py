"""Tables of results on standard output."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from cluster.commands.console import print_table


def print_evaluation(evaluation: Mapping[str, Any]) -> None:
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
    """Shot, query examples and α of an evaluation, or its trajectories and α, in one line."""
    from cluster.evaluation.protocol import is_rl, kinds_in_words, step_size, trajectories

    alpha = f"α {step_size(evaluation)}"
    if evaluation.get("kind_tasks"):
        alpha += f", mean over kinds of task ({kinds_in_words(evaluation['kind_tasks'])})"
    if is_rl(evaluation):
        return f"{trajectories(evaluation)} per inner step, {alpha}"
    batch_norm = f", batch norm {evaluation['batch_norm']}" if evaluation["batch_norm"] else ""
    return f"{evaluation['shot']} support and {evaluation['query_per_class']} query examples, {alpha}{batch_norm}"


def _cell(figure: Mapping[str, Any]) -> str:
    from cluster.evaluation.protocol import mean_in_words

    mean = mean_in_words(figure, mean=".3f", half=".3f")
    median = "" if figure["median"] is None else f" ({figure['median']:.3f})"
    return mean + median + (f", {figure['diverged']} diverged" if figure["diverged"] else "")

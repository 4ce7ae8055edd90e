"""Tables of results on standard output."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cluster.commands.console import print_table


def print_evaluation(evaluation: Mapping[str, Any]) -> None:
    """A table of the metric against the number of inner steps, one row per algorithm and kind of task; then others.

    Args:
        evaluation: as in ``evaluation.json``; the scores of ``eval.scores`` have a table each.
    """
    from cluster.evaluation.protocol import further_rows, rows

    label = evaluation["algorithm"]
    caption = f"{evaluation['tasks']} {evaluation['split']} tasks, {_sampled(evaluation)}"
    _print_scores(evaluation["metric"], rows(evaluation, label), caption)
    for score, learners in further_rows(evaluation, label).items():
        _print_scores(score, learners)


def _print_scores(metric: str, learners: Sequence[tuple[str, Mapping[str, Any]]], caption: str | None = None) -> None:
    """A table of one score: a row for each name, a column for each number of inner steps."""
    table = Table(title=f"{metric} after inner steps, mean ± 95 % interval (median)", caption=caption)
    table.add_column("")
    for number in learners[0][1]:
        table.add_column(f"{number} steps" if number != "1" else "1 step", justify="right")
    for name, figures in learners:
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
    counts = [f", {figure[name]} {name}" for name in ("diverged", "undefined") if figure.get(name)]
    return mean + median + "".join(counts)

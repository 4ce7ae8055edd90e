"""Tables of results, as commands print them and notebooks show them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

SHOWN = 12  # trials of a search


def evaluation_table(evaluation: Mapping[str, Any]) -> Table:
    """A table of the metric against the number of inner steps, one row per algorithm and kind of task.

    Args:
        evaluation: as in ``evaluation.json``.
    """
    from cluster.evaluation.protocol import rows

    caption = f"{evaluation['tasks']} {evaluation['split']} tasks, {_sampled(evaluation)}"
    return _scores_table(evaluation["metric"], rows(evaluation, evaluation["algorithm"]), caption)


def further_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """A table for each of the scores of ``eval.scores``.

    Args:
        evaluation: as in ``evaluation.json``.
    """
    from cluster.evaluation.protocol import further_rows

    of_scores = further_rows(evaluation, evaluation["algorithm"])
    return [_scores_table(score, learners) for score, learners in of_scores.items()]


def _scores_table(metric: str, learners: Sequence[tuple[str, Mapping[str, Any]]], caption: str | None = None) -> Table:
    """A table of one score: a row for each name, a column for each number of inner steps."""
    table = Table(title=f"{metric} after inner steps, mean ± 95 % interval (median)", caption=caption)
    table.add_column("")
    for number in learners[0][1]:
        table.add_column(f"{number} steps" if number != "1" else "1 step", justify="right")
    for name, figures in learners:
        table.add_row(name, *(_cell(figure) for figure in figures.values()))
    return table


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


def trials_table(plain: Mapping[str, Any]) -> Table:
    """A table of a search's trials, those that were looked at again first; ``plain`` as ``tune --json`` prints it."""
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
            "" if confirmed is None else plain_interval(confirmed),
            trial["status"],
        )
    if len(order) > SHOWN:
        table.caption = f"and {len(order) - SHOWN} more, in {plain['search_dir']}"
    return table


def plain_interval(figure: Mapping[str, Any]) -> str:
    """A mean with its half-width, in plain text."""
    from cluster.evaluation.protocol import mean_in_words

    return mean_in_words(figure, mean=".4g", half=".2g")


def rows_table(plain: Mapping[str, Any]) -> Table:
    """A table of a comparison's rows; ``plain`` as ``compare --json`` prints it."""
    first, metric = plain["rows"][0]["name"], plain["metric"]
    table = Table(
        title=f"{metric}, mean ± 95 % interval over tasks, ± over {len(plain['seeds'])} seeds; difference to {first}, "
        "positive where better"
    )
    table.add_column("row", overflow="fold")
    for name in ("score", "seeds", "difference", "seeds", "outer steps", "seconds", "peak MB", "parameters"):
        table.add_column(name, justify="right")
    for row in plain["rows"]:
        evaluation, difference = row["evaluation"], row["difference"]
        score = None if evaluation is None else evaluation["steps"][str(row["inner_steps"])]
        used = {"steps": ",d", "seconds": ",.1f", "peak_memory_mb": ",.0f", "parameters": ",d"}
        table.add_row(
            row["name"],
            *_over_seeds(score, missing="no score"),
            *_over_seeds(difference, missing=""),
            *("" if row[key] is None else format(row[key], form) for key, form in used.items()),
        )
    return table


def _over_seeds(figures: Mapping[str, Any] | None, missing: str) -> tuple[str, str]:
    """A mean with its half-width over tasks, and the half-width over seeds."""
    from cluster.evaluation.protocol import mean_in_words

    if figures is None or figures["mean"] is None:
        return missing, ""
    seeds = "" if figures["ci95_seeds"] is None else f"± {figures['ci95_seeds']:.2g}"
    return mean_in_words(figures, mean=".4g", half=".2g"), seeds

"""A search's page: one HTML file that holds its figures, its trials and how sure their ranking is."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.credentials import without_credentials
from cluster.reports.figures import save
from cluster.reports.figures.coordinates import parallel_coordinates
from cluster.reports.figures.landscapes import landscape
from cluster.reports.figures.searches import Confirmed, Searched, key_of, known, metric_of, plain, setting, shortened
from cluster.reports.figures.trials import confirmation, trial_curves
from cluster.reports.html import embedded, interval, rounded, template
from cluster.reports.run_page import Drawn
from cluster.runs.storage import write_file

FIGURES = {
    "landscape": landscape,
    "parallel_coordinates": parallel_coordinates,
    "trial_curves": trial_curves,
    "confirmation": confirmation,
}
SPACINGS = {"log": "logarithmic", "linear": "linear", "integer": "whole numbers"}


def draw_search(searched: Searched, folder: Path) -> Drawn:
    """Draw what a search has found into a folder.

    Args:
        searched: the search.
        folder: where to write; made if it is not there.

    Returns:
        Of ``landscape.png``, ``parallel_coordinates.png``, ``trial_curves.png`` and ``confirmation.png`` those that
        could be drawn, and in sentences why others are missing.
    """
    made = {name: draw(searched) for name, draw in FIGURES.items()}
    notes = [outcome for outcome in made.values() if isinstance(outcome, str)]
    figures = {name: figure for name, figure in made.items() if not isinstance(figure, str)}
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png")
    return Drawn([folder / f"{name}.png" for name in figures], notes)


def write_search_page(
    searched: Searched, folder: Path, drawn: Drawn, *, name: str, base: str, facts: Mapping[str, str]
) -> Path:
    """Write ``search.html`` into a folder.

    Args:
        searched: the search.
        folder: where to write; made if it is not there.
        drawn: its figures, and why others are missing.
        name: what the search is called.
        base: path of its base configuration, for the command that trains the best setting.
        facts: what it was done with, such as the searcher, the scheduler and the MLflow run, in their order.

    Returns:
        The page's path.

    Raises:
        MetarayError: if a figure is missing or damaged.
    """
    metric, words = metric_of(searched)
    page = template("search").render(
        name=name,
        lead=_lead(searched),
        words=words,
        settings=_settings(searched),
        command=_command(searched, base),
        confirmed=_confirmed_rows(searched),
        sureness=how_sure(searched),
        figures=[embedded(path) for path in drawn.paths],
        notes=drawn.notes,
        keys=[key_of(axis) for axis in searched.axes],
        trials=_trial_rows(searched, metric),
        facts={term: without_credentials(fact) for term, fact in facts.items()},
    )
    write_file(folder / "search.html", page.encode())
    return folder / "search.html"


def how_sure(searched: Searched) -> list[str]:
    """In sentences, how far the ranking holds on tasks that played no part in the choice.

    Two trials are told apart if their difference is larger than the half-width of its interval, which is corrected for
    the number of differences; see :meth:`cluster.search.ranking.Result.lead`.
    """
    ranked = searched.confirmed_ranked()
    kept = {one.trial.number for one in ranked}
    lost = [f"#{number}" for number in sorted(searched.confirmed) if number not in kept]
    lines = [f"{_listed(lost)} had no finite score on fresh tasks."] if lost else []
    if len(searched.ranked()) < 2:
        return ["Fewer than two trials have a score, so that there is nothing to rank.", *lines]
    if not ranked:
        return [
            "The ranking rests on the validation tasks of the search alone, among which the best was chosen: its score "
            "is too good on average, and trials close to it may be as good.",
            *lines,
        ]
    first, *others = ranked
    leader = searched.named(first.trial)
    if searched.best is not None and first.trial.number != searched.best:
        best = next((one for one in others if one.trial.number == searched.best), None)
        beside = "was not evaluated on them" if best is None else f"is {_apart(best)}"
        lines.append(f"On fresh tasks {leader} leads; the best of the search, #{searched.best}, {beside}.")
    close = [searched.named(one.trial) for one in others if one.behind <= one.error]
    apart = [searched.named(one.trial) for one in others if one.behind > one.error]
    if close:
        verb = "is" if len(close) == 1 else "are"
        lines.append(f"{_listed(close)} {verb} not told apart from {leader}: more tasks would be needed to rank them.")
    if apart:
        verb = "is" if len(apart) == 1 else "are"
        lines.append(f"{_listed(apart)} {verb} worse than {leader} by more than chance explains (95 %).")
    if not others:
        lines.append(f"Only {leader} was evaluated on fresh tasks, so that it is not compared with others.")
    return lines


def _apart(one: Confirmed) -> str:
    return "worse by more than chance explains" if one.behind > one.error else "not told apart from it"


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence, the first letter large where it begins."""
    *first, last = names
    text = f"{', '.join(first)} and {last}" if first else last
    return text[0].upper() + text[1:]


def _lead(searched: Searched) -> str:
    """The search in one sentence."""
    metric, words = metric_of(searched)
    count = f"{len(searched.trials)} trial{'' if len(searched.trials) == 1 else 's'}"
    best, base = searched.trial(searched.best), searched.trial(searched.base)
    if best is None:
        return f"{count}, none with a score."
    result = f"{count}; best {words}: {rounded(best.score, metric)} (#{best.number})"
    if base is None:
        return f"{result}. The present setting was not among them."
    if base.number == best.number:
        return f"{result}, the present setting."
    score = known(base)
    other = base.status if score is None else rounded(score, metric)
    return f"{result}, with the present setting {other} (#{base.number})."


def _settings(searched: Searched) -> list[tuple[str, str, str, str]]:
    """Per key: its name, the best setting, the present one, and what was searched."""
    best, base = searched.trial(searched.best), searched.trial(searched.base)
    rows = []
    for axis in searched.axes:
        best_value, base_value = (
            shortened(plain(trial.values[axis.key])) if trial is not None and axis.key in trial.values else "–"
            for trial in (best, base)
        )
        space = ", ".join(map(plain, axis.choices))
        if axis.kind != "categories":
            space = f"{setting(axis.low)} to {setting(axis.high)}, {SPACINGS[axis.kind]}"
        rows.append((key_of(axis), best_value, base_value, space))
    return rows


def _command(searched: Searched, base: str) -> str | None:
    """The command that trains the best setting anew; None if there is no best trial."""
    best = searched.trial(searched.best)
    if best is None:
        return None
    overrides = [f"{axis.key}={plain(best.values[axis.key])}" for axis in searched.axes if axis.key in best.values]
    return shlex.join(["metaray", "train", without_credentials(base), *overrides])


def _confirmed_rows(searched: Searched) -> list[list[str]]:
    """Per trial: its name, its score in the search, on fresh tasks, and how far it is behind the best there."""
    metric, _ = metric_of(searched)
    rows = []
    for place, one in enumerate(searched.confirmed_ranked()):
        score = known(one.trial)
        behind = {"mean": one.behind, "ci95": one.error}
        rows.append(
            [
                searched.named(one.trial),
                "–" if score is None else rounded(score, metric),
                interval({"mean": one.mean, "ci95": one.half}, metric),
                interval(behind, metric) if place else "–",
            ]
        )
    return rows


def _trial_rows(searched: Searched, metric: str) -> list[dict[str, Any]]:
    """The trials as the template wants them: those with a score from best to worst, then the others."""
    ranked = searched.ranked()
    placed = {trial.number for trial in ranked}
    rows = []
    for trial in [*ranked, *(trial for trial in searched.trials if trial.number not in placed)]:
        values = [setting(trial.values[axis.key]) if axis.key in trial.values else "–" for axis in searched.axes]
        score = known(trial)
        status = "stopped early" if trial.status == "stopped" else trial.status
        cells = [*values, "–" if score is None else rounded(score, metric), str(trial.steps), status]
        stands_out = trial.number in (searched.best, searched.base)
        rows.append({"name": searched.named(trial), "cells": cells, "stands_out": stands_out})
    return rows

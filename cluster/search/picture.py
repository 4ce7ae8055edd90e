"""Conversion of a search's result to its figures and its page."""

from typing import Any

from cluster.reports.figures.searches import Axis, Searched
from cluster.reports.figures.searches import Trial as Drawn
from cluster.reports.search_page import draw_search, write_search_page
from cluster.search.ranking import Result
from cluster.search.space import Domain


def draw(result: Result) -> None:
    """Draw the figures of a search and write its page; their paths are added to the result."""
    picture, settings, folder = searched(result), result.search.settings, result.folder
    drawn = draw_search(picture, folder.path / "figures")
    facts = {
        "searcher": settings.searcher,
        "scheduler": settings.scheduler,
        "fresh validation tasks": f"{settings.confirm_tasks} to choose among the best few, as many to test the choice",
        "folder": str(folder.path),
    }
    base = settings.base or str(folder.run(result.best.number).path / "config.yaml")
    write_search_page(picture, folder.path, drawn, name=folder.info["name"], base=base, facts=facts)
    result.figures.extend(drawn.paths)
    result.warnings.extend(drawn.notes)


def searched(result: Result) -> Searched:
    """The result as figures take it: axes, trials and confirmed scores."""
    return Searched(
        axes=[_axis(key, domain) for key, domain in result.search.space.domains.items()],
        trials=[
            Drawn(
                number=trial.number,
                values=trial.values,
                score=trial.value,
                status="running" if trial.status == "waiting" else trial.status,
                steps=trial.steps,
                history=[(step, score) for step, score in trial.history if score is not None],
            )
            for trial in result.trials
        ],
        metric=result.search.settings.metric,
        higher_is_better=result.higher_is_better,
        best=result.best.number,
        base=result.base,
        confirmed={number: _confirmed(result, number) for number in result.confirmed},
    )


def _confirmed(result: Result, number: int) -> dict[str, float | None]:
    """A trial's score on the tasks that test the choice, and how far it is behind the best trial there."""
    lead = result.lead(number)
    behind = {} if lead is None else {"behind": lead["mean"], "error": lead["corrected"]}
    return {**result.interval(number), **behind}


def _axis(key: str, domain: Domain) -> Axis:
    if domain.bounds is None:
        return Axis(key=key, kind="categories", choices=domain.values or ())
    low, high = domain.bounds
    kind: Any = "log" if domain.loguniform else "integer" if domain.randint else "linear"
    return Axis(key=key, kind=kind, low=low, high=high)

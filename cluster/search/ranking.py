"""The ranking of a search's trials: by validation, then the best few by fresh tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import MetarayError
from cluster.evaluation import Scores, difference, interval
from cluster.progress import progress
from cluster.search import confirm
from cluster.search.folder import SearchFolder, Trial, by_value
from cluster.search.points import base_number
from cluster.search.settings import Search


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a search came to.

    Attributes:
        folder: the search's folder.
        search: what was searched.
        trials: all trials.
        base: number of the trial with the base configuration's own values, if there is one.
        confirmed: scores [T] of the best few and the base on fresh validation tasks, by trial.
        figures: pictures of the search.
        warnings: what could not be done and did not stop the search.
    """

    folder: SearchFolder
    search: Search
    trials: list[Trial]
    base: int | None
    confirmed: Mapping[int, Scores]
    higher_is_better: bool
    figures: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[int]:
        """The confirmed trials, the best first."""
        return list(confirm.ranked(self.confirmed, higher_is_better=self.higher_is_better))

    @property
    def best(self) -> Trial:
        """The best trial."""
        return next(trial for trial in self.trials if trial.number == self.order[0])

    def lead(self, over: int | None) -> dict[str, Any] | None:
        """The best trial's advantage over another, on the same fresh tasks where they have the same."""
        if over is None or over == self.best.number or over not in self.confirmed:
            return None
        one, other = (self.folder.run(number).config for number in (self.best.number, over))
        found = difference(
            self.confirmed[self.best.number],
            self.confirmed[over],
            paired=confirm.same_tasks(one, other),
            higher_is_better=self.higher_is_better,
        )
        return None if found is None else {"over": over, **found, "sure": found["mean"] > found["ci95"]}

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray tune --json`` prints, but for the figures."""
        best = self.best
        return {
            "metric": self.search.settings.metric,
            "best": self._plain(best) | {"confirmed": interval(self.confirmed[best.number])},
            "lead": self.lead(self.order[1] if len(self.order) > 1 else None),
            "gain": self.lead(self.base),
            "base": self.base,
            "confirmed": {str(number): interval(self.confirmed[number]) for number in self.order},
            "trials": [self._plain(trial) for trial in self.trials],
            "run_id": self.folder.info["mlflow_run_id"],
            "search_dir": str(self.folder.path),
            "warnings": self.warnings,
        }

    def _plain(self, trial: Trial) -> dict[str, Any]:
        return {
            "trial": trial.number,
            "values": dict(trial.values),
            "config": self.search.plain(trial.values),
            "value": trial.value,
            "status": trial.status,
            "steps": trial.steps,
            "error": trial.error,
            "run_dir": str(self.folder.run(trial.number).path),
        }


def rank(search: Search, folder: SearchFolder, *, higher: bool) -> Result:
    """Look at the best few and the base again, on fresh validation tasks."""
    trials = folder.trials()
    best = by_value(trials, higher=higher)
    if not best:
        kinds = ", ".join(f"trial {trial.number} {trial.status}: {trial.error}" for trial in trials[:3])
        raise MetarayError(f"none of {len(trials)} trials came to a finite {search.settings.metric} ({kinds})")
    base = base_number(search)
    again = [trial.number for trial in best[: search.settings.confirm]]
    if base is not None and base not in again and any(trial.number == base for trial in best):
        again.append(base)
    confirmed: dict[int, Scores] = {}
    with progress("again on fresh tasks", 0, len(again), "trial") as shown:
        for count, number in enumerate(again, start=1):
            confirmed[number] = confirm.score_again(search, folder, number)
            shown.update(count, {})
    return Result(folder=folder, search=search, trials=trials, base=base, confirmed=confirmed, higher_is_better=higher)

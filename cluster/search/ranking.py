"""Ranking of a search's trials: by validation, then of the best few by fresh tasks, with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import MetarayError
from cluster.evaluation.intervals import Kinds
from cluster.evaluation.scores import difference
from cluster.evaluation.summary import Scores, interval
from cluster.progress import progress
from cluster.search import confirm
from cluster.search.folder import SearchFolder
from cluster.search.points import base_number
from cluster.search.settings import Search
from cluster.search.trials import Trial, by_value


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a search.

    Attributes:
        folder: the search's folder.
        search: what was searched.
        trials: all trials.
        base: number of the trial with the base configuration's own values, if there is one.
        choosing: scores [T] of the best few and the base, by trial, on fresh validation tasks that choose among them.
        confirmed: their scores [T] on other fresh validation tasks, which test the choice.
        kinds: kinds of the tasks of ``choosing`` and of ``confirmed``, by trial, for families that have kinds.
        figures: pictures of the search.
        warnings: what could not be done and did not stop the search.
    """

    folder: SearchFolder
    search: Search
    trials: list[Trial]
    base: int | None
    choosing: Mapping[int, Scores]
    confirmed: Mapping[int, Scores]
    higher_is_better: bool
    kinds: Mapping[int, tuple[Kinds | None, Kinds | None]] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[int]:
        """The confirmed trials, the best first, by the tasks that choose."""
        kinds = {number: pair[0] for number, pair in self.kinds.items()}
        return list(confirm.ranked(self.choosing, higher_is_better=self.higher_is_better, kinds=kinds))

    @property
    def best(self) -> Trial:
        """The best trial."""
        return next(trial for trial in self.trials if trial.number == self.order[0])

    def lead(self, over: int | None) -> dict[str, Any] | None:
        """The best trial's advantage over another on the tasks that test the choice, paired where both have the same.

        It is sure if it is above zero by more than ``corrected``, the half-width of intervals for the best trial's
        advantage over each of the others that all hold at once in 95 % of cases; ``ci95`` is that of this one alone.
        """
        best = self.order[0]
        if over is None or over == best or over not in self.confirmed:
            return None
        one, other = (self.folder.run(number).config for number in (best, over))
        comparisons = len(self.confirmed) - 1
        advantage = difference(
            self.confirmed[best],
            self.confirmed[over],
            paired=confirm.same_tasks(one, other),
            higher_is_better=self.higher_is_better,
            kinds=(self._kinds(best), self._kinds(over)),
            comparisons=comparisons,
        )
        if advantage is None or advantage["mean"] is None:
            return None
        corrected = advantage.get("corrected", advantage["ci95"])
        sure = corrected is not None and advantage["mean"] > corrected
        return {"over": over, **advantage, "corrected": corrected, "comparisons": comparisons, "sure": sure}

    def interval(self, number: int) -> dict[str, float | None]:
        """Mean and half-width of a trial's scores on the tasks that test the choice."""
        return interval(self.confirmed[number], self._kinds(number))

    def _kinds(self, number: int) -> Kinds | None:
        return self.kinds[number][1] if number in self.kinds else None

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray tune --json`` prints, but for the figures."""
        best = self.best
        return {
            "metric": self.search.settings.metric,
            "best": self._plain(best) | {"confirmed": self.interval(best.number)},
            "lead": self.lead(self.order[1] if len(self.order) > 1 else None),
            "gain": self.lead(self.base),
            "base": self.base,
            "confirmed": {str(number): self.interval(number) for number in self.order},
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
    """Score the best few and the base again, on fresh validation tasks: some choose the best, others test it.

    Args:
        search: the search.
        folder: its folder, with all trials.
        higher: whether larger scores are better.
    """
    trials = folder.trials()
    best = by_value(trials, higher=higher)
    if not best:
        kinds = ", ".join(f"trial {trial.number} {trial.status}: {trial.error}" for trial in trials[:3])
        raise MetarayError(f"none of {len(trials)} trials came to a finite {search.settings.metric} ({kinds})")
    base = base_number(search)
    again = [trial.number for trial in best[: search.settings.confirm]]
    if base is not None and base not in again and any(trial.number == base for trial in best):
        again.append(base)
    firsts = confirm.fresh_tasks(search, folder, again)
    choosing: dict[int, Scores] = {}
    confirmed: dict[int, Scores] = {}
    parts = [(choosing, firsts[0]), (confirmed, firsts[1])]
    with progress("again on fresh tasks", 0, len(parts) * len(again), "trial") as shown:
        for scores, first in parts:
            for number in again:
                scores[number] = confirm.score_again(search, folder, number, first)
                shown.update(len(choosing) + len(confirmed), {})
    return Result(
        folder=folder,
        search=search,
        trials=trials,
        base=base,
        choosing=choosing,
        confirmed=confirmed,
        higher_is_better=higher,
        kinds={number: _kinds(search, folder, number, firsts) for number in again},
    )


def _kinds(
    search: Search, folder: SearchFolder, number: int, firsts: tuple[int, int]
) -> tuple[Kinds | None, Kinds | None]:
    choosing, testing = (confirm.kinds_of_tasks(search, folder, number, first) for first in firsts)
    return choosing, testing

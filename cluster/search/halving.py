"""Successive halving of trials, told what an interrupted search had come to.

The only module that uses private parts of Ray: brackets and rungs of ``AsyncHyperBandScheduler``, which offers no other
way to fill its brackets in turn and to restore them. A unit test says which versions of Ray they were checked with.
"""

import math
import types
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from cluster.search.trials import Trial

STEP, SCORE = "step", "score"  # names in what a trial reports; higher scores are better


class Halving(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020) whose brackets are filled in turn, by the trials' numbers."""

    def __init__(
        self, past: Sequence[Trial], score: Callable[[float | None], float], spared: int | None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._spared = spared
        self._past = {trial.number: trial for trial in past if not trial.over}
        self._score = score
        for trial in past:
            if trial.over:
                self._recall(f"past-{trial.number}", trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Give a trial its bracket, and recall what it reported before the search was interrupted."""
        del tune_controller
        number = trial.config["point"]["number"]
        if number in self._past:
            self._recall(trial.trial_id, self._past.pop(number))
        else:
            self._trial_info[trial.trial_id] = self._bracket(number)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on. The base always does: what others gain over it is to be a matter of their values."""
        decision = super().on_trial_result(tune_controller, trial, result)
        spared = self._spared is not None and trial.config["point"]["number"] == self._spared
        return TrialScheduler.CONTINUE if spared else decision

    def _bracket(self, number: int) -> Any:
        """Brackets of more rungs get more of the trials, e times as many for each rung."""
        weights = [math.exp(len(bracket._rungs)) for bracket in self._brackets]
        share = (number * 0.618033988749895) % 1.0 * sum(weights)  # the golden ratio spreads any number of them
        for bracket, weight in zip(self._brackets, weights, strict=True):
            share -= weight
            if share < 0:
                return bracket
        return self._brackets[-1]

    def _recall(self, trial_id: str, trial: Trial) -> None:
        self._trial_info[trial_id] = self._bracket(trial.number)
        stand_in: Any = types.SimpleNamespace(trial_id=trial_id, config={"point": {"number": trial.number}})
        controller: Any = None
        for step, value in trial.history:
            self.on_trial_result(controller, stand_in, {STEP: step, SCORE: self._score(value)})

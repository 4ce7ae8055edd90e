"""Schedulers of trials: Ray Tune's over outer steps, given the scores from before an interrupted search was resumed."""

import math
import types
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from cluster.search.folder import Trial
from cluster.search.points import base_number
from cluster.search.settings import Search

STEP, SCORE = "step", "score"  # names in what a trial reports; higher scores are better
WORST = 1e30  # stands in for a score that is not finite: schedulers interpolate between scores
BRACKETS = 3  # of Hyperband


def scheduler(search: Search, past: Sequence[Trial], score: Callable[[float | None], float]) -> TrialScheduler:
    """The scheduler that a search names.

    Args:
        search: the search.
        past: trials of the search before it was interrupted.
        score: a validation score as it is reported.
    """
    kind, steps = search.settings.scheduler, search.base.outer.steps
    if kind == "none":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    if kind == "pbt":
        return _population(search)
    return _Halving(
        past,
        score,
        spared=base_number(search),
        time_attr=STEP,
        metric=SCORE,
        mode="max",
        max_t=steps,
        grace_period=search.first_rung,
        reduction_factor=search.settings.reduction,
        brackets=BRACKETS if kind == "hyperband" else 1,
        stop_last_trials=False,
    )


class _Halving(AsyncHyperBandScheduler):
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
        """Whether a trial goes on. The base always does, so that what others gain over it is due to their values."""
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


def _population(search: Search) -> PopulationBasedTraining:
    """Population based training (Jaderberg et al. 2017): the worst quarter takes over θ, optimizer and other values."""
    domains = search.space.domains

    def within(config: dict[str, Any]) -> dict[str, Any]:
        point = config["point"]
        return {"point": {key: domains[key].within(value) if key in domains else value for key, value in point.items()}}

    return PopulationBasedTraining(
        time_attr=STEP,
        metric=SCORE,
        mode="max",
        perturbation_interval=search.first_rung,
        hyperparam_mutations={"point": {key: _mutation(domain) for key, domain in domains.items()}},
        custom_explore_fn=within,
        log_config=False,
    )


def _mutation(domain: Any) -> Any:
    low, high = domain.bounds
    if domain.randint is not None:
        return tune.randint(low, high + 1)
    return tune.loguniform(low, high) if domain.loguniform is not None else tune.uniform(low, high)

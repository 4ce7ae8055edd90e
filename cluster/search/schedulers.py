"""Schedulers of trials: Ray Tune's over outer steps, given the scores from before an interrupted search was resumed."""

from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler

from cluster.search.halving import SCORE, STEP, Halving
from cluster.search.points import base_number
from cluster.search.settings import Search
from cluster.search.trials import Trial

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
    return Halving(
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

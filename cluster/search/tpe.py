"""Points suggested from earlier results: tree-structured Parzen estimators (Bergstra et al. 2011), by Optuna."""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from cluster.search.points import Point, base_point
from cluster.search.settings import Search
from cluster.search.space import Domain
from cluster.search.trials import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Suggestions:
    """Suggests points one at a time.

    A suggestion is a function of the seed, its number and the results so far, so a search that is resumed goes on as
    it would have.
    """

    def __init__(self, search: Search, *, higher_is_better: bool) -> None:
        """Start without results."""
        self._search = search
        self._worst = -float("inf") if higher_is_better else float("inf")
        self._direction = StudyDirection.MAXIMIZE if higher_is_better else StudyDirection.MINIMIZE
        self._distributions = {key: _distribution(domain) for key, domain in search.space.domains.items()}

    def suggest(self, number: int, trials: Sequence[Trial]) -> Point:
        """The point of trial ``number``, given the results of other trials.

        Args:
            number: the trial's number.
            trials: all other trials so far, those under way included: their neighbourhoods are not tried again.
        """
        first = base_point(self._search)
        if number < len(first):
            return first[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=(self._search.settings.seed * 1_000_003 + number) % 2**32,  # of numpy's older generator
                multivariate=True,
                constant_liar=True,
                n_startup_trials=max(6, 2 * len(self._distributions)),
            )
        study = optuna.create_study(direction=self._direction, sampler=sampler)
        study.add_trials([self._frozen(trial) for trial in sorted(trials, key=lambda trial: trial.number)])
        return self._values(study.ask(self._distributions).params)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        """A trial in Optuna's form; one that was stopped early counts for the last step that it reached."""
        state = {"stopped": TrialState.PRUNED}.get(trial.status, TrialState.COMPLETE)
        state = state if trial.over else TrialState.RUNNING
        return create_trial(
            state=state,
            params={key: self._param(key, value) for key, value in trial.values.items()},
            distributions=self._distributions,
            value=(self._worst if trial.value is None else trial.value) if state == TrialState.COMPLETE else None,
            intermediate_values={step: self._worst if score is None else score for step, score in trial.history},
        )

    def _param(self, key: str, value: Any) -> Any:
        domain = self._search.space.domains[key]
        return value if domain.bounds is not None else (domain.values or ()).index(value)

    def _values(self, params: dict[str, Any]) -> Point:
        values = {}
        for key, domain in self._search.space.domains.items():
            values[key] = (
                domain.within(params[key]) if domain.bounds is not None else (domain.values or ())[params[key]]
            )
        return values


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.randint is not None:
        return IntDistribution(*domain.randint)
    if domain.bounds is not None:
        return FloatDistribution(*domain.bounds, log=domain.loguniform is not None)
    return CategoricalDistribution(range(len(domain.values or ())))

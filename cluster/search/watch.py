# ruff: noqa: ARG002 - the signatures are Ray Tune's
"""Keeps the record of trials while Ray Tune runs them: their folders, the table on the screen, MLflow."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune

from cluster.interrupts import StopFlag
from cluster.search.points import Point
from cluster.search.study import Study
from cluster.search.trials import Status, Trial, TrialsFolder

Changed = Callable[[Trial], None]


class Watch(tune.Callback):
    """Records trials as Ray Tune reports them."""

    def __init__(
        self, study: Study, folder: TrialsFolder, stop: StopFlag, changed: Sequence[Changed], *, higher: bool
    ) -> None:
        """Note what the trials are of and their folder; Ray Tune calls the other methods.

        Args:
            study: a search or a comparison.
            folder: its folder.
            stop: if set, a trial that ends has only been interrupted.
            changed: called with a trial whenever something of it has changed.
            higher: whether larger validation scores are better.
        """
        self._study, self._folder, self._stop = study, folder, stop
        self._changed, self._higher = changed, higher

    def __getstate__(self) -> dict[str, Any]:
        """An empty state: Ray Tune pickles its callbacks to restore them, which is never done here."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the values of a trial that starts; they may be another trial's, taken over."""
        number, values = _point(trial)
        self._keep(dataclasses.replace(self._folder.read(number), values=values, status="running"))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a score, or the end of a trial."""
        record = self._folder.read(_point(trial)[0])
        if "status" in result:
            self._end(record, result["status"], result["error"])
        else:
            self._keep(self._refreshed(record))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that did not end by itself as stopped, unless all are being stopped."""
        record = self._folder.read(_point(trial)[0])
        if not record.over and not self._stop:
            self._end(record, "stopped", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial as failed, once its retries are used up."""
        self._end(self._folder.read(_point(trial)[0]), "failed", _reason(trial))

    def _end(self, record: Trial, status: Status, error: str | None) -> None:
        record = self._refreshed(record)
        if status == "finished":  # with the values of its best θ
            plain = self._folder.run(record.number).config.model_dump(mode="json")
            record = dataclasses.replace(record, values=self._study.kept_values(record.values, plain))
        value = None if status in ("diverged", "failed") else record.value
        self._keep(dataclasses.replace(record, status=status, value=value, error=error))

    def _refreshed(self, record: Trial) -> Trial:
        return self._folder.refreshed(record, self._study.metric(record.values), higher=self._higher)

    def _keep(self, record: Trial) -> None:
        self._folder.write(record)
        for changed in self._changed:
            changed(record)


def _point(trial: Any) -> tuple[int, Point]:
    """Number and values of a trial of Ray Tune's."""
    values = {key: value for key, value in trial.config["point"].items() if key != "number"}
    return int(trial.custom_trial_name), values


def _reason(trial: Any) -> str:
    """The last line of the error that Ray Tune kept of a trial."""
    error = trial.get_error()
    lines = str(getattr(error, "cause", error) or error).strip().splitlines()
    return lines[-1] if lines else "the trial's process ended"

"""Trials on Ray Tune: every one a whole training whose workers live in the trial's placement group.

Ray Tune decides which trials go on. What it keeps on disk for that is pickled and is never read again: what was
interrupted goes on from the trials' own folders.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

# Read when ray.tune is imported.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer reporter prints even when it is told not to
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths in configurations are relative to where the user is

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cluster.errors import ClusterError
from cluster.interrupts import StopFlag
from cluster.runs.checkpoint import Checkpoint, decode, encode
from cluster.search.halving import SCORE, STEP
from cluster.search.points import Point
from cluster.search.schedulers import WORST
from cluster.search.study import Study, Train
from cluster.search.trials import TrialsFolder, scores
from cluster.search.watch import Watch

STATE = "state.safetensors"
KEPT = 4  # states of a trial that others may take over
S = TypeVar("S", bound=Study)


def oriented(value: float | None, *, higher_is_better: bool) -> float:
    """A validation score such that higher is better, and one that is not finite is the worst of all.

    Args:
        value: the score, None where there is none.
        higher_is_better: whether larger scores are better.
    """
    if value is None or not abs(value) < WORST:
        return -WORST
    return value if higher_is_better else -value


def run_trials(
    study: S,
    train: Train[S],
    folder: TrialsFolder,
    watch: Watch,
    points: Mapping[int, Point],
    stop: StopFlag,
    *,
    higher_is_better: bool,
    searcher: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
    reuse: bool = True,
) -> None:
    """Run the trials that are not over, until they are or until asked to stop.

    Args:
        study: what they are trials of.
        train: trains one, in a process of its own.
        folder: where their folders are.
        watch: is told of everything, and keeps the record.
        points: values of the trials to run, by number.
        stop: whether to stop.
        higher_is_better: whether larger validation scores are better.
        searcher: gives the trials in the place of ``points``.
        scheduler: stops trials early; by default none is.
        reuse: whether a process trains one trial after another; a new one takes seconds to load what a trial needs.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # trials' errors are in the record
    trainable = partial(_run_trial, study=study, train=train, folder=folder, higher_is_better=higher_is_better)
    grid = [{"number": number, **point} for number, point in points.items()]
    shutil.rmtree(folder.state, ignore_errors=True)
    try:
        tune.Tuner(
            tune.with_resources(trainable, _resources(study)),
            param_space={} if searcher is not None else {"point": tune.grid_search(grid)},
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1 if searcher is not None else 1,
                max_concurrent_trials=study.at_once,
                reuse_actors=reuse,
                trial_name_creator=_named,
                trial_dirname_creator=_named,
            ),
            run_config=tune.RunConfig(
                name="state",
                storage_path=str(folder.state),
                failure_config=tune.FailureConfig(max_failures=study.retries),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT if study.population else None),
                callbacks=[watch],
                stop=_OnRequest(stop),
                verbose=0,
            ),
        ).fit()
    finally:
        shutil.rmtree(folder.state, ignore_errors=True)


def _named(trial: Any) -> str:
    """A trial's number as its name, which stays the same when it takes over the values of another."""
    return f"{trial.config['point']['number']:03d}"


def _resources(study: Study) -> tune.PlacementGroupFactory:
    """The learner's bundle, which is empty where workers compute, and one for each worker."""
    cluster = study.base.cluster
    worker = {"CPU": float(cluster.threads)} | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {})
    return tune.PlacementGroupFactory([{}, *[worker] * cluster.count] if cluster.count else [worker])


def _run_trial(
    config: dict[str, Any], *, study: S, train: Train[S], folder: TrialsFolder, higher_is_better: bool
) -> None:
    """The function that Ray Tune runs, in a process of its own."""
    if not (folder.path / folder.description).is_file():
        raise ClusterError(
            f"expected the {folder.noun}'s folder {folder.path} on every machine of the cluster, found none; put runs "
            "where all see them, with checkpoint.root"
        )
    point = {key: value for key, value in config["point"].items() if key != "number"}
    number = int(tune.get_context().get_trial_name())  # the other one is of the trial whose values were taken over
    run = folder.run(number)

    def report(step: int, value: float, state: Checkpoint) -> None:
        metrics = {STEP: step, SCORE: oriented(value, higher_is_better=higher_is_better), "value": value}
        if not study.population:
            tune.report(metrics)
            return
        with tempfile.TemporaryDirectory() as written:
            (Path(written) / STATE).write_bytes(encode(state))
            (Path(written) / "origin.json").write_text(json.dumps({"number": number}))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(written))

    name = f"{folder.path.name}-{number:03d}"
    status, error = train(study, point, name, run.path, _taken_over(number), report)
    history = scores(run, study.metric(point))
    step, value = history[-1] if history else (0, None)
    kept = value if status == "finished" else None
    score = oriented(kept, higher_is_better=higher_is_better)
    tune.report({STEP: step, SCORE: score, "value": value, "status": status, "error": error})


def _taken_over(number: int) -> Checkpoint | None:
    """The state of another trial that Ray Tune makes this one continue from; None if it continues from its own."""
    received = tune.get_checkpoint()
    if received is None:
        return None
    with received.as_directory() as folder:
        if json.loads((Path(folder) / "origin.json").read_text())["number"] == number:
            return None
        return decode((Path(folder) / STATE).read_bytes(), STATE)


class _OnRequest(Stopper):
    """Stops all trials when the user or the system asks."""

    def __init__(self, stop: StopFlag) -> None:
        self._stop = stop

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as Watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        return bool(self._stop)


class Suggested(Searcher):
    """Points that depend on earlier results, for Ray Tune."""

    def __init__(self, points: Mapping[int, Point], suggest: Callable[[int], Point], more: range) -> None:
        """Try ``points``, by number, then ask for those of the numbers in ``more``."""
        super().__init__(metric=SCORE, mode="max")
        self._waiting = dict(sorted(points.items()))
        self._suggest, self._more = suggest, iter(more)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as Watch

    def suggest(self, trial_id: str) -> Any:
        """The next point, or that there are no more."""
        del trial_id
        for number in list(self._waiting):
            return {"point": {"number": number, **self._waiting.pop(number)}}
        for number in self._more:
            return {"point": {"number": number, **self._suggest(number)}}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: results are read from the record."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the record is in the trials' folders."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the record is in the trials' folders."""

"""A search on Ray Tune: every trial a whole training whose workers live in the trial's placement group.

Ray Tune decides which trials go on. What it keeps on disk for that is pickled and is never read again: an interrupted
search goes on from the trials' own folders.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Read when ray.tune is imported.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer reporter prints even when it is told not to
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths in configurations are relative to where the user is

from ray import tune
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from cluster.interrupts import StopFlag
from cluster.runs.checkpoint import Checkpoint, decode, encode
from cluster.search.folder import SearchFolder, Trial, scores
from cluster.search.halving import SCORE, STEP
from cluster.search.points import Point
from cluster.search.schedulers import WORST, scheduler
from cluster.search.settings import Search
from cluster.search.trial import train_trial
from cluster.search.watch import Watch

STATE = "state.safetensors"
KEPT = 4  # states of a trial that others may take over


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
    search: Search,
    folder: SearchFolder,
    watch: Watch,
    past: Sequence[Trial],
    points: Mapping[int, Point],
    suggest: Callable[[int], Point] | None,
    stop: StopFlag,
    *,
    higher_is_better: bool,
) -> None:
    """Run the trials that are not over, until they are or until asked to stop.

    Args:
        search: the search.
        folder: its folder.
        watch: is told of everything, and keeps the record.
        past: trials of the search before it was interrupted.
        points: values of the trials to run, by number.
        suggest: gives the values of a trial by its number where they depend on others; ``points`` are tried first.
        stop: whether to stop.
        higher_is_better: whether larger validation scores are better.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # trials' errors are in the record
    score = partial(oriented, higher_is_better=higher_is_better)
    population = search.settings.scheduler == "pbt"
    trainable = partial(_run_trial, search=search, root=folder.path, higher_is_better=higher_is_better)
    known = max((number for number in (*points, *(trial.number for trial in past))), default=-1) + 1
    searcher = None if suggest is None else Suggested(points, suggest, range(known, search.settings.trials or 0))
    grid = [{"number": number, **point} for number, point in points.items()]
    shutil.rmtree(folder.state, ignore_errors=True)
    try:
        tune.Tuner(
            tune.with_resources(trainable, _resources(search)),
            param_space={} if searcher is not None else {"point": tune.grid_search(grid)},
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler(search, past, score),
                num_samples=-1 if searcher is not None else 1,
                # The members of a population take turns.
                max_concurrent_trials=None if population else search.settings.at_once,
                reuse_actors=True,  # a new process takes seconds to load what a trial needs
                trial_name_creator=_named,
                trial_dirname_creator=_named,
            ),
            run_config=tune.RunConfig(
                name="state",
                storage_path=str(folder.state),
                failure_config=tune.FailureConfig(max_failures=search.settings.retries),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT if population else None),
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


def _resources(search: Search) -> tune.PlacementGroupFactory:
    """The learner's bundle, which is empty where workers compute, and one for each worker."""
    cluster = search.base.cluster
    worker = {"CPU": float(cluster.threads)} | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {})
    return tune.PlacementGroupFactory([{}, *[worker] * cluster.count] if cluster.count else [worker])


def _run_trial(config: dict[str, Any], *, search: Search, root: Path, higher_is_better: bool) -> None:
    """The function that Ray Tune runs, in a process of its own."""
    point = {key: value for key, value in config["point"].items() if key != "number"}
    number = int(tune.get_context().get_trial_name())  # the other one is of the trial whose values were taken over
    population = search.settings.scheduler == "pbt"
    run = SearchFolder(root).run(number)

    def report(step: int, value: float, state: Checkpoint) -> None:
        metrics = {STEP: step, SCORE: oriented(value, higher_is_better=higher_is_better), "value": value}
        if not population:
            tune.report(metrics)
            return
        with tempfile.TemporaryDirectory() as written:
            (Path(written) / STATE).write_bytes(encode(state))
            (Path(written) / "origin.json").write_text(json.dumps({"number": number}))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(written))

    name = f"{root.name}-{number:03d}"
    status, error = train_trial(search, point, name, run.path, _taken_over(number), report)
    history = scores(run, search.settings.metric)
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
    """Stops the search when the user or the system asks."""

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
        """Do nothing: the record is in the search's folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the record is in the search's folder."""

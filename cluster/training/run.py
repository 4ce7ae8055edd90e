"""A training from start or checkpoint to its evaluation: sets everything up, runs the loop, leaves nothing behind."""

from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from cluster.config.schema import Config
from cluster.errors import EngineError, Interrupted
from cluster.evaluation.scores import evaluate_params, with_baselines
from cluster.interrupts import SignalFlag, StopFlag
from cluster.progress import progress, say
from cluster.reports.draw import draw
from cluster.runs import checkpoint as checkpoints
from cluster.runs.events import Event, EventLog
from cluster.runs.folder import LIVE, RunFolder, write_json
from cluster.runs.metrics import record_evaluation
from cluster.setups.build import Setup
from cluster.tracking import Tracker
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.training.preflight import try_workers
from cluster.training.recorder import Recorder
from cluster.training.start import Start, baseline_of, slower
from cluster.training.weights import starting_weights
from cluster.workers.auto import settled
from cluster.workers.messages import gradient_requests
from cluster.workers.open import open_pool, shared_session
from cluster.workers.pool import Pool
from meta.engine.arithmetic import fix_arithmetic


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a training.

    Attributes:
        folder: the run's folder.
        steps: outer steps done.
        seconds: wall-clock time of training, evaluation not included.
        theta_sha256: fingerprint of the last θ.
        checkpoint: path or URI of the checkpoint that was evaluated.
        failures: a line for each worker that was lost on the way.
        events: what happened to workers and nodes, and what it cost.
        evaluation: the held-out figures.
        figures: files that were drawn.
        warnings: sentences about things that could not be done and did not stop the run.
    """

    folder: RunFolder
    steps: int
    seconds: float
    theta_sha256: str
    checkpoint: str
    failures: list[str]
    events: list[Event]
    evaluation: dict[str, Any]
    figures: list[Path]
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray train --json`` prints."""
        return {
            "run_id": self.folder.info["mlflow_run_id"],
            "run_dir": str(self.folder.path),
            "checkpoint": self.checkpoint,
            "steps": self.steps,
            "seconds": self.seconds,
            "theta_sha256": self.theta_sha256,
            "failures": self.failures,
            "events": [event.as_json() for event in self.events],
            "figures": [str(path) for path in self.figures],
            "warnings": self.warnings,
            "evaluation": self.evaluation,
            "frozen": self.folder.info.get("frozen", []),
        }


def run(start: Start, stop: SignalFlag) -> Outcome:
    """Train, then the baselines that the configuration names, evaluate all, draw, and tell MLflow.

    A run that was begun goes on from its newest checkpoint; so do its baselines, each a run in a folder of its own.

    Args:
        start: the training, checked.
        stop: set by a signal.

    Raises:
        Interrupted: if ``stop`` was set; the state is saved.
        MetarayError: whatever went wrong, the folder left as of the last checkpoint.
    """
    # One thread: the learner's small steps gain nothing by more, and idle ones would spin in the workers' way.
    fix_arithmetic(threads=1)
    try:
        return _run(start, stop)
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}; go on with: metaray train --resume {start.folder.path}") from stopped


def _run(own: Start, stop: SignalFlag) -> Outcome:
    folder, own = own.folder, _with_workers(own)
    beside = {algorithm: baseline_of(own, algorithm) for algorithm in own.config.eval.baselines}
    # The MLflow run ends before the Ray session: a session whose head is lost may take a minute to end.
    with shared_session(own.setup.config, stop), _Tracking(own, None) as tracking:
        stop.listen()
        outcome = _train(own, stop, tracking)
        baselines = {}
        for algorithm, start in beside.items():
            with _Tracking(start, tracking.tracker) as baseline_tracking:
                baseline = _train(start, stop, baseline_tracking)
            baselines[algorithm] = baseline.evaluation
            outcome.failures.extend(baseline.failures)
            outcome.events.extend(baseline.events)
            outcome.warnings.extend(f"baseline {algorithm}: {warning}" for warning in baseline.warnings)
        if baselines:
            outcome.evaluation.update(with_baselines(outcome.evaluation, baselines))
            write_json(folder.path / "evaluation.json", outcome.evaluation)
        outcome.figures.extend(draw(folder))
    outcome.warnings.extend([*own.setup.family_warnings, *tracking.warnings])
    return outcome


class _Tracking:
    """Sends a run to MLflow from ``begin`` on, and ends its MLflow run by how the block ended."""

    def __init__(self, start: Start, parent: Tracker | None) -> None:
        """Track nothing yet."""
        self.tracker: Tracker | None = None
        self.warnings: list[str] = []
        self._start, self._parent = start, parent

    def begin(self) -> None:
        """Track the run, whose folder has been made."""
        if self.tracker is None:
            config = self._start.config
            self.tracker = Tracker(
                self._start.folder, config.tracking, config.model_dump(mode="json"), parent=self._parent
            )

    def __enter__(self) -> "_Tracking":
        """The tracking itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Record how the training ended, and send the rest."""
        if self.tracker is None:
            return
        killed = isinstance(error, Interrupted | KeyboardInterrupt)
        status = "FINISHED" if error is None else "KILLED" if killed else "FAILED"
        warning = self.tracker.close(status, self._start.folder.artifacts)
        if warning is not None:
            self.warnings.append(warning)


def _train(start: Start, stop: StopFlag, tracking: _Tracking) -> Outcome:
    """Train after a trial of the workers; nothing is written before the trial has passed."""
    try:
        with open_pool(start.setup, stop) as pool:
            try_workers(pool, start.setup)
            start.folder.settle("config.yaml", start.config.to_yaml())
            tracking.begin()
            return _train_on(pool, start, stop)
    except EngineError as error:
        fallen_back = _with_workers(slower(start, error))
    return _train(fallen_back, stop, tracking)


def _train_on(pool: Pool, start: Start, stop: StopFlag) -> Outcome:
    setup, folder, saved = start.setup, start.folder, start.saved
    config = setup.config
    label = f"{config.task.family} {config.algorithm.name}"
    began = monotonic()
    done, live = saved.step if saved else 0, folder.path / LIVE
    with progress(label, done, config.outer.steps, tasks=config.meta_batch, path=live) as shown:
        recorder = Recorder(config, setup, folder, pool, shown)
        shown.beside = recorder.beside
        learner = learn(pool, config, setup, recorder, saved, stop)
    seconds = monotonic() - began
    if learner.step < config.outer.steps:
        _note_lost_head(folder, learner.step, stop)
        raise Interrupted(
            f"{label} was stopped by {stop.reason} after step {learner.step} of {config.outer.steps}, "
            "the state is saved"
        )
    name, state = checkpoints.chosen(folder.checkpoints)
    evaluation = evaluate_params(pool, config, setup, state)
    if recorder.warnings:
        evaluation["warnings"] = recorder.warnings
    write_json(folder.path / "evaluation.json", evaluation)
    record_evaluation(folder, evaluation)
    recorder.note_late_events()
    return Outcome(
        folder=folder,
        steps=learner.step,
        seconds=seconds,
        theta_sha256=learner.fingerprint,
        checkpoint=folder.checkpoints.where(name),
        failures=list(pool.failures),
        events=list(pool.events),
        evaluation=evaluation,
        figures=[],
        warnings=[
            *_idle_workers(config),
            *pool.warnings,
            *filter(None, [folder.info.get("engine_warning")]),
            *(folder.info.get("weights") or {}).get("warnings", []),
            *recorder.warnings,
        ],
    )


def _note_lost_head(folder: RunFolder, step: int, stop: StopFlag) -> None:
    """Write an event if the loss of the cluster's head has stopped the run."""
    if stop.head_lost is not None:
        event = Event(kind="head lost", text=f"{stop.reason}", seconds=stop.head_lost, step=step)
        EventLog(folder.events_path).write([event])


def _with_workers(start: Start) -> Start:
    """The training with a number of workers, settled by the time of a shard where the configuration says ``auto``."""
    config, done = start.setup.config, start.saved.step if start.saved else 0
    requests = gradient_requests(done, config.meta_batch, config.shard_size)
    setup, reason = settled(start.setup, requests, config.outer.steps - done)
    if reason:
        say(f"cluster.workers: {setup.config.cluster.workers} ({reason})")
    return replace(start, setup=setup)


def _idle_workers(config: Config) -> list[str]:
    """A warning where there are more workers than shards."""
    key, workers = "workers", config.cluster.workers
    if workers == "auto":
        key, workers = "min_workers", config.cluster.min_workers
    if workers <= config.shards:
        return []
    return [
        f"cluster.{key} is {workers}, but a meta-batch of {config.meta_batch} tasks in shards of "
        f"{config.shard_size} makes {config.shards} shards: the other workers only help with evaluations; lower "
        f"cluster.{key}, or shard, which changes bits of θ"
    ]


def learn(
    pool: Pool,
    config: Config,
    setup: Setup,
    recorder: Recorder,
    saved: checkpoints.Checkpoint | None,
    stop: StopFlag,
) -> Learner:
    """Train from a saved state, or from the beginning, until ``outer.steps`` or until asked to stop.

    Args:
        pool: workers built from ``setup``.
        config: the configuration under the run's engine.
        setup: what ``config`` builds.
        recorder: records the training; closed at the end.
        saved: the state to go on from, None at the beginning.
        stop: ends the training after the current outer step once set.

    Raises:
        ConfigError: if the saved state is of another configuration, or there is none and ``model.weights`` names no
            file that suits the model.
    """
    weights = starting_weights(setup) if saved is None else None
    params = setup.initial_params() if weights is None else weights.params
    learner = Learner(config.outer, setup.layout, params, setup.frozen)
    try:
        if saved is not None:
            checkpoints.require_same(saved, config, config.engine, setup.family.spec.data)
            learner.load(dict(saved.tensors), saved.step, saved.skipped)
            recorder.best = saved.best
        meta_train(config, learner, pool, recorder, stop)
    finally:
        recorder.close()
    return learner

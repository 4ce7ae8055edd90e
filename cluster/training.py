"""A training from start or checkpoint to its evaluation: sets everything up, runs the loop, leaves nothing behind."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from cluster import checkpoint as checkpoints
from cluster.books import Books
from cluster.builder import AnySetup, Setup, build
from cluster.config import Config, overridden
from cluster.console import warn
from cluster.errors import EngineError, Interrupted
from cluster.evaluation import evaluate, with_baselines
from cluster.interrupts import SignalFlag, StopFlag
from cluster.learner import Learner
from cluster.loop import meta_train
from cluster.metrics import record_evaluation
from cluster.policy_setup import PolicySetup
from cluster.pool import InlinePool, Pool
from cluster.preflight import require_path, try_workers
from cluster.progress import progress
from cluster.report import draw_figures, write_report
from cluster.runs import RunFolder, create, place, require_name, write_json
from cluster.storage import write_file
from cluster.tracking import Tracker, require_own_checkpoints
from cluster.worker import fix_arithmetic
from meta.params import Params
from tasks.family import Split


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to.

    Attributes:
        folder: the run's folder.
        steps: outer steps done.
        seconds: wall-clock time of training, evaluation not included.
        theta_sha256: fingerprint of the last θ.
        checkpoint: path or URI of the checkpoint that was evaluated.
        failures: workers lost on the way.
        evaluation: the held-out figures.
        warnings: what could not be done and did not stop the run.
    """

    folder: RunFolder
    steps: int
    seconds: float
    theta_sha256: str
    checkpoint: str
    failures: list[str]
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
            "figures": [str(path) for path in self.figures],
            "warnings": self.warnings,
            "evaluation": self.evaluation,
            "frozen": self.folder.info.get("frozen", []),
        }


@contextmanager
def open_pool(config: Config) -> Iterator[Pool]:
    """Workers for ``config``: Ray actors, or this process itself with ``cluster.workers=0``."""
    with shared_session(config):
        if config.cluster.workers == 0:
            pool: Pool = InlinePool(config)
        else:
            from cluster.ray_pool import RayPool

            pool = RayPool(config)
        try:
            yield pool
        finally:
            pool.close()


def run(config: Config, folder: RunFolder, stop: SignalFlag) -> Outcome:
    """Train in ``folder``, then the baselines that the configuration names, evaluate all, draw, and tell MLflow.

    A run that was begun goes on from its newest checkpoint; so do its baselines, each a run in a folder of its own.

    Raises:
        Interrupted: if ``stop`` was set; the state is saved.
        MetarayError: whatever went wrong, the folder left as of the last checkpoint.
    """
    # One thread: the learner's small steps gain nothing by more, and idle ones would spin in the workers' way.
    fix_arithmetic(threads=1)
    require_own_checkpoints(folder)
    settled = with_engine_of(folder, config)
    _require_resumable(settled, build(settled), folder)
    try:
        return _run(config, folder, stop)
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}; go on with: metaray train --resume {folder.path}") from stopped


def _run(config: Config, folder: RunFolder, stop: SignalFlag) -> Outcome:
    with _tracked(config, folder, None) as tracked, shared_session(config):
        stop.listen()
        outcome = _train(config, folder, stop)
        baselines = {}
        for algorithm in config.eval.baselines:
            theirs = config.model_copy(
                update={"algorithm": algorithm, "eval": config.eval.model_copy(update={"baselines": ()})}
            )
            path = folder.path / "baselines" / algorithm
            name = f"{folder.info['name']}-{algorithm}"
            beside = RunFolder(path) if (path / "run.json").exists() else new_folder(theirs, name, path)
            with _tracked(theirs, beside, tracked.tracker):
                baseline = _train(theirs, beside, stop)
            baselines[algorithm] = baseline.evaluation
            outcome.failures.extend(baseline.failures)
            outcome.warnings.extend(f"baseline {algorithm}: {warning}" for warning in baseline.warnings)
        if baselines:
            outcome.evaluation.update(with_baselines(outcome.evaluation, baselines))
            write_json(folder.path / "evaluation.json", outcome.evaluation)
        outcome.figures.extend(draw(folder))
    outcome.warnings.extend(tracked.warnings)
    return outcome


@dataclass
class _Tracked:
    tracker: Tracker
    warnings: list[str]


@contextmanager
def _tracked(config: Config, folder: RunFolder, parent: Tracker | None) -> Iterator[_Tracked]:
    """Keep MLflow in step with the folder while the block runs, and end the MLflow run as the block ended."""
    tracked = _Tracked(Tracker(folder, config.tracking, config.model_dump(mode="json"), parent=parent), [])
    status = "FAILED"
    try:
        yield tracked
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        warning = tracked.tracker.close(status, artifacts_of(folder))
        if warning is not None:
            tracked.warnings.append(warning)


@contextmanager
def shared_session(config: Config) -> Iterator[None]:
    """One Ray session for a training and its baselines."""
    if config.cluster.workers == 0:
        yield
        return
    from cluster.session import ray_session  # Ray is loaded only where it is used

    with ray_session(config.cluster):
        yield


def draw(folder: RunFolder, overrides: Sequence[str] = ()) -> list[Path]:
    """Draw a run's figures and its page, with what the configuration is to say otherwise, such as ``task.root=…``."""
    fix_arithmetic(threads=1)
    learned: dict[str, tuple[Setup, Params]] = {}
    policies: dict[str, tuple[PolicySetup, Params]] = {}
    for label, one in {folder.config.algorithm: folder, **folder.baselines}.items():
        config = overridden(one.config, overrides)
        if config.algorithm != "oracle" and one.checkpoints.names():
            _, state = checkpoints.chosen(one.checkpoints)
            setup = build(config)
            checkpoints.require_data(state, setup.family.spec.data)
            if isinstance(setup, PolicySetup):
                policies[label] = (setup, state.params)
            else:
                learned[label] = (setup, state.params)
    drawn = draw_figures(folder.path, learned, policies)
    write_report(folder.path, drawn.paths, drawn.notes)
    return drawn.paths


def _train(config: Config, folder: RunFolder, stop: StopFlag) -> Outcome:
    text = config.to_yaml().encode()
    config = with_engine_of(folder, config)
    setup = build(config)
    _require_resumable(config, setup, folder)
    write_file(folder.path / "config.yaml", text)  # a resumed run may have changed what it may
    try:
        with open_pool(config) as pool:
            try_workers(pool, config, setup)
            return _train_on(pool, config, setup, folder, stop)
    except EngineError as error:
        slower = _slower(config, folder, error)
    return _train(slower, folder, stop)


def _slower(config: Config, folder: RunFolder, error: EngineError) -> Config:
    """The configuration with a strategy that needs nothing of a machine, where a worker's machine lacks something.

    Raises:
        EngineError: if the strategy was asked for by name, or outer steps were taken under it.
    """
    if not folder.info.get("engine_chosen", False) or checkpoints.newest(folder.checkpoints) is not None:
        raise EngineError(
            f"{error}; give all machines what it needs, or start a new run with engine=trace or engine=loop"
        ) from error
    warning = f"engine {folder.info['engine']} was passed over, a slower one runs: {error}"
    warn(warning)
    folder.update_info(engine="loop", engine_reason="runs on every machine", recompute=False, engine_warning=warning)
    return config.model_copy(update={"engine": "loop"})


def _require_resumable(config: Config, setup: AnySetup, folder: RunFolder) -> None:
    """Check that a run may go on under a configuration, before anything of it is changed.

    Raises:
        ConfigError: naming what differs from the newest checkpoint.
    """
    saved = checkpoints.newest(folder.checkpoints)
    if saved is not None:
        checkpoints.require_same(saved, config, config.engine, setup.family.spec.data)


def _train_on(pool: Pool, config: Config, setup: AnySetup, folder: RunFolder, stop: StopFlag) -> Outcome:
    saved = checkpoints.newest(folder.checkpoints)
    label = f"{config.task.family} {config.algorithm}"
    began = monotonic()
    with progress(label, saved.step if saved else 0, config.outer.steps) as shown:
        books = Books(config, setup, folder, pool, shown)
        learner = learn(pool, config, setup, books, saved, stop)
    seconds = monotonic() - began
    if learner.step < config.outer.steps:
        raise Interrupted(
            f"{label} was stopped by {stop.reason} after step {learner.step} of {config.outer.steps}, "
            "the state is saved"
        )
    name, state = checkpoints.chosen(folder.checkpoints)
    evaluation = evaluate_params(pool, config, setup, state)
    if books.warnings:
        evaluation["warnings"] = books.warnings
    write_json(folder.path / "evaluation.json", evaluation)
    record_evaluation(folder, evaluation)
    return Outcome(
        folder=folder,
        steps=learner.step,
        seconds=seconds,
        theta_sha256=learner.fingerprint,
        checkpoint=folder.checkpoints.where(name),
        failures=list(pool.failures),
        evaluation=evaluation,
        figures=[],
        warnings=[
            *_idle_workers(config),
            *pool.warnings,
            *filter(None, [folder.info.get("engine_warning")]),
            *books.warnings,
        ],
    )


def _idle_workers(config: Config) -> list[str]:
    """A warning where there are more workers than shards."""
    shards = -(-config.meta_batch // config.shard_size)
    if config.cluster.workers <= shards:
        return []
    return [
        f"cluster.workers is {config.cluster.workers}, but a meta-batch of {config.meta_batch} tasks in shards of "
        f"{config.shard_size} makes {shards} shards: the other workers only help with evaluations; lower "
        "cluster.workers, or shard, which changes bits of θ"
    ]


def learn(
    pool: Pool,
    config: Config,
    setup: AnySetup,
    books: Books,
    saved: checkpoints.Checkpoint | None,
    stop: StopFlag,
) -> Learner:
    """Train from a saved state, or from the beginning, until ``outer.steps`` or until asked to stop.

    Raises:
        ConfigError: if the saved state is of another configuration.
    """
    learner = Learner(config.outer, setup.layout, setup.initial_params(), setup.frozen)
    try:
        if saved is not None:
            checkpoints.require_same(saved, config, config.engine, setup.family.spec.data)
            learner.load(dict(saved.tensors), saved.step, saved.skipped)
            books.best = saved.best
        meta_train(config, learner, pool, books, stop)
    finally:
        books.close()
    return learner


def evaluate_params(
    pool: Pool, config: Config, setup: AnySetup, state: checkpoints.Checkpoint, split: Split = "test"
) -> dict[str, Any]:
    """Held-out figures of a checkpoint's θ under ``config``, and which step it is of."""
    theta = setup.layout.flatten(state.params).numpy()
    result = evaluate(pool, config, setup, theta, split=split)
    return result | {"checkpoint_step": state.step, "best_step": None if state.best is None else state.best[1]}


def artifacts_of(folder: RunFolder) -> list[Path]:
    """What of a run's folder belongs in MLflow beside the metrics."""
    names = ("config.yaml", "run.json", "evaluation.json", "report.html", "figures")
    return [folder.path / name for name in names]


def new_folder(config: Config, name: str, path: Path | None = None) -> RunFolder:
    """A new run's folder for ``config``; the engine of the whole run is settled here."""
    setup = build(config)
    require_path(setup)
    if setup.choice.warning:
        warn(setup.choice.warning)
    return create(config, name, setup.choice, path, setup.family.spec.data, setup.frozen)


def named_folder(config: Config, name: str) -> RunFolder:
    """The folder of the run of a name, new or begun before under the same configuration.

    Raises:
        ConfigError: if the name is none for a folder, or the run there is of another configuration.
    """
    require_name(name)
    folder = RunFolder(place(config, name))
    if not (folder.path / "run.json").is_file():
        return new_folder(config, name)
    checkpoints.require_config(str(folder.path), folder.config, config, moved=True)
    return folder


def with_engine_of(folder: RunFolder, config: Config) -> Config:
    """The configuration with the engine that the run came to, so that every worker, now and later, has the same."""
    info, inner = folder.info, config.inner
    if config.engine in ("auto", "measure"):
        config = config.model_copy(update={"engine": info["engine"]})
    if inner.recompute is None:
        inner = inner.model_copy(update={"recompute": info.get("recompute", False)})
    return config.model_copy(update={"inner": inner})

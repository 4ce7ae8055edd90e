"""One trial: a training like any other, judged by validation alone, that goes on from its checkpoint if it has one."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.config.schema import Config, parse
from cluster.errors import ConfigError, DivergedError
from cluster.interrupts import StopFlag
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint
from cluster.runs.engine import with_engine_of
from cluster.runs.folder import RunFolder, plan
from cluster.runs.metrics import MetricsLog
from cluster.runs.storage import write_file
from cluster.search.settings import Search
from cluster.search.study import Report, Study
from cluster.search.trials import Status
from cluster.setups.build import Setup, build
from cluster.training.preflight import tried_on_a_worker
from cluster.training.recorder import Recorder, Validated
from cluster.training.run import learn
from cluster.training.weights import require_same_weights, starting_weights
from cluster.workers.open import open_pool
from meta.engine.arithmetic import fix_arithmetic
from meta.engine.choice import Choice

LOST = 0.5  # share of diverged validation tasks from which on a trial is given up


class _Diverged(Exception):  # noqa: N818 - an outcome, not a fault
    """Raised where training diverges; the message says which number did."""


class Quiet:
    """Progress that is not shown."""

    def update(self, step: int, metrics: object) -> None:
        """Show nothing."""


def train_trial(
    search: Search,
    values: Mapping[str, Any],
    name: str,
    path: Path,
    taken_over: Checkpoint | None,
    report: Report,
) -> tuple[Status, str | None]:
    """Train in a trial's folder until the end, or until ``report`` raises.

    Args:
        search: the search.
        values: by the keys that are searched.
        name: of its run.
        path: its folder, which all machines of the cluster have to see.
        taken_over: the state of another trial to go on from, instead of this one's own.
        report: called with outer steps, validation score and the state that was validated, but not of the last one.

    Returns:
        ``finished``, ``diverged`` or ``failed`` (a configuration that cannot run), and why.
    """

    def work() -> None:
        config, folder = opened(search, values, name, path)
        if taken_over is not None:
            _take_over(folder, config, values, taken_over)
        _train(config, folder, report)
        _settle(folder)

    return ended(work)


def ended(work: Callable[[], None]) -> tuple[Status, str | None]:
    """How a trial's work ended: ``finished``, ``diverged`` or ``failed`` (a configuration that cannot run), and why.

    Args:
        work: trains; other errors than these are raised as they are, and the trial is tried again.
    """
    fix_arithmetic(threads=1)
    try:
        work()
    except (DivergedError, _Diverged) as error:
        return "diverged", str(error)
    except ConfigError as error:
        return "failed", str(error)
    return "finished", None


def opened(study: Study, values: Mapping[str, Any], name: str, path: Path) -> tuple[Config, RunFolder]:
    """The configuration of a trial under the engine of its run, and the run's folder, made if there is none.

    Args:
        study: what it is a trial of.
        values: of the trial.
        name: of its run.
        path: its folder.
    """
    config, folder = study.config(values), RunFolder(path)
    if not (path / "run.json").exists():
        setup = build(config)
        weights = starting_weights(setup)
        info = weights.info if weights else None
        folder = plan(config, name, _choice(setup), path, setup.family.spec.data, setup.frozen, info)
        folder.settle("config.yaml", config.to_yaml())
    elif config.model.weights is not None:
        require_same_weights(folder, build(config), begun=checkpoints.newest(folder.checkpoints) is not None)
    write_file(path / "config.yaml", config.to_yaml().encode())
    return with_engine_of(folder, config), folder


def _choice(setup: Setup) -> Choice:
    """The engine of a trial, chosen on a worker where workers have GPUs: a trial's own process has none of them."""
    cluster = setup.config.cluster
    if cluster.gpus_per_worker > 0 and cluster.workers != 0:
        return tried_on_a_worker(setup.config)
    return setup.placed().choice


def _train(config: Config, folder: RunFolder, report: Report) -> None:
    setup = build(config)

    def on_validation(validated: Validated) -> None:
        score, step = validated.means[config.select_steps], validated.state.step
        if validated.diverged > LOST:
            raise _Diverged(f"{validated.diverged:.0%} of the validation tasks diverged at outer step {step}")
        if step < config.outer.steps:  # the last one is reported when all is saved
            report(step, score, validated.state)

    with open_pool(setup) as pool:
        recorder = Recorder(config, setup, folder, pool, Quiet(), on_validation)
        learn(pool, config, setup, recorder, checkpoints.newest(folder.checkpoints), StopFlag())


def _settle(folder: RunFolder) -> None:
    """Write the configuration of the run's best θ; in a population the trial's values may have changed since."""
    _, best = checkpoints.chosen(folder.checkpoints)
    write_file(folder.path / "config.yaml", parse(best.config).to_yaml().encode())


def _take_over(folder: RunFolder, config: Config, values: Mapping[str, Any], state: Checkpoint) -> None:
    """Make another trial's state this one's newest; its own best θ stays its best. The new values become metrics."""
    store = folder.checkpoints
    own = checkpoints.newest(store)
    mine = dataclasses.replace(
        state,
        engine=config.engine,
        config=config.model_dump(mode="json"),
        best=own.best if own is not None else None,
    )
    checkpoints.replace_all(store, mine)
    log = MetricsLog(folder.metrics_path)
    try:
        log.write(state.step, {f"search/{key}": value for key, value in values.items()})
    finally:
        log.close()

"""Begin or resume a training: everything that can be checked is checked before the first byte of a folder changes."""

from dataclasses import dataclass
from pathlib import Path

from cluster.config.schema import Config
from cluster.errors import EngineError
from cluster.progress import warn
from cluster.runs import checkpoint as checkpoints
from cluster.runs.engine import with_engine_of
from cluster.runs.folder import RunFolder, place, plan, require_name
from cluster.runs.metrics import recorded
from cluster.setups.build import Setup, build
from cluster.tracking import require_own_checkpoints
from cluster.training.preflight import require_path
from meta.engine.choice import fallen_back


@dataclass(frozen=True, kw_only=True)
class Start:
    """A training that was checked as far as this process can; nothing on the disk has changed yet.

    Attributes:
        config: the configuration that is asked for.
        folder: the run's folder, there or planned.
        setup: what the configuration builds, under the run's engine.
        saved: the state to go on from.
    """

    config: Config
    folder: RunFolder
    setup: Setup
    saved: checkpoints.Checkpoint | None


def checked(config: Config, folder: RunFolder) -> Start:
    """Check that a training may begin or go on in a folder.

    Args:
        config: the configuration that is asked for.
        folder: the run's folder, made or planned.

    Raises:
        ConfigError: naming what differs from what the run was begun with.
        CheckpointError: if a file of the run is damaged.
    """
    setup = build(with_engine_of(folder, config))
    data = setup.family.spec.data
    if folder.exists:
        checkpoints.require_config(str(folder.path), folder.config, config, moved=bool(data))
        require_own_checkpoints(folder)
        recorded(folder.metrics_path)
    saved = checkpoints.newest(folder.checkpoints)
    if saved is not None:
        checkpoints.require_same(saved, setup.config, setup.config.engine, data)
    return Start(config=config, folder=folder, setup=setup, saved=saved)


def baseline_of(config: Config, folder: RunFolder, algorithm: str) -> Start:
    """The training of a baseline, in a folder of its own inside the run's.

    Args:
        config: the run's configuration.
        folder: the run's folder.
        algorithm: name of the baseline.
    """
    alone = config.eval.model_copy(update={"baselines": ()})
    baseline_config = config.model_copy(update={"algorithm": algorithm, "eval": alone})
    path = folder.path / "baselines" / algorithm
    if (path / "run.json").exists():
        return checked(baseline_config, RunFolder(path))
    return checked(baseline_config, plan_folder(baseline_config, f"{folder.info['name']}-{algorithm}", path))


def slower(start: Start, error: EngineError) -> Start:
    """The same training under the strategy ``loop``, for when a worker's machine lacks what the chosen one needs.

    Args:
        start: the training that failed.
        error: raised by the worker.

    Raises:
        EngineError: if the strategy was asked for by name, or outer steps were taken under it.
    """
    folder = start.folder
    if not folder.info.get("engine_chosen", False) or checkpoints.newest(folder.checkpoints) is not None:
        raise EngineError(
            f"{error}; give all machines what it needs, or start a new run with engine=trace or engine=loop"
        ) from error
    warning = fallen_back(folder.info["engine"], error)
    warn(warning)
    folder.update_info(engine="loop", engine_reason="runs on every machine", recompute=False, engine_warning=warning)
    return checked(start.config, folder)


def plan_folder(config: Config, name: str, path: Path | None = None) -> RunFolder:
    """A new run's folder for ``config``, not made yet; the engine of the whole run is chosen here.

    Args:
        config: the run's configuration.
        name: of the run.
        path: the folder; by default it is under ``checkpoint.root``.
    """
    setup = build(config)
    require_path(setup)
    if setup.choice.warning:
        warn(setup.choice.warning)
    return plan(config, name, setup.choice, path, setup.family.spec.data, setup.frozen)


def plan_named(config: Config, name: str) -> RunFolder:
    """The folder of run ``name``: one begun before under the same configuration, or a planned one.

    Args:
        config: the run's configuration.
        name: of the run.

    Raises:
        ConfigError: if the name is none for a folder, or the run there is of another configuration.
    """
    require_name(name)
    folder = RunFolder(place(config, name))
    if not (folder.path / "run.json").is_file():
        return plan_folder(config, name)
    checkpoints.require_config(str(folder.path), folder.config, config, moved=True)
    return folder

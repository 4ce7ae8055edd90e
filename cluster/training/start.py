"""Begin or resume a training: everything that can be checked is checked before the first byte of a folder changes."""

from dataclasses import dataclass
from pathlib import Path

from cluster.config.schema import Config
from cluster.config.sections import NamedSection
from cluster.errors import EngineError
from cluster.progress import warn
from cluster.runs import checkpoint as checkpoints
from cluster.runs.engine import with_engine_of
from cluster.runs.events import read_events
from cluster.runs.folder import RunFolder, new_name, place, plan, require_name
from cluster.runs.metrics import recorded
from cluster.setups.build import Setup, build
from cluster.tracking import require_own_checkpoints
from cluster.training.preflight import tried
from cluster.training.weights import require_same_weights, starting_weights
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


def resume(config: Config, folder: RunFolder) -> Start:
    """Check that a training may go on in the folder of a run.

    Args:
        config: what is asked for; it may differ from the run's in what does not change θ.
        folder: the run's.

    Raises:
        ConfigError: naming what differs from what the run was begun with.
        CheckpointError: if a file of the run is damaged.
    """
    moved = bool(folder.info.get("data"))
    checkpoints.require_config(str(folder.path), folder.config, config, moved=moved)
    require_own_checkpoints(folder)
    recorded(folder.metrics_path)
    read_events(folder.events_path)
    return _under_its_engine(config, folder, build(with_engine_of(folder, config)))


def begin(config: Config, name: str, path: Path | None = None) -> Start:
    """Build and try a new run; its engine is chosen here, its folder is planned and not made yet.

    Args:
        config: the run's configuration.
        name: of the run.
        path: of its folder, unless it lies under ``checkpoint.root``.

    Raises:
        ConfigError: if the parts do not fit together, or one fails on a single task.
    """
    setup = build(config)
    choice = tried(setup)
    if choice.warning:
        warn(choice.warning)
    weights = starting_weights(setup)
    for warning in (*setup.family_warnings, *(weights.warnings if weights else ())):
        warn(warning)
    folder = plan(config, name, choice, path, setup.data, setup.frozen, weights.info if weights else None)
    return _under_its_engine(config, folder, setup)


def begin_named(config: Config, name: str) -> Start:
    """The run of a name, which goes on if it was begun before under the same configuration.

    Raises:
        ConfigError: if the name is none for a folder, or the run there is of another configuration.
    """
    require_name(name)
    folder = RunFolder(place(config, name))
    return resume(config, folder) if (folder.path / "run.json").is_file() else begin(config, name)


def named_or_new(config: Config, name: str | None, stem: str) -> Start:
    """The run of a name, or a new one.

    Args:
        config: the run's configuration.
        name: of the run; None: it gets a new one.
        stem: beginning of a new name.

    Raises:
        ConfigError: as :func:`begin` and :func:`begin_named` do.
    """
    return begin(config, new_name(stem)) if name is None else begin_named(config, name)


def _under_its_engine(config: Config, folder: RunFolder, setup: Setup) -> Start:
    setup = setup.under(with_engine_of(folder, config))
    saved = checkpoints.newest(folder.checkpoints)
    if saved is not None:
        checkpoints.require_same(saved, setup.config, setup.config.engine, setup.data)
    if folder.exists:
        require_same_weights(folder, setup, begun=saved is not None)
    return Start(config=config, folder=folder, setup=setup, saved=saved)


def baseline_of(start: Start, algorithm: str) -> Start:
    """The training of a baseline, in a folder of its own inside the run's.

    Args:
        start: the run's own training.
        algorithm: name of the baseline.
    """
    alone = start.config.eval.model_copy(update={"baselines": ()})
    update = {"algorithm": NamedSection(name=algorithm), "eval": alone, "cluster": start.setup.config.cluster}
    config = start.config.model_copy(update=update)
    path = start.folder.path / "baselines" / algorithm
    if (path / "run.json").exists():
        return resume(config, RunFolder(path))
    return begin(config, f"{start.folder.info['name']}-{algorithm}", path)


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
    return _under_its_engine(start.config, folder, start.setup)

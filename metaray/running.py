"""The commands train, evaluate, tune and compare as functions.

They take configurations as files or dictionaries, changes as keyword arguments, and return objects to look at. Each
calls what its command calls, in this process; errors are the same, raised as :class:`cluster.errors.MetarayError`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config.overrides import with_overrides
from cluster.config.schema import Config, overridden, parse, read_yaml
from cluster.config.shipped import locate
from cluster.errors import ConfigError
from cluster.interrupts import stop_on_signals
from cluster.progress import forget_warnings, say, warn
from cluster.runs.folder import find
from meta.engine.arithmetic import kept_arithmetic
from metaray.evaluations import Evaluation
from metaray.results import ComparisonTable, SearchTable
from metaray.runs import TrainedRun
from metaray.words import names_in_main, words

if TYPE_CHECKING:
    from cluster.compare.settings import Comparison
    from cluster.search.settings import Search
    from cluster.training.start import Start

Source = str | Path | Mapping[str, Any] | Config


@contextmanager
def _command() -> Iterator[None]:
    """Warn anew, and leave torch's threads and deterministic mode as they were."""
    forget_warnings()
    with kept_arithmetic():
        yield


def train(
    config: Source | None = None,
    /,
    *,
    name: str | None = None,
    resume: "str | Path | TrainedRun | None" = None,
    **overrides: Any,
) -> TrainedRun:
    """Meta-trains, evaluates on held-out tasks, draws and tracks as ``metaray train`` does, to the same bits of θ.

    A signal to stop (Ctrl-C, the stop button of a notebook) ends it after the outer step under way, with the state
    saved.

    Args:
        config: a YAML file, the name of one that comes with metaray, a dictionary of the same sections, or a checked
            configuration; left out with ``resume``, it is the run's own.
        name: of the run; one that is there goes on. By default a new one is made of the file's name and the time.
        resume: folder, name or MLflow run id of a run to go on with.
        **overrides: sections or keys to change: ``seed=3``, ``inner={"lr": 0.02}``, ``model=MyModule``,
            ``task=MyFamily(shot=5)``. Classes are stored by their import path. One of a notebook's own trains with
            ``cluster.workers: 0`` alone, since workers cannot import it.

    Returns:
        The finished run.

    Raises:
        ConfigError: if the configuration is wrong; nothing has changed on the disk then.
        Interrupted: if it was stopped; the message says how to go on.
        MetarayError: if anything else went wrong.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> run = train(
    ...     {"task": {"family": "sinusoid"}, "model": {"name": "mlp", "hidden": [8]}, "outer": {"steps": 2}},
    ...     meta_batch=2,
    ...     eval={"tasks": 4, "steps": [0, 1]},
    ...     cluster={"workers": 0},
    ...     checkpoint={"root": folder},
    ...     tracking={"uri": f"sqlite:///{folder}/mlflow.db"},
    ... )
    >>> run.evaluation["tasks"], list(run.evaluation.to_pandas()["inner_steps"])
    (4, [0, 1])
    """
    from cluster.training import run as training

    with _command():
        start = _start(config, name, resume, words(overrides))
        with stop_on_signals() as stop:
            outcome = training.run(start, stop)
        for warning in outcome.warnings:
            warn(warning)
    return TrainedRun(outcome.folder, outcome.as_json())


def _start(
    config: Source | None, name: str | None, resume: "str | Path | TrainedRun | None", changes: Sequence[str]
) -> "Start":
    """The training that is asked for, checked."""
    from cluster.training import start as starts

    if resume is not None:
        if name is not None:
            raise ConfigError("expected resume or name, received both; a run has its name already")
        folder = resume.folder if isinstance(resume, TrainedRun) else find(str(resume))
        return starts.resume(_reachable(_config(folder.config if config is None else config, changes)), folder)
    if config is None:
        raise ConfigError("expected a configuration, received none; for example metaray.train('sinusoid_demo')")
    loaded = _reachable(_config(config, changes))
    return starts.named_or_new(loaded, name, _stem(config, loaded))


def evaluate(
    run: "str | Path | TrainedRun",
    /,
    *,
    tasks: int | None = None,
    steps: Sequence[int] | None = None,
    split: str = "test",
    trust: Sequence[str] = (),
    **overrides: Any,
) -> Evaluation:
    """Scores a run, or a registered model, and its baselines on held-out tasks, as ``metaray evaluate`` does.

    Args:
        run: what :func:`train` returned, a run's folder, name or MLflow run id, or ``models:/NAME@ALIAS``.
        tasks: number of held-out tasks; by default the configuration's.
        steps: numbers of inner steps after which to score.
        split: ``test``, ``val`` or ``train``.
        trust: packages whose classes a registered model may name.
        **overrides: keys to change, as in :func:`train`: ``task={"shot": 20}``.

    Returns:
        Mean, 95 % interval, median and diverged tasks at each number of inner steps.

    Raises:
        ConfigError: if there is no such run or model, or a change asks for another θ.

    >>> evaluate("no-such-run")
    Traceback (most recent call last):
    ...
    cluster.errors.ConfigError: expected a run's folder or an MLflow run id, received 'no-such-run'; ...
    """
    from cluster.registry.evaluate import MODELS, evaluate_named

    with _command():
        changes = words(overrides)
        changes += [] if tasks is None else words({"eval.tasks": tasks})
        changes += [] if steps is None else words({"eval.steps": list(steps)})
        name = str(run.path) if isinstance(run, TrainedRun) else str(run)
        if not name.startswith(MODELS):
            workers = _reachable(overridden(find(name).config, changes)).cluster.workers
            changes += words({"cluster.workers": workers})
        evaluation = Evaluation(evaluate_named(name, changes, split, trust))
        for warning in evaluation.get("warnings", ()):
            warn(warning)
    return evaluation


def tune(
    config: Source | None = None,
    /,
    *,
    name: str | None = None,
    resume: str | Path | None = None,
    **overrides: Any,
) -> SearchTable:
    """Searches a space of configurations on Ray Tune, as ``metaray tune`` does.

    Args:
        config: a search file; or a configuration of which trials are variants, with the section ``search`` beside its
            sections or among the overrides.
        name: of the search; one that is there goes on.
        resume: folder or name of a search to go on with.
        **overrides: sections or keys to change: ``search={"space": {"inner.lr": {"loguniform": [1e-3, 1e-1]}}, …}``.

    Returns:
        The ranked trials.

    Raises:
        ConfigError: if a setting is wrong, or a class cannot be imported by the trials' processes.
        Interrupted: if it was stopped; the message says how to go on.
        MetarayError: if no trial came to a score.

    >>> tune({"task": {"family": "sinusoid"}})
    Traceback (most recent call last):
    ...
    cluster.errors.ConfigError: search: expected a section 'search' (base, space, metric, …), found none
    """
    from cluster.registry.client import require_names
    from cluster.search import folder as folders
    from cluster.search import settings
    from cluster.search.outcome import outcome
    from cluster.search.run import run

    with _command():
        _require_one(config, name, resume, "search")
        if resume is not None:
            folder = folders.find(str(resume))
            loaded: Search = settings.reload(folder.path / "search.yaml", words(overrides))
        else:
            raw, place = _raw(config, "search")
            loaded = settings.of(with_overrides(raw, words(overrides)), place)
            if loaded.settings.register_as is not None:
                require_names(loaded.settings.register_as, loaded.settings.alias)
            folder = folders.named_or_new(loaded, name, _stem(config, loaded.base))
        _require_importable(loaded.base, "a search's trials")
        with stop_on_signals() as stop:
            result = run(loaded, folder, stop)
        for warning in result.warnings:
            warn(warning)
        return SearchTable(result, outcome(result))


def compare(
    config: Source | None = None,
    /,
    *,
    name: str | None = None,
    resume: str | Path | None = None,
    **overrides: Any,
) -> ComparisonTable:
    """Trains variants of a configuration on one budget and several seeds, as ``metaray compare`` does.

    Args:
        config: a comparison file; or a configuration of which rows are variants, with the section ``compare``
            beside its sections or among the overrides.
        name: of the comparison; one that is there goes on.
        resume: folder or name of a comparison to go on with.
        **overrides: sections or keys to change: ``compare={"rows": {"maml": {}, "first order": {"algorithm":
            "fomaml"}}, "seeds": 3, "budget": {"steps": 500}}``.

    Returns:
        The rows with their scores, intervals and differences.

    Raises:
        ConfigError: if a setting is wrong, or a class cannot be imported by the trials' processes.
        Interrupted: if it was stopped; the message says how to go on.
        MetarayError: if no row came to a score.

    >>> compare({"task": {"family": "sinusoid"}})
    Traceback (most recent call last):
    ...
    cluster.errors.ConfigError: compare: expected a section 'compare' (base, budget, seeds, rows), found none
    """
    from cluster.compare import folder as folders
    from cluster.compare import settings
    from cluster.compare.run import run

    with _command():
        _require_one(config, name, resume, "comparison")
        if resume is not None:
            folder = folders.find(str(resume))
            loaded: Comparison = settings.reload(folder.path / folders.SETTINGS, words(overrides))
        else:
            raw, place = _raw(config, "compare")
            loaded = settings.of(with_overrides(raw, words(overrides)), place)
            folder = folders.named_or_new(loaded, name, _stem(config, loaded.base))
        for row in loaded.rows:
            _require_importable(loaded.config({"row": row, "seed": loaded.seeds[0]}), "a comparison's trials")
        with stop_on_signals() as stop:
            result = run(loaded, folder, stop)
        for warning in result.warnings:
            warn(warning)
    return ComparisonTable(result)


def _config(source: Source, changes: Sequence[str]) -> Config:
    if isinstance(source, Config):
        return overridden(source, changes)
    raw = read_yaml(locate(source)) if isinstance(source, str | Path) else with_overrides({}, words(source))
    return parse(with_overrides(raw, changes))


def _raw(source: Source | None, section: str) -> tuple[dict[str, Any], Path]:
    """The contents of a search or comparison, and the file that paths in it are relative to."""
    if source is None:
        raise ConfigError(f"expected a file or a configuration with a section '{section}', received none")
    if isinstance(source, str | Path):
        path = locate(source)
        return read_yaml(path), path
    plain = source.model_dump(mode="json") if isinstance(source, Config) else source
    return with_overrides({}, words(plain)), Path(section)


def _stem(source: Source | None, config: Config) -> str:
    """The beginning of a new name: the file's, or the family's."""
    if isinstance(source, str | Path):
        return Path(source).stem
    return config.task.family.rpartition(":")[2].lower()


def _require_one(source: object, name: str | None, resume: object, noun: str) -> None:
    if resume is not None and (name is not None or source is not None):
        raise ConfigError(
            f"expected resume alone, received {'name' if name is not None else f'a {noun}'} too; a {noun} that goes on "
            "has its name and its settings already, and takes changes as keyword arguments"
        )


def _reachable(config: Config) -> Config:
    """The configuration, without workers if it names classes of this notebook or script.

    Raises:
        ConfigError: if it asks for workers.
    """
    plain, workers = config.model_dump(mode="json"), config.cluster.workers
    classes = ", ".join(names_in_main(plain))
    if not classes or workers == 0:
        return config
    if workers == "auto" and config.cluster.address == "local":
        say(f"cluster.workers: 0 ({classes} of __main__ cannot be imported by workers; a class in a file can)")
        return overridden(config, words({"cluster.workers": 0}))
    raise ConfigError(_moved(classes, "workers") + ", or set cluster={'workers': 0}")


def _require_importable(config: Config, who: str) -> None:
    """Raise an error if trials, each in a process of its own, cannot import what a configuration names."""
    if classes := ", ".join(names_in_main(config.model_dump(mode="json"))):
        raise ConfigError(_moved(classes, who))


def _moved(classes: str, who: str) -> str:
    return (
        f"expected classes that {who} can import, received {classes} of __main__, a notebook or a script; move the "
        "definition to a file in this folder, my_models.py for one, and import it from there"
    )

"""Registering a run's best θ as a version of a model, with an alias if it is asked for and earned."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.errors import MetarayError
from cluster.evaluation.run import evaluate_one
from cluster.registry import card
from cluster.registry.champion import Difference, compare
from cluster.registry.client import Contents, Registry, require_names
from cluster.registry.contender import Contender, contender_of, packages_of
from cluster.registry.loading import load_adaptable
from cluster.registry.package import write_package
from cluster.registry.pyfunc import PACKAGE, example_of, save
from cluster.runs.checkpoint import Checkpoint
from cluster.runs.folder import RunFolder, read_json
from meta.engine.arithmetic import fix_arithmetic
from meta.params import fingerprint

CHAMPION = "champion"  # alias unless another is given


@dataclass(frozen=True, kw_only=True)
class Registered:
    """Result of a registration.

    Attributes:
        name: of the registered model.
        version: number of the new version.
        alias: the alias that was asked for, or None.
        promoted: whether the alias stands for the new version now.
        champion: version that the alias stood for before, or None.
        difference: how much better than the champion it is; None if they were not compared.
        verdict: in words, why the alias moved or did not.
    """

    name: str
    version: int
    alias: str | None
    promoted: bool
    champion: int | None
    difference: Difference | None
    verdict: str | None

    @property
    def uri(self) -> str:
        """The address of the version, for ``mlflow.pyfunc.load_model`` and ``metaray evaluate``."""
        return f"models:/{self.name}/{self.version}"

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray register --json`` prints."""
        difference = None if self.difference is None else asdict(self.difference)
        return {**vars(self), "difference": difference, "uri": self.uri}


def register(
    folder: RunFolder,
    name: str,
    *,
    alias: str | None = None,
    if_better: bool = False,
    tasks: int | None = None,
    overrides: Sequence[str] = (),
    trusted: Sequence[str] = (),
) -> Registered:
    """Register the best θ of a run as a new version of ``name``.

    Args:
        folder: the run.
        name: of the registered model, made if there is none.
        alias: name for the version, which it takes from the version that has it.
        if_better: move the alias, ``champion`` unless another is given, only if the new version beats the one that has
            it: the 95 % interval of the difference over the same test tasks has to lie above zero. Every attempt takes
            tasks that no other attempt at this model has looked at.
        tasks: number of these; by default ``eval.tasks``.
        overrides: what has changed since the training: ``task.root=…``, ``cluster.…``, ``tracking.uri=…``.

        trusted: packages whose classes the champion's configuration may name, besides the run's own.

    Raises:
        ConfigError: if a name is illegal, MLflow does not have the run, or the champion is of other tasks.
        CheckpointError: if the run has no checkpoint.
        MetarayError: if the registry does not answer. In each case nothing is registered.
    """
    alias = CHAMPION if alias is None and if_better else alias
    require_names(name, alias)
    fix_arithmetic(threads=1)
    contender = contender_of(folder, overrides)
    registry = Registry(contender.config.tracking, (*trusted, *packages_of(contender.config)))
    run_id = registry.require_run(folder)
    before = None if alias is None else registry.holder(name, alias)
    difference = None
    if if_better and before is not None:
        with registry.package(name, before) as champion_folder:
            reserve = partial(registry.reserve, name)
            difference = compare(contender, champion_folder, tasks or contender.config.eval.tasks, reserve)
    promoted = alias is not None and (difference is None or difference.is_gain)
    verdict = _verdict(str(alias), before, difference) if if_better else None
    evaluation = _evaluation(folder, contender.state, overrides)
    with tempfile.TemporaryDirectory(prefix="metaray-") as temporary:
        contents = _contents(Path(temporary) / PACKAGE, folder, contender, evaluation, run_id, verdict)
        version = registry.publish(name, contents, alias if promoted else None, before)
    return Registered(
        name=name,
        version=version,
        alias=alias,
        promoted=promoted,
        champion=before,
        difference=difference,
        verdict=verdict,
    )


def _evaluation(folder: RunFolder, state: Checkpoint, overrides: Sequence[str]) -> dict[str, Any]:
    """Held-out figures of θ: the run's own, or new ones if it ended without, or was trained on since."""
    path = folder.path / "evaluation.json"
    if path.exists():
        evaluation: dict[str, Any] = read_json(path)
        if evaluation.get("checkpoint_step") == state.step:
            return evaluation
    return evaluate_one(folder, overrides, "test")


def _contents(
    package: Path,
    folder: RunFolder,
    contender: Contender,
    evaluation: dict[str, Any],
    run_id: str,
    verdict: str | None,
) -> Contents:
    """Contents of the new version: the package is written, tried and described."""
    setup, state = contender.setup, contender.state
    write_package(package, folder, setup, state, evaluation)
    model = load_adaptable(package, packages_of(contender.config))
    try:
        lr = model.inner_lr if model.learned_steps else 0.0  # steps of no length cannot diverge
        model.predict(example_of(model), model.inner_steps, lr)
    except ValueError as error:
        raise MetarayError(f"{folder.path}: expected a model that can be served, received: {error}") from error
    theta = fingerprint(setup.layout.flatten(state.params))
    return Contents(
        run_id=run_id,
        save=partial(save, package=package, model=model),
        description=card.describe(folder, state, evaluation, model, theta, verdict),
        tags=card.tags(folder, state, evaluation, model, theta),
    )


def _verdict(alias: str, before: int | None, difference: Difference | None) -> str:
    """The reason why an alias moved, or did not."""
    if difference is None:
        return f"promoted to {alias}: there was none"
    attempt = f" (comparison {difference.attempt} of this model)"
    if difference.is_gain:
        return f"promoted to {alias}: {difference} than version {before}{attempt}"
    return f"not promoted to {alias}, which stays with version {before}: {difference}{attempt}"

"""A run's best θ with what it is of, as it is registered, compared and adapted."""

from collections.abc import Sequence
from typing import NamedTuple

from cluster.config.schema import Config, overridden
from cluster.errors import ConfigError
from cluster.registry.trust import named_packages
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint
from cluster.runs.engine import with_engine_of
from cluster.runs.folder import RunFolder
from cluster.setups.build import Setup, build

MAY_CHANGE = ("cluster.", "task.root=", "tracking.uri=")  # of the configuration: where things are, and who computes


class Contender(NamedTuple):
    """A configuration, what it builds, and the checkpoint of θ."""

    config: Config
    setup: Setup
    state: Checkpoint


def packages_of(config: Config) -> tuple[str, ...]:
    """Packages of the user's own that a run's configuration names: it was trained with them."""
    return named_packages(config.model_dump(mode="json"))


def contender_of(folder: RunFolder, overrides: Sequence[str]) -> Contender:
    """A run's best θ, and what it is of.

    Args:
        folder: the run.
        overrides: what has changed since the training: ``task.root=…``, ``cluster.…``, ``tracking.uri=…``.

    Raises:
        ConfigError: if another key is changed, the run does not adapt, or its data are others.
        CheckpointError: if the run has no checkpoint.
    """
    other = [text for text in overrides if not text.startswith(MAY_CHANGE)]
    if other:
        raise ConfigError(
            f"expected overrides of task.root, cluster.… and tracking.uri alone, received '{other[0]}': a run is "
            "registered as it was trained"
        )
    config = with_engine_of(folder, overridden(folder.config, overrides))
    _, state = checkpoints.chosen(folder.checkpoints)
    setup = build(config)
    if getattr(setup.algorithm, "informed", False):
        raise ConfigError(
            "expected a run that adapts to tasks, received one of an oracle, which knows them; register one of "
            "maml, fomaml or pretrain"
        )
    checkpoints.require_data(state, setup.family.spec.data)
    return Contender(config, setup, state)

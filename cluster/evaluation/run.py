"""Evaluation of a finished run and its baselines, under the protocol it was trained with or another."""

from collections.abc import Sequence
from typing import Any

from cluster.config.schema import Config, overridden
from cluster.errors import ConfigError
from cluster.evaluation.scores import evaluate_params, with_baselines
from cluster.runs import checkpoint as checkpoints
from cluster.runs.engine import with_engine_of
from cluster.runs.folder import RunFolder
from cluster.setups.build import build
from cluster.workers.auto import settled
from cluster.workers.messages import scores_requests
from cluster.workers.open import open_pool, shared_session
from meta.engine.arithmetic import fix_arithmetic
from tasks.family import SPLITS

FIXED = ("model", "algorithm", "objective", "dtype")  # what θ was made for


def evaluate_run(folder: RunFolder, overrides: Sequence[str], split: str) -> dict[str, Any]:
    """Figures of the run's best θ, and of its baselines' under the same protocol.

    Args:
        folder: the run's folder.
        overrides: words ``section.key=value`` that change the protocol.
        split: of the tasks.

    Raises:
        ConfigError: if an override asks for another model, or the split does not exist.
    """
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, received '{split}'")
    fix_arithmetic(threads=1)
    with shared_session(_protocol(folder, overrides)):
        result = evaluate_one(folder, overrides, split)
        baselines = {name: evaluate_one(one, overrides, split) for name, one in folder.baselines.items()}
    return with_baselines(result, baselines)


def _protocol(folder: RunFolder, overrides: Sequence[str]) -> Config:
    own = folder.config
    config = overridden(own, overrides)
    changed = [key for key in FIXED if getattr(config, key) != getattr(own, key)]
    if changed:
        raise ConfigError(f"{changed[0]}: a run is evaluated with the {changed[0]} it was trained with; leave it out")
    return config


def evaluate_one(folder: RunFolder, overrides: Sequence[str], split: Any) -> dict[str, Any]:
    """Figures of one run's best θ, its baselines left out.

    Args:
        folder: the run's folder.
        overrides: words ``section.key=value`` that change the protocol.
        split: of the tasks.

    Raises:
        ConfigError: if the tasks asked for are of another shape than θ, or of other data than the run's without asking.
    """
    config = with_engine_of(folder, _protocol(folder, overrides))
    setup = build(config)
    name, state = checkpoints.chosen(folder.checkpoints)
    if {n: tuple(t.shape) for n, t in state.params.items()} != dict(
        zip(setup.layout.names, setup.layout.shapes, strict=True)
    ):
        raise ConfigError(f"{folder.checkpoints.where(name)} does not fit the tasks asked for; change task.* back")
    if not any(override.startswith("task.root=") for override in overrides):
        # Other data where the run's was: its training classes may be among the test classes there.
        checkpoints.require_data(state, setup.family.spec.data)
    requests = scores_requests(0, split, config.eval.tasks, config.shard_size, config.eval.steps)
    setup, _ = settled(setup, requests)
    with open_pool(setup) as pool:
        result = evaluate_params(pool, config, setup, state, split)
    further: dict[str, Any] = {"trained_on": state.data} if state.data != setup.family.spec.data else {}
    warnings = folder.info.get("warnings")
    return result | further | ({"warnings": warnings} if warnings else {})

"""Evaluation of a finished run and its baselines, under the protocol it was trained with or another."""

from collections.abc import Sequence
from typing import Any

from cluster import checkpoint as checkpoints
from cluster.builder import build
from cluster.config import Config, overridden
from cluster.errors import ConfigError
from cluster.runs import RunFolder
from cluster.training import evaluate_params, open_pool, shared_session, with_engine_of
from cluster.worker import fix_arithmetic
from tasks.family import SPLITS

FIXED = ("model", "algorithm", "dtype")  # what θ was made for


def evaluate_run(folder: RunFolder, overrides: Sequence[str], split: str) -> dict[str, Any]:
    """Figures of the run's best θ, and of its baselines' under the same protocol.

    Raises:
        ConfigError: if an override asks for another model, or the split does not exist.
    """
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, received '{split}'")
    fix_arithmetic(threads=1)
    with shared_session(_protocol(folder, overrides)):
        result = _evaluate_one(folder, overrides, split)
        baselines = {name: _evaluate_one(one, overrides, split)["steps"] for name, one in folder.baselines.items()}
    return result | ({"baselines": baselines} if baselines else {})


def _protocol(folder: RunFolder, overrides: Sequence[str]) -> Config:
    own = folder.config
    config = overridden(own, overrides)
    changed = [key for key in FIXED if getattr(config, key) != getattr(own, key)]
    if changed:
        raise ConfigError(f"{changed[0]}: a run is evaluated with the {changed[0]} it was trained with; leave it out")
    return config


def _evaluate_one(folder: RunFolder, overrides: Sequence[str], split: Any) -> dict[str, Any]:
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
    with open_pool(config) as pool:
        result = evaluate_params(pool, config, setup, state, split)
    return result | ({"trained_on": state.data} if state.data != setup.family.spec.data else {})

"""Packages of runs that have not learned anything yet, as ``metaray register`` makes them of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cluster.config.schema import Config
from cluster.registry.package import write_package
from cluster.runs.checkpoint import Checkpoint
from cluster.setups.build import Setup, build
from helpers.folders import make_run
from meta.params import Params


def pack(
    config: Config, root: Path, evaluation: Mapping[str, Any] | None = None, **tensors: Tensor
) -> tuple[Setup, Params, Path]:
    """A run's set-up, its θ after no step of ``outer.steps``, and its package below ``root``; more tensors by name."""
    setup = build(config)
    folder, params = make_run(config, "run", setup.choice), setup.initial_params()
    state = Checkpoint(
        step=config.outer.steps,
        skipped=0,
        engine=setup.choice.name,
        data=setup.family.spec.data,
        config=config.model_dump(mode="json"),
        best=None,
        tensors={f"theta.{name}": value for name, value in params.items()} | tensors,
    )
    write_package(root / "package", folder, setup, state, dict(evaluation or {}))
    return setup, params, root / "package"

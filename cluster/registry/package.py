"""A registered model's files: a run's folder again, with θ alone, and the spec in place of the task family.

    config.yaml  run.json  evaluation.json  checkpoints/best.safetensors  spec.json

``evaluate`` works on it as on any run. To adapt and predict, the first and the last two files are enough: neither data
nor environments are opened, and the family need not be importable.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config.schema import Config, read_yaml
from cluster.errors import CheckpointError
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint
from cluster.runs.folder import RunFolder, write_json
from cluster.runs.storage import Store, write_file
from cluster.setups.build import Setup
from meta.params import Params
from tasks.data.tables.encode import Encoder
from tasks.data.tables.manifest import Columns
from tasks.environments.contract import EnvironmentSpec
from tasks.family import FamilySpec
from tasks.images import Images
from tasks.inputs import InputSpec
from tasks.table import Table

FORMAT = 1
SPEC = "spec.json"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A registered model as read from its folder.

    Attributes:
        config: the run's configuration.
        spec: the family's spec; an :class:`EnvironmentSpec` for RL tasks.
        pixels: inputs are given as images are stored, uint8 and channels last, not as the model takes them.
        inverted: these pixels are 255 - value of the image files that they were prepared from.
        table: encodes rows of the user's own as those of the table that the run drew from; None for other families.
        params: θ.
    """

    config: Config
    spec: FamilySpec
    pixels: bool
    inverted: bool = False
    table: Encoder | None = None
    params: Params


def write_package(
    path: Path, folder: RunFolder, setup: Setup, state: Checkpoint, evaluation: Mapping[str, Any]
) -> None:
    """Write a run's model into a folder.

    Args:
        path: the folder to make.
        folder: the run.
        setup: what the run's configuration builds.
        state: the checkpoint to take θ from.
        evaluation: held-out figures of this θ.
    """
    theta = {f"theta.{name}": tensor for name, tensor in state.params.items()}
    write_file(path / "config.yaml", folder.config.to_yaml().encode())
    write_json(path / "run.json", folder.info | {"checkpoints": None})
    write_json(path / "evaluation.json", evaluation)
    best = checkpoints.encode(dataclasses.replace(state, tensors=theta))
    Store(str(path / "checkpoints")).write(checkpoints.BEST, best)
    package = package_of(folder.config, setup, state)
    spec = package.spec
    cls = EnvironmentSpec if isinstance(spec, EnvironmentSpec) else FamilySpec
    # Kinds are for evaluations, which ask the family itself.
    values = {field.name: getattr(spec, field.name) for field in dataclasses.fields(cls) if field.name != "kinds"}
    kind: dict[str, Any] = {"acted": cls is EnvironmentSpec, "pixels": package.pixels, "inverted": package.inverted}
    if (encoder := package.table) is not None:
        kind["table"] = encoder.manifest.to_plain() | {"standardise": encoder.standardise}
    values["inputs"] = {name: dataclasses.asdict(one) for name, one in spec.inputs.items()}
    write_json(path / SPEC, {"format": FORMAT, **kind, "spec": values})


def package_of(config: Config, setup: Setup, state: Checkpoint) -> Package:
    """The package of a run, as :func:`write_package` writes it.

    Args:
        config: the run's configuration.
        setup: what it builds.
        state: the checkpoint to take θ from.
    """
    images = setup.family if isinstance(setup.family, Images) else None
    inverted = images is not None and images.store.manifest.origin.get("inverted") is True
    return Package(
        config=config,
        spec=setup.family.spec,
        pixels=images is not None,
        inverted=inverted,
        table=setup.family.encoder if isinstance(setup.family, Table) else None,
        params=state.params,
    )


def read_package(path: Path) -> Package:
    """The package that :func:`write_package` wrote, as far as adapting and predicting need it.

    Raises:
        CheckpointError: if a file is missing, damaged, or of another format.
    """
    try:
        # Checked when it was written; to check it anew would take the family, and whatever the family needs.
        config = Config.model_validate(read_yaml(path / "config.yaml"))
        described = json.loads((path / SPEC).read_text())
        if described["format"] != FORMAT:
            raise CheckpointError(
                f"{path / SPEC}: expected format {FORMAT}, received {described['format']}; use the version of metaray "
                "that registered the model"
            )
        spec = _spec(described["spec"], acted=described["acted"])
        columns = described.get("table")
        table = None if columns is None else Encoder(Columns.of_plain(columns), columns["standardise"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: expected a model that metaray registered, received {error}") from error
    _, state = checkpoints.chosen(Store(str(path / "checkpoints")))
    return Package(
        config=config,
        spec=spec,
        pixels=described["pixels"],
        inverted=described.get("inverted", False),
        table=table,
        params=state.params,
    )


def _spec(values: Mapping[str, Any], *, acted: bool) -> FamilySpec:
    """The spec of a package from plain values."""
    named = values.get("inputs", {})  # packages of earlier versions have none
    inputs = {name: InputSpec(**{**one, "shape": tuple(one["shape"])}) for name, one in named.items()}
    made = {**values, "input_shape": tuple(values["input_shape"]), "inputs": inputs}
    if not acted:
        return FamilySpec(**made)
    return EnvironmentSpec(**{**made, "choices": tuple(values.get("choices", ()))})

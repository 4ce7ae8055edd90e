"""The initial θ from a file or a registered model: ``model.weights``, which ``metaray train --from RUN`` sets too.

Only the process that holds the learner reads it: workers get θ from the learner.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from cluster.config.schema import Config
from cluster.errors import CheckpointError, ConfigError, MetarayError
from cluster.registry.trust import named_packages
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder, find
from cluster.runs.storage import Store
from cluster.setups.build import Setup
from meta.inner import matches
from meta.models import TorchModel
from meta.params import Params

MODELS = "models:/"  # begins the address of a registered model
SHOWN = 5  # names that a message lists


@dataclass(frozen=True, kw_only=True)
class Weights:
    """An initial θ.

    Attributes:
        params: θ before the first outer step.
        sha256: digest of the file that parts of it were taken from.
        lasting: whether the file is to stay as it is; a run's best checkpoint changes when the run goes on.
        warnings: sentences about names that did not match.
    """

    params: Params
    sha256: str
    lasting: bool
    warnings: tuple[str, ...]

    @property
    def info(self) -> dict[str, Any]:
        """The entry ``weights`` of ``run.json``."""
        return {"sha256": self.sha256, "lasting": self.lasting, "warnings": list(self.warnings)}


def starting_weights(setup: Setup) -> Weights | None:
    """The initial θ that ``model.weights`` names; None without that key.

    Args:
        setup: what the run's configuration builds; its own initial parameters are taken for names that the file does
            not have, and for those that fit ``model.reinit``.

    Raises:
        ConfigError: if there is no such file, it holds more than tensors, no name matches, a shape is another, or a
            value is no finite real number.
    """
    source, patterns = setup.config.model.weights, setup.config.model.reinit
    fresh = setup.initial_params()
    if source is None:
        return None
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in fresh):
            raise ConfigError(
                f"model.reinit: expected patterns of parameter names, '{pattern}' fits none of {_listed(fresh)}"
            )
    data = _bytes_of(setup, source)
    tensors = _tensors(data, source)
    anew = {name for name in fresh if patterns and matches(name, patterns)}
    taken = {name: tensors[name] for name in fresh if name in tensors and name not in anew}
    if not taken:
        raise ConfigError(
            f"model.weights: expected names of parameters ({_listed(fresh)}), received none of them in {source} "
            f"({_listed(tensors)}); save the state_dict of the module that model.name constructs"
        )
    _require_fitting(taken, fresh, source)
    equal = _require_same_buffers(setup.algorithm.model, tensors, source)
    params = {name: taken[name].to(value.dtype).clone() if name in taken else value for name, value in fresh.items()}
    missing = [name for name in fresh if name not in taken and name not in anew]
    known = {*fresh, *equal}
    unused = [name for name in tensors if name not in known and not name.endswith("num_batches_tracked")]
    warnings = []
    if missing:
        warnings.append(
            f"model.weights: {len(missing)} of {len(fresh)} parameters are not in {source} and begin as initialised: "
            f"{', '.join(missing)}"
        )
    if unused:
        warnings.append(
            f"model.weights: {len(unused)} of {len(tensors)} tensors in {source} are no parameters of the model and "
            f"were not used: {', '.join(unused)}"
        )
    return Weights(
        params=params,
        sha256=hashlib.sha256(data).hexdigest(),
        lasting=not _is_checkpoint(data),
        warnings=tuple(warnings),
    )


def require_same_weights(folder: RunFolder, setup: Setup, *, begun: bool) -> None:
    """Raise an error if a run would go on, or begin, from another file than it was planned with.

    Args:
        folder: the run's.
        setup: what its configuration builds.
        begun: whether the run has a checkpoint, which holds θ, so that the file need not be there any more.

    Raises:
        ConfigError: naming both digests, or that the file is gone.
    """
    source, info = setup.config.model.weights, folder.info.get("weights") or {}
    if source is None or (begun and not info.get("lasting", True)):
        return
    recorded = info.get("sha256")
    try:
        digest = hashlib.sha256(_bytes_of(setup, source)).hexdigest()
    except MetarayError as error:
        if begun:
            return
        raise ConfigError(f"{error}; the run has no checkpoint yet to go on from without it") from error
    if digest != recorded:
        raise ConfigError(
            f"model.weights: expected the file that the run was begun with, of SHA-256 {recorded}, received another at "
            f"{source}, of {digest}; restore it, or start a new run"
        )


def weights_of(name: str, config: Config) -> str:
    """The value of ``model.weights`` that stands for the θ of a run, or of a registered model.

    Args:
        name: a RUN, or the address of a registered model. An alias is followed now, so that a resumption looks for the
            same version.
        config: of the new run; it says where models are registered.

    Raises:
        ConfigError: if there is no such run or model.
        CheckpointError: if the run has no checkpoint.
    """
    if name.startswith(MODELS):
        from cluster.registry.client import Registry  # MLflow is loaded only where it is used

        model, version = Registry(config.tracking).resolve(name)
        return f"{MODELS}{model}/{version}"
    address = _best_of(find(name))
    return address if "://" in address else str(Path(address).absolute())


def _best_of(folder: RunFolder) -> str:
    """Path or URI of a run's best checkpoint, or of its newest if there is no best."""
    name, _ = checkpoints.chosen(folder.checkpoints)
    return folder.checkpoints.where(name)


def _bytes_of(setup: Setup, source: str) -> bytes:
    if source.startswith(MODELS):
        from cluster.registry.client import Registry  # MLflow is loaded only where it is used

        config = setup.config
        with Registry(config.tracking, named_packages(config.model_dump(mode="json"))).open(source) as folder:
            return _read(_best_of(folder))
    return _read(source)


def _read(source: str) -> bytes:
    folder, _, name = source.rpartition("/")
    try:
        return Store(folder or ("/" if source.startswith("/") else ".")).read(name)
    except (OSError, CheckpointError) as error:  # FileNotFoundError, a folder, no rights, an unknown scheme
        raise ConfigError(
            f"model.weights: expected a file of safetensors or a torch state_dict, or {MODELS}NAME@ALIAS, received "
            f"'{source}', where none can be read: {error}"
        ) from error


def _tensors(data: bytes, source: str) -> Mapping[str, Tensor]:
    """The tensors by name in the bytes of a file: a checkpoint of metaray, safetensors, or a torch state_dict."""
    if data[8:9] == b"{":
        try:
            return checkpoints.decode(data, source).params if _is_checkpoint(data) else safetensors.torch.load(data)
        except (SafetensorError, ValueError, CheckpointError) as error:
            raise ConfigError(f"model.weights: expected whole safetensors in {source}, received: {error}") from error
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)  # nothing in it is executed
    except Exception as error:  # whatever torch raises about a file that is damaged, or holds more than tensors
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ConfigError(
            f"model.weights: expected safetensors or a torch state_dict in {source}, which hold tensors alone, "
            f"received something else ({reason}); save it by torch.save(module.state_dict(), FILE)"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        received = f"keys {_listed(loaded)}" if isinstance(loaded, Mapping) else type(loaded).__name__
        raise ConfigError(
            f"model.weights: expected tensors by name in {source}, received {received}; save the state_dict alone, by "
            "torch.save(module.state_dict(), FILE)"
        )
    return {str(name): value.detach() for name, value in loaded.items()}


def _is_checkpoint(data: bytes) -> bool:
    """Whether the bytes of a file are those of a checkpoint of metaray, a safetensors file with a text of its own."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return "metaray" in header.get("__metadata__", {})
    except (ValueError, AttributeError, OverflowError):
        return False


def _require_fitting(taken: Mapping[str, Tensor], fresh: Params, source: str) -> None:
    """Raise an error if a tensor has another shape than its parameter, or holds anything but finite real numbers."""
    shapes = [
        f"{name} {list(value.shape)} there, {list(fresh[name].shape)} in the model"
        for name, value in taken.items()
        if value.shape != fresh[name].shape
    ]
    if shapes:
        raise ConfigError(
            f"model.weights: expected the model's shapes in {source}, received others: {'; '.join(shapes)}; name what "
            "is to begin anew in model.reinit, as patterns (fc.*)"
        )
    for name, value in taken.items():
        if not value.is_floating_point():
            raise ConfigError(f"model.weights: expected real numbers, received {value.dtype} for {name} in {source}")
        if not bool(torch.isfinite(value).all()):
            raise ConfigError(f"model.weights: expected finite numbers, received NaN or infinity in {name} of {source}")


def _require_same_buffers(model: Any, tensors: Mapping[str, Tensor], source: str) -> Iterable[str]:
    """Names of the module's buffers that are no part of θ; an error if the file has others: workers construct them."""
    constants = model.constants if isinstance(model, TorchModel) else {}
    for name, value in constants.items():
        there = tensors.get(name)
        if there is not None and not (there.shape == value.shape and torch.equal(there.to(value.dtype), value)):
            raise ConfigError(
                f"model.weights: expected buffer '{name}' as the module's constructor makes it, received another in "
                f"{source}; buffers do not travel to workers: make it a parameter with requires_grad=False"
            )
    return constants


def _listed(names: Iterable[Any]) -> str:
    """The first few of some names, and how many more there are."""
    texts = [str(name) for name in names]
    more = f", … ({len(texts)} in all)" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more

"""Names to classes, built in or by import path: families, models, algorithms, optimizers; and their parameters."""

import difflib
import importlib
import inspect
import json
from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, create_model
from torch import nn

from cluster.errors import ConfigError
from cluster.own_packages import HOME, NAMES
from meta.models.norm import BatchNormMode
from meta.models.output import Output

BUILT_IN: dict[str, dict[str, str]] = {
    "task.family": {
        "ant_direction": "tasks.environments.locomotion:AntDirection",
        "ant_velocity": "tasks.environments.locomotion:AntVelocity",
        "gymnasium": "tasks.environments.gymnasium_tasks:GymnasiumTasks",
        "half_cheetah_direction": "tasks.environments.locomotion:HalfCheetahDirection",
        "half_cheetah_velocity": "tasks.environments.locomotion:HalfCheetahVelocity",
        "images": "tasks.images:Images",
        "navigation": "tasks.environments.navigation:Navigation",
        "series": "tasks.series:Series",
        "sinusoid": "tasks.sinusoid:Sinusoid",
        "table": "tasks.table:Table",
        "task_settable": "tasks.environments.settable:SettableTasks",
        "tabular": "tasks.environments.tabular:Tabular",
    },
    "model.name": {
        "categorical": "meta.policy:CategoricalPolicy",
        "conv4": "meta.models:Conv4",
        "gaussian": "meta.policy:GaussianPolicy",
        "mlp": "meta.models:MLP",
        "multi_categorical": "meta.policy:MultiCategoricalPolicy",
        "resnet12": "meta.models:ResNet12",
    },
    "algorithm": {
        "cavia": "meta.algorithms:CAVIA",
        "fomaml": "meta.algorithms:FirstOrderMAML",
        "maml": "meta.algorithms:MAML",
        "mamlpp": "meta.algorithms:MAMLPlusPlus",
        "oracle": "meta.algorithms:Oracle",
        "pretrain": "meta.algorithms:Pretrain",
        "protomaml": "meta.algorithms:ProtoMAML",
        "protonet": "meta.algorithms:ProtoNet",
        "r2d2": "meta.algorithms:RidgeHead",
        "reptile": "meta.algorithms:Reptile",
        "ridge": "meta.algorithms:Ridge",
        "unicorn": "meta.algorithms:UnicornMAML",
    },
    "inner.rule.name": {
        "adam": "meta.inner:Adam",
        "learned_sgd": "meta.inner:LearnedSGD",
        "momentum": "meta.inner:Momentum",
        "sgd": "meta.inner:SGD",
    },
    "inner.derivative.name": {
        "exact": "meta.inner:Exact",
        "first_order": "meta.inner:FirstOrder",
        "implicit": "meta.inner:Implicit",
        "neumann": "meta.inner:Neumann",
        "sama": "meta.inner:Sama",
        "truncated": "meta.inner:Truncated",
    },
    "objective.name": {
        "bce": "meta.objectives:BinaryCrossEntropy",
        "cross_entropy": "meta.objectives:CrossEntropy",
        "focal": "meta.objectives:Focal",
        "gaussian_nll": "meta.objectives:GaussianNLL",
        "huber": "meta.objectives:Huber",
        "mae": "meta.objectives:MeanAbsoluteError",
        "mse": "meta.objectives:MeanSquaredError",
        "poisson": "meta.objectives:PoissonNLL",
        "quantile": "meta.objectives:Quantile",
    },
    "eval.scores": {
        "accuracy": "meta.objectives.scores:Accuracy",
        "auroc": "meta.objectives.scores:AUROC",
        "balanced_accuracy": "meta.objectives.scores:BalancedAccuracy",
        "calibration_error": "meta.objectives.scores:CalibrationError",
        "macro_f1": "meta.objectives.scores:MacroF1",
        "mae": "meta.objectives.scores:MAE",
        "r2": "meta.objectives.scores:R2",
        "rmse": "meta.objectives.scores:RMSE",
    },
    # For RL tasks; the names are those of the configuration's ``algorithm``.
    "algorithm of policies": {
        "maml": "meta.policy:PolicyMAML",
        "pretrain": "meta.policy:PolicyPretrain",
        "oracle": "meta.policy:PolicyOracle",
    },
    "outer.optimizer.name": {
        written: f"torch.optim:{name}"
        for name, cls in vars(torch.optim).items()
        if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
        for written in (name, name.lower())
    },
    "outer.schedule.name": {
        "constant": "meta.schedules:Constant",
        "cosine": "meta.schedules:Cosine",
        "linear": "meta.schedules:Linear",
        "step": "meta.schedules:Staircase",
    },
}


def nearest(word: str, choices: Mapping[str, Any] | list[str]) -> str:
    """The words «; did you mean 'x'?» for the nearest choice, or an empty text.

    Args:
        word: as the user wrote it.
        choices: valid words.
    """
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def resolve(key: str, name: str) -> type[Any]:
    """The class that ``name`` stands for under a configuration key.

    Args:
        key: ``task.family``, ``model.name``, ``algorithm``, or another of ``BUILT_IN``.
        name: a built-in name or an import path ``module:Name``.

    Raises:
        ConfigError: if there is no such name, module or class.
    """
    table = BUILT_IN[key]
    path = table.get(name, name)
    if not _is_path(path):
        raise ConfigError(
            f"{key}: expected one of {', '.join(sorted(filter(str.islower, table)))} or an import path 'module:Name', "
            f"received '{name}'{nearest(name, table)}"
        )
    return imported(key, path, name)


def _is_path(text: str) -> bool:
    module, colon, attribute = text.partition(":")
    return bool(module and colon and attribute) and not module.startswith(".")


def imported(key: str, path: str, name: str = "") -> type[Any]:
    """The class at an import path.

    Args:
        key: of the configuration, for messages.
        path: ``module:Name``.
        name: as the user wrote it, if that was another.

    Raises:
        ConfigError: if there is no such module or class.
    """
    name = name or path
    if not _is_path(path):
        raise ConfigError(f"{key}: expected an import path 'module:Name', received '{path}'")
    module_name, _, attribute = path.partition(":")
    try:
        cls = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise ConfigError(
            f"{key}: cannot import '{module_name}' of '{name}': {error}{_shadowed(module_name)}"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{key}: module '{module_name}' has no '{attribute}'{_shadowed(module_name)}") from error
    if not inspect.isclass(cls):
        raise ConfigError(f"{key}: expected '{name}' to be a class, received {type(cls).__name__}")
    return cls


def _shadowed(module: str) -> str:
    """Advice to rename a package of the user's that has the name of one of metaray's; empty if there is none."""
    package = module.partition(".")[0]
    own = [place for place in (Path(package), Path(f"{package}.py")) if package in NAMES and place.exists()]
    if not own or Path(own[0]).resolve() == Path(HOME) / own[0]:
        return ""
    return f"; '{package}' is a package of metaray's own: rename your '{own[0]}', to my_{package} for one"


# What can be said about any torch.nn.Module beside the arguments of its constructor, see meta.models.TorchModel.
MODULE_KEYS: dict[str, Any] = {"batch_norm": (BatchNormMode | None, None), "output": (Output | None, None)}


def module_keys(cls: type[Any]) -> frozenset[str]:
    """The names in ``MODULE_KEYS`` that apply to a class: an argument of its constructor comes first.

    Args:
        cls: a subclass of ``torch.nn.Module``; of another class there are none.
    """
    if not issubclass(cls, nn.Module):
        return frozenset()
    return frozenset(MODULE_KEYS.keys() - inspect.signature(cls).parameters.keys())


def parameters(cls: type[Any], given: frozenset[str]) -> type[BaseModel]:
    """The constructor's keyword arguments as a pydantic model, without those that the builder gives itself.

    Those of ``MODULE_KEYS`` come with a ``torch.nn.Module``.

    Args:
        cls: the class.
        given: arguments that the builder gives itself.
    """
    hints = get_type_hints(cls.__init__)
    if not hints.keys() - {"return"}:
        hints = get_type_hints(cls)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in given or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (_without_tensors(hints.get(name, _kind(default))), default)
    fields |= {name: MODULE_KEYS[name] for name in sorted(module_keys(cls))}
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    return create_model(cls.__name__, __config__=config, **fields)


def _without_tensors(hint: Any) -> Any:
    """A type without the tensors that may stand in place of numbers: a configuration holds none."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [_without_tensors(kind) for kind in get_args(hint) if kind is not torch.Tensor]
        return reduce(or_, kinds) if kinds and kinds != list(get_args(hint)) else hint
    if get_origin(hint) is tuple:
        return tuple[tuple(_without_tensors(kind) for kind in get_args(hint))]  # type: ignore[misc]
    return hint


Checked = TypeVar("Checked", bound=BaseModel)


def strictly(model: type[Checked], raw: Mapping[str, Any]) -> Checked:
    """The model built from plain values, types checked strictly: true is no number, 1.5 and a text are no integers.

    Args:
        model: class of the model.
        raw: plain values by key; a list may stand for a tuple.

    Raises:
        ValidationError: naming every key that is wrong.
    """
    return model.model_validate_json(json.dumps(raw), strict=True)


def _kind(default: Any) -> Any:
    """The type of a parameter without an annotation, as far as its default tells."""
    if isinstance(default, bool | str):
        return type(default)
    return int | float if isinstance(default, int | float) else Any

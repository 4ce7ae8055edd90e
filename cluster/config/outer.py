"""The section ``outer``: its optimizer and schedule by name, their arguments, and the parameters of each group."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ValidationError, create_model
from torch import nn
from torch.optim import Optimizer

from cluster.config.components import parameters, resolve, strictly
from cluster.config.outer_sections import GroupConfig, OptimizerConfig, OuterConfig, ScheduleConfig
from cluster.config.problems import problems
from cluster.errors import ConfigError
from meta.inner import EXCEPT, matches
from meta.schedules import Constant, Schedule

# The step size is ``outer.lr``; a loss is minimised; how a step is computed is for the learner to choose.
GIVEN_TO_OPTIMIZERS = frozenset({"params", "lr", "maximize", "foreach", "fused", "capturable", "differentiable"})
READ_ONCE = frozenset({"initial_accumulator_value"})  # Adagrad's constructor takes it for all parameters
OPTIMIZER = "outer.optimizer"


class ShareOfStep(Protocol):
    """The contract of a schedule: a share of the step sizes for each outer step."""

    def share(self, step: int, total: int) -> float:
        """The share, 0 or more.

        Args:
            step: outer steps before this one.
            total: outer steps of the training.
        """
        ...


def optimizer_class(name: str) -> type[Any]:
    """The class of an optimizer that a step of the learner can be taken with.

    Args:
        name: of a class of ``torch.optim``, as it is written there or in small letters, or ``module:Class``.

    Raises:
        ConfigError: if there is none, or the learner cannot use it, with the reason.
    """
    cls = resolve(f"{OPTIMIZER}.name", name)
    if not issubclass(cls, Optimizer):
        raise ConfigError(f"{OPTIMIZER}.name: expected a subclass of torch.optim.Optimizer, received '{name}'")
    if issubclass(cls, torch.optim.SparseAdam):
        raise ConfigError(
            f"{OPTIMIZER}.name: expected an optimizer of dense gradients, received '{name}', which takes sparse ones "
            "alone; meta-gradients are dense: take adam"
        )
    closure = inspect.signature(cls.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(
            f"{OPTIMIZER}.name: expected an optimizer that steps along one gradient, received '{name}', whose step "
            "asks for a closure that computes the loss anew; an outer step has one meta-gradient: take adam or sgd"
        )
    if "lr" not in inspect.signature(cls).parameters:
        raise ConfigError(f"{OPTIMIZER}.name: expected a constructor with the argument lr, that of '{name}' has none")
    return cls


def optimizer_arguments(config: OptimizerConfig) -> dict[str, Any]:
    """The constructor's arguments besides parameters and step size, in the types that it asks for.

    Args:
        config: a section that has been checked.
    """
    return _values(parameters(optimizer_class(config.name), GIVEN_TO_OPTIMIZERS), config.params, OPTIMIZER)


def schedule_of(config: ScheduleConfig) -> ShareOfStep:
    """The schedule that a section names.

    Raises:
        ConfigError: naming the key that is wrong.
    """
    cls = resolve("outer.schedule.name", config.name)
    if not callable(getattr(cls, "share", None)):
        raise ConfigError(f"outer.schedule.name: expected a class with share(step, total), '{config.name}' has none")
    values = _values(parameters(cls, frozenset()), config.params, "outer.schedule")
    try:
        schedule: ShareOfStep = cls(**values)
    except ValueError as error:
        raise ConfigError(f"outer.schedule: {error}") from error
    return schedule


def group_of(config: OptimizerConfig, names: Sequence[str]) -> dict[str, str]:
    """The group of each parameter that is in one; the others have the optimizer's own settings.

    Args:
        config: the section.
        names: of the parameters that are trained.

    Raises:
        ConfigError: if a pattern fits no parameter, or a parameter fits two groups.
    """
    groups: dict[str, str] = {}
    for group, settings in config.groups.items():
        key = f"{OPTIMIZER}.groups.{group}.patterns"
        members = [name for name in names if matches(name, settings.patterns)]
        for pattern in settings.patterns:
            if not any(matches(name, [pattern.removeprefix(EXCEPT)]) for name in names):
                raise ConfigError(
                    f"{key}: expected patterns of the names of trained parameters, '{pattern}' fits none of "
                    f"{', '.join(names)}"
                )
        if not members:
            raise ConfigError(f"{key}: expected patterns that leave parameters, received {list(settings.patterns)}")
        for name in members:
            if name in groups:
                raise ConfigError(
                    f"{key}: expected each parameter in one group, '{name}' is in {groups[name]} too; leave it out of "
                    f"one with '{EXCEPT}{name}'"
                )
            groups[name] = group
    return groups


def checked_outer(outer: OuterConfig) -> OuterConfig:
    """The section with the arguments of optimizer and schedule checked, defaults filled in.

    Raises:
        ConfigError: naming the key that is wrong.
    """
    optimizer = _checked_optimizer(outer.optimizer, outer.lr)
    schedule = schedule_of(outer.schedule)
    if isinstance(schedule, Schedule):
        try:
            schedule.require_room(outer.steps)
        except ValueError as error:
            raise ConfigError(f"outer.schedule: {error}") from error
    values = _values(parameters(type(schedule), frozenset()), outer.schedule.params, "outer.schedule")
    if issubclass(optimizer_class(optimizer.name), torch.optim.Rprop) and schedule != Constant():
        raise ConfigError(
            f"outer.schedule: expected none with {optimizer.name}, which changes its step sizes by itself after the "
            f"first step, received {outer.schedule.name}; leave it out"
        )
    if outer.step == "trpo":
        _require_no_optimizer(outer, optimizer)
    spelled_out = {"optimizer": optimizer, "schedule": ScheduleConfig(name=outer.schedule.name, **values)}
    return outer.model_copy(update=spelled_out)


def _checked_optimizer(config: OptimizerConfig, lr: float) -> OptimizerConfig:
    if "lr" in config.params:
        raise ConfigError(f"{OPTIMIZER}.lr: expected none, the step size is outer.lr; received {config.params['lr']!r}")
    cls = optimizer_class(config.name)
    model = parameters(cls, GIVEN_TO_OPTIMIZERS)
    # Beside the arguments, so that an error lists them among the keys that there are.
    whole = create_model(cls.__name__, __base__=model, groups=(Any, None))
    values = {key: value for key, value in _values(whole, config.params, OPTIMIZER).items() if key != "groups"}
    _try(cls, {"lr": lr, **values}, OPTIMIZER)
    groups = {}
    for name, group in config.groups.items():
        key = f"{OPTIMIZER}.groups.{name}"
        of_group = create_model(cls.__name__, __base__=model, patterns=(Any, None), lr=(Any, None))
        # What a constructor asks for may be given for all parameters alone.
        merged = _values(of_group, {**config.params, **group.params}, key)
        own = {argument: merged[argument] for argument in group.params}
        made = _try(cls, {"lr": group.lr or lr, **values, **own}, key)
        for argument in own:
            if argument not in made.defaults or argument in READ_ONCE:
                raise ConfigError(
                    f"{key}.{argument}: expected settings that {config.name} keeps for each group, this one it takes "
                    f"for all parameters; write {OPTIMIZER}.{argument}"
                )
        groups[name] = GroupConfig(patterns=group.patterns, lr=group.lr, **own)
    return OptimizerConfig(name=cls.__name__.lower() if _is_torch(cls) else config.name, groups=groups, **values)


def _is_torch(cls: type[Optimizer]) -> bool:
    return getattr(torch.optim, cls.__name__, None) is cls


def _values(model: type[BaseModel], given: Mapping[str, Any], key: str) -> dict[str, Any]:
    try:
        return dict(strictly(model, given))
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, model, f"{key}."))) from error


def _try(cls: type[Any], arguments: Mapping[str, Any], key: str) -> Optimizer:
    """An optimizer of a matrix: its constructor checks what types cannot say, such as ranges."""
    try:
        made: Optimizer = cls([nn.Parameter(torch.zeros(2, 2))], **arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {error}") from error
    return made


def _require_no_optimizer(outer: OuterConfig, optimizer: OptimizerConfig) -> None:
    """Raise an error for settings of a step that is not taken: the line search of ``trpo`` finds its own."""
    default = OuterConfig(steps=1)
    changed = {
        "optimizer": None if optimizer == _checked_optimizer(default.optimizer, outer.lr) else optimizer.name,
        "schedule": None if schedule_of(outer.schedule) == Constant() else outer.schedule.name,
        "clip_value": outer.clip_value,
        "clip_norm": outer.clip_norm,
    }
    for key, value in changed.items():
        if value is not None:
            raise ConfigError(
                f"outer.{key}: expected none with outer.step=trpo, which finds its step by line search, received "
                f"{value}; leave it out"
            )

"""From a module of the caller's own, a loss and settings to the parts that :mod:`meta` computes with."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from glob import escape
from inspect import signature
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from meta.algorithms import MAML
from meta.inner import EXCEPT, Derivative, Inner, InnerRule, require_matches
from meta.models import TorchModel
from meta.objectives import OBJECTIVES, Objective
from meta.params import Params

Loss = str | Objective | Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class InnerSettings:
    """The inner loop of a call, but for α, which is an input of programs.

    Attributes:
        steps: inner steps.
        rule: name or object of the inner rule.
        derivative: name or object of how the outer gradient goes through the steps.
        adapt: patterns of the names of the parameters that move.
    """

    steps: int
    rule: str | InnerRule
    derivative: str | Derivative
    adapt: tuple[str, ...]


class ModuleModel(TorchModel):
    """An instance of a module as a model: while a meta-loss is computed, each layer is in the mode the caller set."""

    def module(self, params: Params, *, training: bool) -> nn.Module:
        """This thread's copy of the module; see :meth:`meta.models.TorchModel.module`.

        Args:
            params: their first tensor gives dtype and device.
            training: whether layers are in the caller's modes, or all in evaluation mode.
        """
        module = super().module(params, training=training)
        if training:
            for layer, own in zip(module.modules(), self._module.modules(), strict=True):
                layer.training = own.training
        return module


def model_of(module: nn.Module) -> ModuleModel:
    """The module as a pure function; its structure and buffers are copied, its parameters are not.

    Args:
        module: an instance.

    Raises:
        ValueError: if meta-learning would get the module wrong, or it cannot be copied.
    """
    shared: dict[int, Any] = {id(value): value for value in module.parameters()}
    try:
        skeleton = copy.deepcopy(module, shared)  # so that what is kept for a module does not keep it alive
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"module: expected a module that can be copied, received {type(module).__name__}: {error}; remove what "
            "forward has stored in attributes"
        ) from error
    return ModuleModel(lambda: skeleton)


def theta_of(module: nn.Module) -> Params:
    """The module's present parameters by name, detached and not copied.

    Args:
        module: an instance.

    Raises:
        ValueError: if it is none, or its parameters differ in dtype or device.
    """
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise ValueError(
            f"module: expected an instance of torch.nn.Module, received the class {module.__name__}; construct it first"
        )
    if not isinstance(module, nn.Module):
        raise ValueError(f"module: expected an instance of torch.nn.Module, received {type(module).__name__}")
    params = {name: value.detach() for name, value in module.named_parameters()}
    kinds = {f"{value.dtype} on {value.device}" for value in params.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"module: expected parameters of one dtype on one device, received {', '.join(sorted(kinds))}; convert "
            "the whole module with module.to(...)"
        )
    return params


def algorithm_of(model: TorchModel, params: Params, objective: Objective, settings: InnerSettings) -> MAML:
    """MAML over a module.

    Args:
        model: the module.
        params: its parameters.
        objective: loss and score.
        settings: of the inner loop.

    Raises:
        ValueError: if settings and parameters do not fit together.
    """
    frozen = tuple(EXCEPT + escape(name) for name in sorted(model.frozen))
    inner = Inner(
        steps=settings.steps,
        rule=cast(InnerRule, _named("inner.rule.name", settings.rule)),
        derivative=cast(Derivative, _named("inner.derivative.name", settings.derivative)),
        adapt=(*settings.adapt, *frozen),
    )
    require_matches(params, inner.adapt)
    if learned := sorted(inner.init(params).keys() - params.keys()):
        raise ValueError(
            f"rule: expected one without numbers of its own to learn, received {type(inner.rule).__name__}, which "
            f"learns {len(learned)} beside the module's parameters; metaray.train learns them (inner.rule)"
        )
    return MAML(model=model, objective=objective, inner=inner)


def _named(key: str, value: Any) -> Any:
    """The object itself, or one of the class that a name stands for, its arguments at their defaults."""
    if not isinstance(value, str):
        return value
    from cluster.config.components import resolve  # pydantic is loaded where a name has to be looked up

    cls = resolve(key, value)
    missing = [name for name, part in signature(cls).parameters.items() if part.default is part.empty]
    if missing:
        raise ValueError(
            f"expected an object where a name has no defaults, received '{value}'; pass "
            f"{cls.__module__.rpartition('.')[0]}.{cls.__name__}({', '.join(f'{name}=…' for name in missing)})"
        )
    return cls()


def objective_of(loss: Loss) -> Objective:
    """Loss and score: those of a name, or a function as both.

    Args:
        loss: a name, an object of :mod:`meta.objectives`, or (outputs [B, ...], targets [B, ...]) -> scalar.

    Raises:
        ValueError: if there is no such name, or it is no function.
    """
    if isinstance(loss, str):
        if loss not in OBJECTIVES:
            raise ValueError(f"loss: expected one of {', '.join(OBJECTIVES)} or a function, received '{loss}'")
        return OBJECTIVES[loss]
    if isinstance(loss, Objective):
        return loss
    if not callable(loss) or isinstance(loss, type):
        what = f"the class {loss.__name__}" if isinstance(loss, type) else type(loss).__name__
        raise ValueError(f"loss: expected a name or a function (outputs, targets) -> scalar, received {what}")
    return _Function(loss)


@dataclass(frozen=True)
class _Function(Objective):
    """A user's function as loss and score."""

    name: ClassVar[str] = "loss"
    metric: ClassVar[str] = "loss"
    function: Callable[[Tensor, Tensor], Tensor]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the function's value, a scalar.

        Raises:
            ValueError: if it is none.
        """
        value = self.function(outputs, targets)
        if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
            received = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"loss: expected a scalar tensor, the mean over a task's examples, received {received} for outputs "
                f"{tuple(outputs.shape)} and targets {tuple(targets.shape)}"
            )
        return value


def require_numbers(steps: int, lr: float) -> None:
    """Check the number of inner steps and α.

    Args:
        steps: expected to be 0 or more.
        lr: α, expected to be finite and at least 0.

    Raises:
        ValueError: naming the one that is out of range.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps: expected a number of inner steps, 0 or more, received {steps!r}")
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 <= lr < float("inf"):
        raise ValueError(f"lr: expected a finite step size of at least 0, received {lr!r}")


def is_finite(values: list[Tensor]) -> bool:
    """Tells whether no element of any tensor is NaN or infinite.

    Args:
        values: floating-point tensors on one device, at least one.
    """
    return bool(torch.isfinite(torch.nn.utils.get_total_norm(values)))

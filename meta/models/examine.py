"""Examination of a user's model before training; refuses what meta-learning would compute wrongly without an error.

Recorded programs and workers on other machines take a model for a pure function of parameters and inputs. State that
survives a call would become a constant of the program, or differ between workers; random numbers from torch's global
generator would differ from run to run.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from meta.inputs import Inputs, each, names_of, parts
from meta.models.base import Model
from meta.models.keyed import Keyed
from meta.models.module import TorchModel
from meta.params import Params

CALLS = 3
# What torch itself keeps in a module.
OWN = frozenset(vars(nn.Module())) | {"_flat_weights", "_flat_weight_refs"}


def examine(model: Model, params: Params, inputs: Inputs) -> bool:
    """Checks in training and evaluation mode that a model is a pure function of parameters and inputs.

    The model is computed on ``inputs``, then on other inputs with other parameters, then as at first; the first and the
    last outputs are compared.

    Args:
        model: the model to check.
        params: parameters of it.
        inputs: example inputs, [B, ...], or several by name.

    Returns:
        Whether random layers draw numbers in training.

    Raises:
        ValueError: naming the layer and the fault: it draws random numbers in evaluation, or in training by a function
            that has no keyed form; changes a buffer or a counter; gives other outputs for the same inputs. Or saying
            which inputs it does not take.
    """
    if isinstance(model, TorchModel):
        model.require_takes(inputs)
        model.require_repeatable()
    _examine(model, params, inputs, training=False)
    return _examine(model, params, inputs, training=True) > 0


def _examine(model: Model, params: Params, inputs: Inputs, *, training: bool) -> int:
    """Returns how many random numbers one call draws."""
    layers = _layers(model, params, training=training)
    first: Tensor | None = None
    before: dict[str, Any] = {}
    drawn = 0
    with torch.no_grad(), _named(layers) as inside:
        for call in range(CALLS):
            keyed = Keyed() if training else None
            moved = call == 1
            with keyed or nullcontext(), _Seeded(inside, training=training):
                outputs = (
                    _outputs(model, _moved(params), each(_elsewhere, inputs))
                    if moved
                    else _outputs(model, params, inputs)
                )
            after = {name: value for path, layer in layers.items() for name, value in _state(path, layer)}
            if call:  # the first call may set up a cache
                _require_unchanged(before, after)
            if first is not None and not moved and not _equal(first, outputs):
                raise ValueError(
                    "expected a model that is a function of its parameters and inputs, received other outputs for the "
                    f"same inputs at a later call; it keeps state outside its buffers{_suspects(before, after)}, or "
                    "draws random numbers outside torch"
                )
            first = outputs if first is None else first
            before, drawn = after, keyed.position if keyed else 0
    return drawn


def _outputs(model: Model, params: Params, inputs: Inputs) -> Tensor:
    """The model's outputs; an error of torch about inputs by name says which types and shapes they have.

    Raises:
        ValueError: if the model cannot compute inputs of these types and shapes.
    """
    try:
        return model.apply(params, inputs)
    except (RuntimeError, TypeError, IndexError) as error:
        names = names_of(inputs)
        if not names:
            raise
        kinds = [f"{name} {list(one.shape)} {one.dtype}" for name, one in zip(names, parts(inputs), strict=True)]
        raise ValueError(
            f"expected inputs that the model computes with, received {', '.join(kinds)}: {type(error).__name__}: "
            f"{error}; see dtype and shape in the family's spec.inputs"
        ) from error


def _moved(tensors: Params) -> Params:
    """Returns parameters of the same shapes with other values."""
    return {name: _elsewhere(value) for name, value in tensors.items()}


def _elsewhere(tensor: Tensor) -> Tensor:
    """Returns a tensor of the same shape with other values; integers stay as they are."""
    return tensor * 1.1 + 0.05 if tensor.is_floating_point() else tensor


def _layers(model: Model, params: Params, *, training: bool) -> dict[str, Any]:
    """The objects of a model that could keep state, by path."""
    if isinstance(model, TorchModel):
        return dict(model.module(params, training=training).named_modules())
    layers: dict[str, Any] = {"": model}
    for name, value in getattr(model, "__dict__", {}).items():
        if isinstance(value, nn.Module):
            layers |= {f"{name}.{path}".rstrip("."): layer for path, layer in value.named_modules()}
    return layers


def _state(path: str, layer: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a layer's buffers and of its own attributes that are numbers, texts or tensors, by name."""
    prefix = f"{path}." if path else ""
    for name, buffer in getattr(layer, "_buffers", {}).items():
        if buffer is not None:
            yield f"buffer {prefix}{name}", buffer.detach().clone()
    for name, value in getattr(layer, "__dict__", {}).items():
        if name in OWN:
            continue
        if isinstance(value, Tensor):
            yield f"tensor {prefix}{name}", value.detach().clone()
        elif isinstance(value, int | float | complex | str | bool) or _is_plain(value):
            yield f"attribute {prefix}{name}", repr(value)


def _is_plain(value: Any) -> bool:
    return isinstance(value, list | tuple | dict | set) and len(repr(value)) < 10_000 and "tensor(" not in repr(value)


def _require_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in before.keys() | after.keys():
        kind = name.partition(" ")[0]
        if kind != "tensor" and not _equal(before.get(name), after.get(name)):
            raise ValueError(
                f"expected a model without state, received one whose {kind} '{name.partition(' ')[2]}' changes while "
                "it computes: a recorded program would hold its first value, and each worker one of its own. Compute "
                "it from the inputs, make it a parameter, or switch its updates off (for batch norm: "
                "track_running_stats=False)"
            )


def _suspects(before: dict[str, Any], after: dict[str, Any]) -> str:
    changed = [name.partition(" ")[2] for name in after if not _equal(before.get(name), after[name])]
    return f" ({', '.join(changed)})" if changed else ""


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    return type(one) is type(other) and not isinstance(one, Tensor) and bool(one == other)


@contextmanager
def _named(layers: dict[str, Any]) -> Iterator[list[str]]:
    """The paths of the modules whose ``forward`` is running, the innermost last."""
    inside: list[str] = []
    handles = []
    names = {id(layer): f"'{path}', a {type(layer).__name__}" for path, layer in layers.items() if path}

    def enter(layer: nn.Module, _: Any) -> None:
        inside.append(names.get(id(layer), type(layer).__name__))

    def leave(*_: Any) -> None:
        inside.pop()

    for layer in layers.values():
        if isinstance(layer, nn.Module):
            handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


class _Seeded(TorchDispatchMode):
    """Refuses operations that draw from torch's generators."""

    def __init__(self, inside: list[str], *, training: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inside, self._training = inside, training

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if torch.Tag.nondeterministic_seeded in func.tags:
            layer = self._inside[-1] if self._inside else "the model"
            name = func.name().partition("::")[2].partition(".")[0]
            if self._training:
                raise ValueError(
                    f"expected random numbers that can be keyed by the task (dropout, torch.rand, randn, bernoulli, "
                    f"normal, …, without a generator of their own), received torch's '{name}' in {layer}"
                )
            raise ValueError(
                f"expected a model that draws no random numbers in evaluation, received torch's '{name}' in {layer}; "
                "draw only where self.training is true"
            )
        return func(*args, **(kwargs or {}))

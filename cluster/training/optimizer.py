"""The outer optimizer: a class of torch's kind over θ, its groups of parameters, and its state as named tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cluster.config.outer import group_of, optimizer_arguments, optimizer_class
from cluster.config.outer_sections import OuterConfig
from cluster.errors import CheckpointError, ConfigError
from meta.params import Layout

# Their formulas treat each element by itself, so that θ may be one vector to them, which is faster than many tensors.
ELEMENTWISE = frozenset(
    {
        torch.optim.Adadelta,
        torch.optim.Adagrad,
        torch.optim.Adam,
        torch.optim.Adamax,
        torch.optim.AdamW,
        torch.optim.ASGD,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.SGD,
    }
)
FUSED = frozenset({torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD})
REST = "*"  # name of the group of the parameters that are in no other
NUMBER = "#"  # at the end of the name of a tensor that was a number
WHOLE = ""  # name of θ as one vector


class OuterOptimizer:
    """An optimizer of torch's kind that changes θ [P] in place.

    It sees θ as one vector if its formula treats each element by itself and there are no groups, and one tensor for
    each trained parameter otherwise: views of the vector, in the parameters' shapes.
    """

    def __init__(self, config: OuterConfig, layout: Layout, theta: Tensor, frozen: Sequence[str] = ()) -> None:
        """Make the optimizer of a configuration.

        Args:
            config: ``outer``.
            layout: the parameters' places in θ.
            theta: θ [P], changed in place by :meth:`step`.
            frozen: names of parameters that are not trained. Where θ is one vector they may be changed all the same.

        Raises:
            ConfigError: if the class does not take such parameters, or a group's patterns do not fit their names.
        """
        settings = config.optimizer
        cls, arguments = optimizer_class(settings.name), optimizer_arguments(settings)
        self.gradient = torch.zeros_like(theta)
        self._parts = {WHOLE: theta.detach()} if cls in ELEMENTWISE and not settings.groups else {}
        gradients = {WHOLE: self.gradient}
        if not self._parts:
            gradients = layout.unflatten(self.gradient)
            self._parts = {n: part for n, part in layout.unflatten(theta.detach()).items() if n not in frozen}
        for name, part in self._parts.items():
            part.requires_grad_().grad = gradients[name]
        self._places = {name: part.data_ptr() for name, part in self._parts.items()}
        members = group_of(settings, list(self._parts)) if settings.groups else {}
        groups: dict[str, dict[str, Any]] = {}
        for name in sorted({members.get(name, REST) for name in self._parts}):
            parts = [part for part_name, part in self._parts.items() if members.get(part_name, REST) == name]
            own = {} if name == REST else {**settings.groups[name].params, "lr": settings.groups[name].lr or config.lr}
            groups[name] = {"params": parts, "lr": config.lr, **own}
        fused: dict[str, Any] = {"fused": True} if cls in FUSED else {}
        self._name = settings.name
        try:
            self._optimizer: Optimizer = cls(list(groups.values()), lr=config.lr, **arguments, **fused)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"outer.optimizer: {error}") from error
        self._groups = dict(zip(groups, self._optimizer.param_groups, strict=True))
        self._made = {name: dict(group) for name, group in self._groups.items()}

    def step(self, share: float) -> None:
        """Take a step along :attr:`gradient`.

        Args:
            share: of every group's step size.

        Raises:
            ConfigError: if the class does not change parameters in place.
        """
        for name, group in self._groups.items():
            group["lr"] = self._made[name]["lr"] * share
        self._optimizer.step()
        if any(self._parts[name].data_ptr() != place for name, place in self._places.items()):
            raise ConfigError(
                f"outer.optimizer.name: expected a class that changes parameters in place, {self._name} puts other "
                "tensors in theirs; write p.add_(…) under torch.no_grad() instead of p.data = …"
            )

    def state(self) -> dict[str, Tensor]:
        """Copies of the state as tensors: ``PARAMETER.KEY``, or ``KEY`` where θ is one vector, and ``GROUP/KEY``.

        Numbers become tensors whose names end with ``#``. Of a group it is what the class itself has changed.

        Raises:
            ConfigError: if the class keeps what is neither a tensor nor a number.
        """
        state: dict[str, Tensor] = {}
        for name, part in self._parts.items():
            prefix = f"{name}." if name else ""
            for key, value in self._optimizer.state.get(part, {}).items():
                state |= self._tensor(f"{prefix}{key}", value)
        for name, group in self._groups.items():
            made = self._made[name]
            for key, value in group.items():
                if key not in ("params", "lr") and not _same(value, made.get(key)):
                    state |= self._tensor(f"{name}/{key}", value)
        return state

    def _tensor(self, key: str, value: Any) -> dict[str, Tensor]:
        """A value of the state by its name; nothing for None, which torch's own classes take for absent."""
        if value is None:
            return {}
        if isinstance(value, Tensor):
            return {key: value.detach().clone()}
        if isinstance(value, bool | int | float):
            return {f"{key}{NUMBER}": torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)}
        raise ConfigError(
            f"outer.optimizer.name: expected a class whose state is tensors and numbers, {self._name} keeps "
            f"{type(value).__name__} under '{key}', which a checkpoint cannot hold"
        )

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from what :meth:`state` gave.

        Args:
            state: tensors by the same names; copied.

        Raises:
            CheckpointError: if a name is of no parameter or group of this optimizer.
        """
        self._optimizer.state.clear()  # of steps after those that the state is of
        for full, tensor in sorted(state.items()):
            value = tensor.item() if full.endswith(NUMBER) else tensor.clone()
            path = full.removesuffix(NUMBER)
            group, slash, key = path.rpartition("/")
            name, _, state_key = path.rpartition(".")
            if slash and group in self._groups:
                self._groups[group][key] = value
            elif name in self._parts:
                self._optimizer.state[self._parts[name]][state_key] = value
            else:
                raise CheckpointError(
                    f"expected the state of {self._name} over {', '.join(filter(None, self._parts)) or 'one vector'}, "
                    f"received '{full}'; resume with the optimizer that wrote it"
                )


def _same(value: Any, made: Any) -> bool:
    """Whether a setting of a group is the one that it was made with; a tensor may have been changed in place."""
    return type(value) is type(made) and not isinstance(value, Tensor) and bool(value == made)

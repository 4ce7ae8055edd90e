"""Any ``torch.nn.Module`` as a model."""

import copy
import threading
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from meta.models.elementary import Elementary
from meta.models.keyed import current
from meta.params import Params


class TorchModel:
    """A ``torch.nn.Module`` as a pure function of its parameters.

    Buffers stay as the constructor left them, which runs under ``seed``. A layer that updates buffers while it
    computes, such as a batch norm with running statistics, has no place inside a differentiated inner loop and is
    refused. One without them normalises query examples by their own statistics: ``batch_norm`` is then
    ``transductive``. Recurrent layers and attention are computed in elementary operations
    (:mod:`meta.models.elementary`). The module is in training mode while a meta-loss is computed, where random layers
    draw from the task's noise (:mod:`meta.models.keyed`), and in evaluation mode everywhere else.

    Attributes:
        batch_norm: whose statistics normalise query examples; None: there is no such layer.
        frozen: names of the parameters that the constructor left with ``requires_grad=False``. They belong to θ, and
            neither loop moves them.

    >>> model = TorchModel(lambda: nn.Linear(1, 1))
    >>> params = model.init(torch.Generator().manual_seed(0), torch.float32)
    >>> tuple(model.apply(params, torch.zeros(4, 1)).shape)
    (4, 1)
    """

    def __init__(self, make: Callable[[], nn.Module], seed: int = 0) -> None:
        """Wraps the module that ``make`` constructs.

        Args:
            make: constructs the module, drawing from torch's generator alone.
            seed: seed of torch's generator while ``make`` constructs the module's buffers.

        Raises:
            ValueError: if a layer keeps running statistics, or the module has no parameters, lazy or complex ones, or
                none that require a gradient.
        """
        self._make, self._seed = make, seed
        self._module = _constructed(make, seed)
        self._copies = threading.local()  # of this thread: functional_call puts parameters into the module for a while
        for name, layer in self._module.named_modules():
            if getattr(layer, "track_running_stats", False):
                raise ValueError(
                    f"expected layers without running statistics, received {type(layer).__name__} at "
                    f"'{name}'; construct it with track_running_stats=False"
                )
        norms = [layer for layer in self._module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        self.batch_norm: Literal["transductive"] | None = "transductive" if norms else None
        parameters = dict(self._module.named_parameters())
        _require_reals(type(self._module).__name__, parameters)
        self.frozen = frozenset(name for name, value in parameters.items() if not value.requires_grad)
        if self.frozen == parameters.keys():
            raise ValueError(
                f"expected a module with parameters to train, received {type(self._module).__name__}, whose "
                f"{len(parameters)} parameters all have requires_grad=False"
            )

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the parameters of a newly constructed module.

        Module constructors draw from torch's global generator; it is set from ``generator`` inside a fork and
        restored afterwards.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        module = _constructed(self._make, int(torch.randint(2**62, (), generator=generator)))
        return {name: value.detach().to(dtype).clone() for name, value in module.named_parameters()}

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns the module's outputs [B, ...] with ``params`` in place of its own parameters.

        Args:
            params: by the names of ``module.named_parameters()``.
            inputs: [B, ...], the module's only argument.

        Raises:
            ValueError: if the module returns anything but a tensor.
        """
        with Elementary():
            output = functional_call(self.module(params, training=current() is not None), params, (inputs,))
        if not isinstance(output, Tensor):
            raise ValueError(
                f"expected a module that returns a tensor, received {type(output).__name__} from "
                f"{type(self._module).__name__}; return the outputs alone"
            )
        return output

    def module(self, params: Params, *, training: bool) -> nn.Module:
        """Returns this thread's copy of the module for the dtype and device of ``params``.

        Floating-point buffers have the parameters' dtype.

        Args:
            params: their first tensor gives dtype and device.
            training: whether the module is in training mode or in evaluation mode.
        """
        example = next(iter(params.values()))
        key = (training, example.dtype, example.device)
        kept: dict[Any, nn.Module] = self._copies.__dict__.setdefault("modules", {})
        if key not in kept:
            shared = {id(value): value for value in self._module.parameters()}
            module = copy.deepcopy(self._module, shared).train(training)
            for layer in module.modules():
                for name, buffer in layer._buffers.items():
                    if buffer is not None:
                        dtype = example.dtype if buffer.is_floating_point() else buffer.dtype
                        layer._buffers[name] = buffer.to(dtype=dtype, device=example.device)
            kept[key] = module
        return kept[key]

    def require_repeatable(self) -> None:
        """Checks that the constructor draws from torch's generator alone; every worker constructs the module anew.

        Raises:
            ValueError: naming a parameter or buffer that differs between two constructions.
        """
        first, second = (dict(_constructed(self._make, self._seed).state_dict()) for _ in range(2))
        for name, value in first.items():
            if not torch.equal(value, second[name]):
                raise ValueError(
                    f"expected a constructor that gives the same module under the same torch.manual_seed, received "
                    f"another '{name}' of {type(self._module).__name__} the second time; draw from torch's generator, "
                    "not from numpy's or random's"
                )


def _constructed(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _require_reals(name: str, parameters: dict[str, nn.Parameter]) -> None:
    if not parameters:
        raise ValueError(f"expected a module with parameters, received {name}")
    for parameter, value in parameters.items():
        if is_lazy(value):
            raise ValueError(
                f"expected parameters of known shapes, received '{parameter}' of a lazy layer in {name}; give the "
                "layer its sizes"
            )
        if not value.is_floating_point():
            raise ValueError(
                f"expected parameters of real numbers, received '{parameter}' of {value.dtype} in {name}; keep complex "
                "numbers as two real parameters (torch.view_as_complex), whole numbers as a buffer"
            )

"""Any ``torch.nn.Module`` as a model."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from meta.params import Params


class TorchModel:
    """A ``torch.nn.Module`` as a pure function of its parameters.

    Buffers stay as the constructor left them. A layer that updates buffers while it computes, such as a batch
    norm with running statistics, has no place inside a differentiated inner loop and is refused. One without them
    normalises query examples by their own statistics: ``batch_norm`` is then ``transductive``.

    >>> model = TorchModel(lambda: nn.Linear(1, 1))
    >>> params = model.init(torch.Generator().manual_seed(0), torch.float32)
    >>> tuple(model.apply(params, torch.zeros(4, 1)).shape)
    (4, 1)
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        """Wrap the module that ``make`` constructs.

        Raises:
            ValueError: if a layer keeps running statistics, or the module has no parameters.
        """
        self._make = make
        with torch.random.fork_rng(devices=[]):
            self._module = make()
        for name, layer in self._module.named_modules():
            if getattr(layer, "track_running_stats", False):
                raise ValueError(
                    f"expected layers without running statistics, received {type(layer).__name__} at "
                    f"'{name}'; construct it with track_running_stats=False"
                )
        norms = [layer for layer in self._module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        self.batch_norm: Literal["transductive"] | None = "transductive" if norms else None
        if not dict(self._module.named_parameters()):
            raise ValueError(f"expected a module with parameters, received {type(self._module).__name__}")

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Parameters of a newly constructed module.

        Module constructors draw from torch's global generator; it is set from ``generator`` inside a fork and
        left as it was.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self._make()
        return {name: value.detach().to(dtype).clone() for name, value in module.named_parameters()}

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """The module's outputs for ``inputs`` [B, ...] with ``params`` in place of its own."""
        output: Tensor = functional_call(self._module, params, (inputs,))
        return output

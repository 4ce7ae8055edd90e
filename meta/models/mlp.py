"""Fully connected networks."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from meta.models.norm import BatchNorm, batch_norm, with_context, without_context
from meta.params import Params

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


@dataclass(frozen=True, kw_only=True)
class MLP:
    """Linear layers with an activation between them.

    The defaults are the paper's regressor: two hidden layers of 40 units, ReLU, weights from a normal
    distribution with standard deviation 0.01 truncated at two deviations, biases zero (Finn et al. 2017, 5.1,
    and the authors' code).

    Attributes:
        inputs: shape of one input, without the example dimension.
        outputs: number of outputs.
        hidden: units of each hidden layer.
        activation: ``relu`` or ``tanh``.
        init_std: deviation of the truncated normal; ``None`` gives each layer Kaiming's sqrt(2/fan_in), ``glorot``
            sqrt(2/(fan_in + fan_out)).
        batch_norm: normalise before each activation, see :mod:`meta.models.norm`; ``None``: do not. The paper's
            classifier without convolutions is ``hidden=(256, 128, 64, 64)`` with batch norm (5.2).

    >>> model = MLP(inputs=(1,), outputs=1)
    >>> params = model.init(torch.Generator().manual_seed(0), torch.float32)
    >>> sorted(params)[:2], sum(p.numel() for p in params.values())
    (['layer0.bias', 'layer0.weight'], 1761)
    >>> tuple(model.apply(params, torch.zeros(10, 1)).shape)
    (10, 1)
    """

    inputs: tuple[int, ...]
    outputs: int
    hidden: tuple[int, ...] = (40, 40)
    activation: Literal["relu", "tanh"] = "relu"
    init_std: float | Literal["glorot"] | None = 0.01
    batch_norm: BatchNorm | None = None

    def __post_init__(self) -> None:
        """Check the sizes."""
        if any(units < 1 for units in self.hidden):
            raise ValueError(f"expected hidden layers of at least one unit, received {list(self.hidden)}")
        if isinstance(self.init_std, float | int) and not self.init_std > 0:
            raise ValueError(f"expected init_std above zero, received {self.init_std}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of every layer, including input and output."""
        return (math.prod(self.inputs), *self.hidden, self.outputs)

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns ``layer<i>.weight`` [out, in], ``layer<i>.bias`` [out], and ``layer<i>.offset`` before a batch norm.

        Before a batch norm a bias would have no effect; the norm's offset takes its place.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        last = len(self.hidden)
        params: Params = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            std = self._deviation(fan_in, fan_out)
            # Drawn in float64, then rounded: float32 and float64 runs start from the same point.
            weight = torch.empty(fan_out, fan_in, dtype=torch.float64)
            torch.nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
            params[f"layer{layer}.weight"] = weight.to(dtype)
            kind = "bias" if self.batch_norm is None or layer == last else "offset"
            params[f"layer{layer}.{kind}"] = torch.zeros(fan_out, dtype=dtype)
        return params

    def _deviation(self, fan_in: int, fan_out: int) -> float:
        """Returns the standard deviation of a layer's initial weights."""
        if self.init_std == "glorot":
            return math.sqrt(2.0 / (fan_in + fan_out))
        return math.sqrt(2.0 / fan_in) if self.init_std is None else float(self.init_std)

    def apply(self, params: Params, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns outputs [B, outputs].

        Args:
            params: the parameters that :meth:`init` names.
            inputs: [B, *inputs].
            context: examples [S, *inputs] whose statistics normalise; None: those of ``inputs``.
        """
        activation = ACTIVATIONS[self.activation]
        hidden, examples = with_context(inputs, context)
        hidden = hidden.flatten(start_dim=1)
        last = len(self.hidden)
        for layer in range(last + 1):
            hidden = F.linear(hidden, params[f"layer{layer}.weight"], params.get(f"layer{layer}.bias"))
            if layer < last:
                if self.batch_norm is not None:
                    hidden = batch_norm(hidden, params[f"layer{layer}.offset"], examples)
                hidden = activation(hidden)
        return without_context(hidden, examples)

"""Batch normalisation without state, differentiable as often as one likes.

The statistics are always those of the examples at hand; nothing is kept between calls, so an inner loop can be
unrolled and differentiated through it. Two modes differ in whose statistics normalise the query examples:

``transductive``
    Those of the query batch itself, in training and in evaluation, as in the code of Finn et al. (2017).
    Predictions for one query example then depend on the others; compare such numbers with such numbers only.
``inductive``
    Those of the task's support examples («MetaBN» of Bronskill et al. 2020), so that every query example is
    predicted on its own.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

from meta.params import Params

BatchNorm = Literal["transductive", "inductive"]
# That of the authors' layer (tf.contrib.layers.batch_norm). The second derivative grows with 1/ε where a channel is
# constant over a small support set.
EPSILON = 1e-3


class NormalisedModel(Protocol):
    """A model with batch normalisation, which can be told to take the statistics of other examples."""

    @property
    def batch_norm(self) -> BatchNorm | None:
        """Whose statistics normalise query examples; None: there is no such layer."""
        ...

    def apply(self, params: Params, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Outputs [B, ...] for inputs [B, ...], normalised by the statistics of ``context`` [S, ...] if given."""
        ...


def batch_norm(hidden: Tensor, offset: Tensor, examples: int | None = None) -> Tensor:
    """(h - mean) / sqrt(var + ε) + offset, channel by channel; without a learned scale, as in the authors' code.

    Written out in elementary operations: their derivatives of every order are exact under ``torch.func.vmap``, and
    cheaper than those of ``torch.nn.functional.batch_norm``, whose second derivative is a formula of its own.

    Args:
        hidden: [B, C] or [B, C, H, W].
        offset: β, [C].
        examples: take mean and (biased) variance over the first so many examples; None: over all.
    """
    over = (0, *range(2, hidden.dim()))
    shape = (1, -1, *(1 for _ in over[1:]))
    centred = hidden - hidden[:examples].mean(over, keepdim=True)
    variance = centred[:examples].square().mean(over, keepdim=True)
    return centred * torch.rsqrt(variance + EPSILON) + offset.view(shape)


def with_context(inputs: Tensor, context: Tensor | None) -> tuple[Tensor, int | None]:
    """Context and inputs as one batch, and how many examples of it give the statistics."""
    return (inputs, None) if context is None else (torch.cat([context, inputs]), len(context))


def without_context(outputs: Tensor, examples: int | None) -> Tensor:
    """The outputs of the inputs alone; the inverse of :func:`with_context`."""
    return outputs if examples is None else outputs[examples:]

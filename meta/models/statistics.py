"""Batch normalisation of any module by statistics that a mode chooses, without a change to module or buffers.

torch's batch norm updates running statistics in place while it trains, and uses them in evaluation. Inside a
differentiated inner loop neither has a place: :class:`Normalising` computes the layers' calls anew, by one of the modes
of :mod:`meta.models.norm`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta.models.norm import BatchNormMode
from meta.models.replace import Replacing

RUNNING = ("running_mean", "running_var")
NORM_BUFFERS = (*RUNNING, "num_batches_tracked")


class Normalising(Replacing):
    """Computes ``torch.nn.functional.batch_norm`` by other statistics while the block runs.

    Args:
        mode: whose statistics normalise.
        support: of a batch of support and query examples the number of support examples, which lead; None: the
            examples at hand give the statistics, whatever the mode.
        examples: number of examples in the batch.
    """

    def __init__(self, mode: BatchNormMode, support: int | None, examples: int) -> None:
        super().__init__()
        self._norm = partial(_frozen) if mode == "frozen" else partial(_by_batch, support, examples)

    def replacement(self, function: Any) -> Callable[..., Any] | None:
        """Returns the batch norm of the mode for torch's; None for other functions."""
        return self._norm if function is F.batch_norm else None


def _by_batch(
    support: int | None,
    examples: int,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm by the statistics of the leading ``support`` examples, or of all."""
    del running_mean, running_var, training, momentum
    if support is None:
        return F.batch_norm(input, None, None, weight, bias, training=True, eps=eps)
    if len(input) != examples:
        raise ValueError(
            f"batch_norm: inductive expects layers of batch normalisation that are given one row for each of the "
            f"{examples} support and query examples, received {len(input)} rows; take transductive or frozen"
        )
    over = (0, *range(2, input.dim()))
    centred = input - input[:support].mean(over, keepdim=True)
    normal = centred * torch.rsqrt(centred[:support].square().mean(over, keepdim=True) + eps)
    shape = _by_channel(input)
    normal = normal if weight is None else normal * weight.view(shape)
    return normal if bias is None else normal + bias.view(shape)


def _frozen(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm by running statistics: one product and one sum for each element, the rest is by channel."""
    del training, momentum
    if running_mean is None or running_var is None:
        raise ValueError("batch_norm: frozen expects running statistics, received a call of batch_norm without them")
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    offset = -running_mean * scale
    offset = offset if bias is None else offset + bias
    shape = _by_channel(input)
    return input * scale.view(shape) + offset.view(shape)


def _by_channel(input: Tensor) -> tuple[int, ...]:
    return (1, -1, *(1 for _ in range(2, input.dim())))


def norm_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Returns the module's layers of batch normalisation, by path."""
    kind = nn.modules.batchnorm._BatchNorm
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kind)}


def require_mode(module: nn.Module, mode: BatchNormMode | None) -> BatchNormMode | None:
    """Checks that a mode suits a module's normalisation layers.

    Args:
        module: the module.
        mode: the mode asked for.

    Returns:
        The mode in force: ``transductive`` without one, if there are layers of batch normalisation; else None.

    Raises:
        ValueError: naming the layer, and the modes that there are.
    """
    norms = norm_layers(module)
    for name, layer in module.named_modules():
        if getattr(layer, "track_running_stats", False) and name not in norms:
            raise ValueError(
                f"expected layers without running statistics, besides batch norms, received {type(layer).__name__} at "
                f"'{name}'; construct it with track_running_stats=False"
            )
    running = {name: has_running(layer) for name, layer in norms.items()}
    if mode is not None and not norms:
        raise ValueError(
            f"batch_norm: expected none for {type(module).__name__}, which has no layer of batch normalisation, "
            f"received {mode}; leave it out"
        )
    for name, has in running.items():
        where = f"{type(norms[name]).__name__} at '{name}'"
        if has and mode is None:
            raise ValueError(
                "expected batch_norm (model.batch_norm in a configuration) for a layer with running statistics, "
                f"received {where} without it; set it to transductive (statistics of the batch at hand), inductive (of "
                "the support examples) or frozen (the running statistics as constants), or construct the layer with "
                "track_running_stats=False"
            )
        if mode == "frozen" and not has:
            raise ValueError(
                f"batch_norm: frozen expects layers with running statistics, received {where}, which has none; take "
                "transductive or inductive"
            )
    return mode or ("transductive" if norms else None)


def has_running(layer: nn.Module) -> bool:
    """Returns whether a layer has running statistics."""
    return all(getattr(layer, name, None) is not None for name in RUNNING)

"""Recurrent layers and attention in elementary operations, which vectorise over tasks and differentiate twice.

torch computes these layers by fused kernels. Those of LSTM, GRU and RNN have no rule for ``torch.func.vmap``, those of
attention no second derivative. :class:`Elementary` puts the functions below in their place, in modules of any origin.

Shape legend of this module: L time steps, B examples, F numbers per step, H numbers of a hidden state.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meta.models.replace import Replacing

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State, Tensor, Tensor | None], State]


def lstm_cell(entered: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Returns hidden state and cell [B, H] after one step of an LSTM (Hochreiter, Schmidhuber 1997, with forget gates).

    Args:
        entered: W_i x + b_i, [B, 4 H], gates in torch's order: input, forget, cell, output.
        state: hidden state and cell before the step.
        weight: W_h, [4 H, H].
        bias: b_h, [4 H].
    """
    hidden, cell = state
    into, forget, new, out = (entered + F.linear(hidden, weight, bias)).chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(cell), cell


def gru_cell(entered: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
    """Returns the hidden state [B, H] after one step of a GRU (Cho et al. 2014, in torch's form).

    Args:
        entered: W_i x + b_i, [B, 3 H], gates in torch's order: reset, update, new.
        state: the hidden state before the step.
        weight: W_h, [3 H, H].
        bias: b_h, [3 H].
    """
    (hidden,) = state
    reset_x, update_x, new_x = entered.chunk(3, dim=-1)
    reset_h, update_h, new_h = F.linear(hidden, weight, bias).chunk(3, dim=-1)
    update = torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return (new + update * (hidden - new),)


def _plain_cell(activation: Callable[[Tensor], Tensor]) -> Cell:
    def cell(entered: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
        return (activation(entered + F.linear(state[0], weight, bias)),)

    return cell


tanh_cell, relu_cell = _plain_cell(torch.tanh), _plain_cell(torch.relu)


def _run(cell: Cell, inputs: Tensor, state: State, weights: Sequence[Tensor], *, biases: bool, back: bool) -> Any:
    """Returns the outputs [L, B, H] of one direction of one layer, and its last state."""
    (into, over), rest = weights[:2], weights[2:]
    bias_in, bias_over = (rest[0], rest[1]) if biases else (None, None)
    project = rest[-1] if len(rest) % 2 else None  # an LSTM with proj_size has one weight more
    # The derivative of unbinding is one stack; that of reading one step after another, a sum of tensors of all steps.
    steps = F.linear(inputs, into, bias_in).unbind()
    outputs: list[Tensor] = []
    for entered in reversed(steps) if back else steps:
        state = cell(entered, state, over, bias_over)
        if project is not None:
            state = (F.linear(state[0], project), *state[1:])
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if back else outputs), state


def _layers(
    cell: Cell,
    inputs: Tensor,
    states: State,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, State]:
    """Computes a recurrent network with the arguments of ``torch.lstm``: outputs, and last states of all layers."""
    hidden = inputs.transpose(0, 1) if batch_first else inputs
    directions = 2 if bidirectional else 1
    each = len(weights) // (num_layers * directions)
    last: list[State] = []
    for layer in range(num_layers):
        passes = []
        for direction in range(directions):
            number = layer * directions + direction
            outputs, state = _run(
                cell,
                hidden,
                tuple(part[number] for part in states),
                weights[number * each : (number + 1) * each],
                biases=has_biases,
                back=direction == 1,
            )
            passes.append(outputs)
            last.append(state)
        hidden = passes[0] if directions == 1 else torch.cat(passes, dim=-1)
        if dropout and train and layer < num_layers - 1:
            hidden = F.dropout(hidden, dropout, training=True)
    hidden = hidden.transpose(0, 1) if batch_first else hidden
    return hidden, tuple(torch.stack(parts) for parts in zip(*last, strict=True))


def _network(cell: Cell, name: str) -> Callable[..., tuple[Tensor, ...]]:
    """``torch.lstm``, ``torch.gru``, ``torch.rnn_tanh`` or ``torch.rnn_relu`` in elementary operations."""

    def network(inputs: Tensor, states: Any, *rest: Any) -> tuple[Tensor, ...]:
        if not isinstance(rest[1], bool):  # batch sizes came second
            raise ValueError(
                f"{name}: expected padded sequences [B, L, F], received a PackedSequence, whose lengths differ from "
                "task to task; pad them and mask what is padded"
            )
        initial = tuple(states) if isinstance(states, list | tuple) else (states,)
        outputs, last = _layers(cell, inputs, initial, *rest)
        return (outputs, *last)

    return network


def _single(cell: Cell) -> Callable[..., Any]:
    """``torch.lstm_cell`` and its kin in elementary operations."""

    def single(
        inputs: Tensor,
        state: Any,
        into: Tensor,
        over: Tensor,
        bias_in: Tensor | None = None,
        bias_over: Tensor | None = None,
    ) -> Any:
        states = tuple(state) if isinstance(state, list | tuple) else (state,)
        state_parts = cell(F.linear(inputs, into, bias_in), states, over, bias_over)
        return state_parts if len(state_parts) > 1 else state_parts[0]

    return single


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Returns softmax(q kᵀ · scale + mask) v, [..., L, E_v], by torch's own formula in elementary operations.

    torch's fused kernels for processors (flash attention) have no second derivative.

    Args:
        query: [..., L, E].
        key: [..., S, E].
        value: [..., S, E_v].
        attn_mask: [..., L, S], added to the scores if real, or true where a position takes part if bool.
        dropout_p: probability of dropout on the attention weights.
        is_causal: mask positions after the query's own.
        scale: factor on q kᵀ; None: 1/sqrt(E).
        enable_gqa: repeat heads of key and value to match the query's (grouped-query attention).
    """
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    output, weights = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, 0.0, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )
    if dropout_p:
        if enable_gqa:
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)
        output = F.dropout(weights, dropout_p) @ value
    result: Tensor = output
    return result


class Elementary(Replacing):
    """Replaces torch's recurrent layers and attention by this module's functions while a model is computed."""

    table = {  # noqa: RUF012 - declared so in the base class
        F.scaled_dot_product_attention: attention,
        torch.lstm: _network(lstm_cell, "LSTM"),
        torch.gru: _network(gru_cell, "GRU"),
        torch.rnn_tanh: _network(tanh_cell, "RNN"),
        torch.rnn_relu: _network(relu_cell, "RNN"),
        torch.lstm_cell: _single(lstm_cell),
        torch.gru_cell: _single(gru_cell),
        torch.rnn_tanh_cell: _single(tanh_cell),
        torch.rnn_relu_cell: _single(relu_cell),
    }

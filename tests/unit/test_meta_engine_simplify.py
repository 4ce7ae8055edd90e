"""Simplified programs give the bits of the functions they were recorded from, whatever they do."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from meta.engine.simplify import simplify

Function = Callable[[Tensor], tuple[Tensor, ...]]
aten = torch.ops.aten


def twice(x: Tensor) -> tuple[Tensor, ...]:
    return x.sin() + x.sin(), x.t() @ x.sin()


def without_effect(x: Tensor) -> tuple[Tensor, ...]:
    return (aten.mul.Scalar(aten.pow.Tensor_Scalar(x, 1), 1).view(x.shape).expand(x.shape).t().t().cos(),)


def changed_in_place(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    part = y[0]
    before = y + 1
    part.add_(1)
    return before, y + 1


def drawn(x: Tensor) -> tuple[Tensor, ...]:
    return torch.rand_like(x), torch.rand_like(x), torch.dropout(x, 0.5, train=True)


def drawn_for_nothing(x: Tensor) -> tuple[Tensor, ...]:
    torch.rand_like(x)
    return (torch.rand_like(x),)


def signed_zeros(x: Tensor) -> tuple[Tensor, ...]:
    return x * 0.0, x * -0.0


def numbers_of_different_kinds(x: Tensor) -> tuple[Tensor, ...]:
    whole, flag = x.long(), x > 0
    return whole + 1, whole + 1.0, flag + 1, flag + True


def transposed_otherwise(x: Tensor) -> tuple[Tensor, ...]:
    cube = torch.stack([x, x + 1])
    return cube.transpose(0, 1).transpose(1, 2), cube.transpose(1, 2).transpose(1, 2)


def in_parts(x: Tensor) -> tuple[Tensor, ...]:
    return (*x.split(1), x.split(1)[2], x.view(-1), x.expand(2, *x.shape))


FUNCTIONS: tuple[Function, ...] = (
    twice, without_effect, changed_in_place, drawn, drawn_for_nothing, signed_zeros,
    numbers_of_different_kinds, transposed_otherwise, in_parts,
)  # fmt: skip


def bits(function: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor) -> list[bytes]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [part.contiguous().numpy().tobytes() for part in function(x)]


def recorded(function: Function) -> tuple[Tensor, GraphModule]:
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(devices=[]):
        return x, make_fx(function)(x)


def calls(program: GraphModule) -> list[object]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_program_gives_the_bits_of_the_function(function: Function) -> None:
    x, program = recorded(function)
    assert bits(simplify(program), x) == bits(function, x)


def test_repeated_operations_are_done_once() -> None:
    assert calls(simplify(recorded(twice)[1])).count(aten.sin.default) == 1


def test_operations_without_effect_are_left_out() -> None:
    assert calls(simplify(recorded(without_effect)[1])) == [aten.cos.default]


def test_unused_operations_are_left_out() -> None:
    assert calls(simplify(recorded(lambda x: (x.sin(), x.cos())[:1])[1])) == [aten.sin.default]


def test_remaining_operations_keep_their_order() -> None:
    _, program = recorded(lambda x: (x.sin(), x.cos(), x.sin(), x.exp()))
    assert calls(simplify(program)) == [aten.sin.default, aten.cos.default, aten.exp.default]

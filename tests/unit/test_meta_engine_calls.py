"""Recorded programs: kept by what they are recorded for, and divided without a bit of difference."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from meta.engine.calls import Calls, divide
from meta.engine.simplify import simplify

INPUTS, SIZE = 4, 3
# Every operation takes and gives matrices of one shape, so that any program of them is one.
OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.add,
    torch.mul,
    torch.mm,
    lambda a, b: a.t() @ b,
    lambda a, b: torch.tanh(a),
    lambda a, b: a - b.sum(dim=0),
    lambda a, b: torch.zeros_like(a) + torch.ones(SIZE, dtype=b.dtype),
    lambda a, b: a.expand(2, SIZE, SIZE)[1],
)

Instruction = tuple[int, int, int]


@st.composite
def programs(draw: Any) -> tuple[list[Instruction], list[int]]:
    """Instructions (operation, operand, operand), and the numbers of the values that are put out."""
    code: list[Instruction] = []
    for number in range(draw(st.integers(0, 12))):
        there = st.integers(0, INPUTS + number - 1)
        code.append((draw(st.integers(0, len(OPERATIONS) - 1)), draw(there), draw(there)))
    outputs = draw(st.lists(st.integers(0, INPUTS + len(code) - 1), min_size=1, max_size=3))
    return code, outputs


class Counted(TorchDispatchMode):
    """Counts operations as they are executed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.name()] += 1
        return func(*args, **(kwargs or {}))


def matrices(count: int, seed: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape or (SIZE, SIZE), dtype=torch.float64, generator=generator) for _ in range(count)]


def bits(tensors: list[Tensor]) -> list[bytes]:
    return [tensor.contiguous().numpy().tobytes() for tensor in tensors]


@settings(max_examples=30)
@given(programs(), st.sets(st.integers(0, INPUTS - 1)))
def test_a_divided_program_is_the_whole_bit_by_bit(program: tuple[list[Instruction], list[int]], chosen: set) -> None:
    code, outputs = program
    order = [*sorted(chosen), *(number for number in range(INPUTS) if number not in chosen)]

    def function(*given: Tensor) -> list[Tensor]:
        values = [given[order.index(number)] for number in range(INPUTS)]
        for operation, left, right in code:
            values.append(OPERATIONS[operation](values[left], values[right]))
        return [values[number] for number in outputs]

    recorded = simplify(make_fx(function)(*matrices(INPUTS, 0)))
    operations = sum(node.op == "call_function" for node in recorded.graph.nodes)
    first, rest = divide(recorded, len(chosen))
    fixed = matrices(len(chosen), 1)
    kept = first(*fixed)
    for seed in (2, 3):  # what was kept serves more than once
        varying = matrices(INPUTS - len(chosen), seed)
        assert bits(rest(*kept, *varying)) == bits(function(*fixed, *varying))

    halves = [half.__self__.graph for half in (first, rest)]
    calls = [[node for node in half.nodes if node.op == "call_function"] for half in halves]
    assert len(calls[0]) + len(calls[1]) == operations, "each operation belongs to one of the two"
    places = [node for node in halves[1].nodes if node.op == "placeholder"]
    assert len(places) == len(kept) + INPUTS - len(chosen)
    depending = set(places[len(kept) :])
    for node in calls[1]:
        assert depending & set(node.all_input_nodes), "the rest does again what does not vary"
        depending.add(node)
    assert all(node.users for node in places[: len(kept)]), "something is kept for nothing"


def quadratic(fixed: dict[str, Tensor], varying: Tensor) -> dict[str, Tensor]:
    return {"value": fixed["a"] @ fixed["b"] @ varying, "fixed": fixed["b"].tanh(), "given": varying}


def test_products_of_what_is_fixed_are_taken_once() -> None:
    a, b, first, second = matrices(4, 0)
    calls = Calls()
    with Counted() as counted:
        prepared = calls.prepare("quadratic", quadratic, {"a": a, "b": b}, first)
        counted.calls.clear()
        found = [prepared(varying) for varying in (first, second)]
    assert counted.calls == {"aten::mm": 2}
    for varying, one in zip((first, second), found, strict=True):
        expected = quadratic({"a": a, "b": b}, varying)
        assert list(one) == list(expected)
        assert bits(list(one.values())) == bits(list(expected.values()))
    assert prepared.nbytes == 2 * SIZE * SIZE * 8, "the product and the tanh"


def test_what_is_prepared_follows_its_fixed_part() -> None:
    calls, (a, b, c, v) = Calls(), matrices(4, 0)
    one, other = (calls.prepare("quadratic", quadratic, {"a": a, "b": right}, v) for right in (b, c))
    assert torch.equal(one(v)["value"], a @ b @ v)
    assert torch.equal(other(v)["value"], a @ c @ v)


@pytest.mark.parametrize("shape", [(SIZE,), (SIZE, 5)])
def test_a_program_is_prepared_for_the_shapes_of_what_varies(shape: tuple[int, ...]) -> None:
    def function(fixed: Tensor, varying: Tensor) -> Tensor:
        return fixed @ varying / varying.numel()

    calls, (fixed, square) = Calls(), matrices(2, 0)
    (varying,) = matrices(1, 1, *shape)
    for given_to in (square, varying, square):
        found = calls.prepare("mean", function, fixed, given_to)(given_to)
        assert torch.equal(found, function(fixed, given_to))


@pytest.mark.parametrize("other", [(5,), (1,)])
def test_a_program_is_recorded_for_its_shapes(other: tuple[int, ...]) -> None:
    calls = Calls()
    for one in (torch.arange(3.0), torch.arange(float(other[0])), torch.arange(3.0).double(), torch.arange(3.0) + 1):
        found = calls.run("mean", lambda tensor: tensor / tensor.shape[0], one)
        assert found.dtype == one.dtype
        assert torch.equal(found, one / len(one))


def test_a_program_is_recorded_once_for_each_shape_and_purpose() -> None:
    calls, recorded = Calls(), []

    def double(tensor: Tensor) -> Tensor:
        recorded.append(tuple(tensor.shape))
        return 2 * tensor

    for shape in ((2,), (3,), (2,), (3,)):
        calls.run("double", double, torch.ones(shape))
    calls.run(("double", 2), double, torch.ones(2))
    assert recorded == [(2,), (3,), (2,)]


def test_names_are_told_apart_in_whatever_order_they_come() -> None:
    def difference(params: dict[str, Tensor]) -> Tensor:
        return params["a"] - params["b"]

    calls, (a, b) = Calls(), matrices(2, 0)
    assert torch.equal(calls.run("difference", difference, {"a": a, "b": b}), a - b)
    assert torch.equal(calls.run("difference", difference, {"b": b, "a": a}), a - b)


def test_prepared_names_are_told_apart_in_whatever_order_they_come() -> None:
    def along(fixed: dict[str, Tensor], varying: dict[str, Tensor]) -> Tensor:
        return fixed["a"] @ varying["a"] - fixed["b"] @ varying["b"]

    calls, (a, b, v, w) = Calls(), matrices(4, 0)
    prepared = calls.prepare("along", along, {"a": a, "b": b}, {"a": v, "b": w})
    assert torch.equal(prepared({"a": v, "b": w}), a @ v - b @ w)
    again = calls.prepare("along", along, {"b": b, "a": a}, {"a": v, "b": w})
    assert torch.equal(again({"a": v, "b": w}), a @ v - b @ w)
    with pytest.raises(ValueError, match=r"expected tensors as prepared for, (.|\n)*received .*'b', 'a'"):
        prepared({"b": w, "a": v})


def test_derivatives_are_part_of_a_program() -> None:
    def cubic(tensor: Tensor) -> Tensor:
        return (tensor**3).sum()

    (given_to,) = matrices(1, 0)
    found = Calls().run("slope", grad(cubic), given_to)
    torch.testing.assert_close(found, 3 * given_to**2, rtol=1e-14, atol=0)
    assert not found.requires_grad

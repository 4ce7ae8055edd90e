"""Rewrites of a recorded program before it is translated. They may change the order of additions, and so last bits."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten
MANY = 8  # products; fewer are added one by one


def add_out_of_place(program: GraphModule) -> GraphModule:
    """Writes sums that autograd adds up in place as operations that make new tensors, where no view sees the change.

    Autograd does so for a tensor that is read several times. With them out of the way, most programs change nothing in
    place, and need not be recorded a second time to be written out.

    Args:
        program: changed in place.

    Returns:
        ``program``.
    """
    order = {node: number for number, node in enumerate(program.graph.nodes)}
    for node in list(program.graph.nodes):
        if node.target is not aten.add_.Tensor:
            continue
        base = node.args[0]
        later = [user for user in base.users if order[user] > order[node]]
        if not any(_is_view(user) for user in base.users) and _owns_its_memory(base):
            node.target = aten.add.Tensor
            for user in later:
                user.replace_input_with(base, node)
    program.recompile()
    return program


def _owns_its_memory(node: Node) -> bool:
    """Whether nothing else in the program reads a tensor's memory: it is new, or the one view of a new tensor."""
    while _is_view(node):
        source = node.args[0]
        if not isinstance(source, Node) or len(source.users) > 1:
            return False
        node = source
    return node.op == "call_function" and node.target is not operator.getitem


def _is_view(node: Node) -> bool:
    if node.op != "call_function" or node.target is aten.add_.Tensor:
        return False
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)


class Term(NamedTuple):
    """A term of a sum, to be transposed or not."""

    value: Any
    turned: bool


def merge_sums(program: GraphModule) -> GraphModule:
    """Writes sums of many alike operations, which the derivatives of a sequence's steps are, as one operation.

    The gradient of a weight that is used in every step is a sum of products Σ_t a_t b_t with few terms each. One
    product [a_1 … a_n] [b_1; …; b_n] reads and writes the result once. The gradient of a sequence that is read step by
    step is a sum of tensors of all steps, each with numbers at one of them: here they are put one after the other.

    Args:
        program: changed in place.

    Returns:
        ``program``.
    """
    inner: set[Node] = set()
    for node in reversed(list(program.graph.nodes)):
        if node.target is not aten.add.Tensor or node in inner or node.kwargs:
            continue
        terms, sums = _terms(node)
        inner |= sums
        products = [term for term in terms if _is_alone(term, aten.mm.default)]
        slices = [term for term in terms if _is_alone(term, aten.select_backward.default) and not term.turned]
        if len(products) >= MANY:
            _replace(program, node, terms, products, _merged_product)
        elif len(slices) >= MANY and _apart(slices):
            _replace(program, node, terms, slices, _stacked)
    program.graph.eliminate_dead_code()
    program.recompile()
    return program


def _is_alone(term: Term, target: Any) -> bool:
    return isinstance(term.value, Node) and term.value.target is target and len(term.value.users) == 1


def _apart(slices: Sequence[Term]) -> bool:
    """Tells whether slices lie at different places along the same dimension."""
    places = {slice.value.args[3] for slice in slices}
    return len(places) == len(slices) and len({slice.value.args[2] for slice in slices}) == 1 and min(places) >= 0


def _terms(root: Node) -> tuple[list[Term], set[Node]]:
    """The terms of a tree of additions of one shape, in order, and the additions inside."""
    terms: list[Term] = []
    sums: set[Node] = set()
    stack = [Term(arg, False) for arg in reversed(root.args)]
    size = root.meta["tensor_meta"].shape
    while stack:
        value, turned = stack.pop()
        recorded = value.meta.get("tensor_meta") if isinstance(value, Node) and len(value.users) == 1 else None
        shape = getattr(recorded, "shape", None)
        if value in sums or shape not in (size, size[::-1]):
            terms.append(Term(value, turned))
        elif value.target is aten.add.Tensor and not value.kwargs:
            sums.add(value)
            stack += [Term(arg, turned) for arg in reversed(value.args)]
        elif value.target is aten.permute.default and list(value.args[1]) == [1, 0]:
            stack.append(Term(value.args[0], not turned))
        else:
            terms.append(Term(value, turned))
    return terms, sums


def _replace(
    program: GraphModule,
    root: Node,
    terms: Sequence[Term],
    chosen: Sequence[Term],
    merged: Callable[[GraphModule, Sequence[Term]], Node],
) -> None:
    """Put one operation for the chosen terms of a sum, and the other terms, in the place of the sum."""
    with program.graph.inserting_before(root):
        total = merged(program, chosen)
        for term in terms:
            if term not in chosen:
                value = _turned(program, term.value) if term.turned else term.value
                total = _call(program, aten.add.Tensor, total, value)
                total.meta |= root.meta
    root.replace_all_uses_with(total)


def _merged_product(program: GraphModule, products: Sequence[Term]) -> Node:
    sides: tuple[list[Node], list[Node]] = ([], [])
    for value, turned in products:
        one, other = value.args
        if turned:
            one, other = _turned(program, other), _turned(program, one)
        sides[0].append(one)
        sides[1].append(other)
    return _call(program, aten.mm.default, *(_call(program, aten.cat.default, sides[n], 1 - n) for n in (0, 1)))


def _stacked(program: GraphModule, slices: Sequence[Term]) -> Node:
    _, sizes, dim, _ = slices[0].value.args
    by_place = {slice.value.args[3]: slice.value.args[0] for slice in slices}
    example = slices[0].value.args[0]
    none = _call(program, aten.zeros_like.default, example) if len(by_place) < sizes[dim] else None
    return _call(program, aten.stack.default, [by_place.get(place, none) for place in range(sizes[dim])], dim)


def _turned(program: GraphModule, node: Node) -> Node:
    return _call(program, aten.permute.default, node, [1, 0])


def _call(program: GraphModule, target: Any, *args: Any) -> Node:
    return program.graph.call_function(target, args)

"""Clean-up of a recorded program before it is replayed: nothing is done twice, nothing is done for nothing.

Differentiating an unrolled loop twice records views of a tensor in the shape it has, products with one, and
the same transpose many times over. On a small network, where each call costs more than its arithmetic, that
is a third of the program. Every rewrite here leaves the remaining operations, their order and their bits as
they were.
"""

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten
RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.expand.default}
SWAPS = {aten.t.default, aten.transpose.int}


def _schema_is_mutable(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _shape(value: Any) -> tuple[int, ...] | None:
    """Shape of a node's tensor as recorded, or None where nothing was."""
    recorded = value.meta.get("tensor_meta") if isinstance(value, Node) else None
    return tuple(recorded.shape) if recorded is not None and hasattr(recorded, "shape") else None


def _same_as(node: Node) -> Node | None:
    """An earlier node that holds the very tensor this one yields, if its operation does nothing."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node):
        return None
    if node.target in RESHAPES and _shape(node) is not None and _shape(node) == _shape(source):
        return source
    if node.target is aten.mul.Scalar and node.args[1] == 1 and _dtype(node) == _dtype(source):
        return source
    if node.target is aten.pow.Tensor_Scalar and node.args[1] == 1 and _dtype(node) == _dtype(source):
        return source
    if node.target in SWAPS and source.target is node.target and source.args[1:] == node.args[1:]:
        return source.args[0] if isinstance(source.args[0], Node) else None
    return None


def _dtype(node: Node) -> Any:
    return getattr(node.meta.get("tensor_meta"), "dtype", None)


def _repeatable(node: Node) -> bool:
    """Whether two equal calls of the node's operation give equal results."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded not in target.tags


def _hashable(value: Any) -> Any:
    """A key for an argument; equal numbers of different kinds stay apart (1, 1.0 and True; 0.0 and -0.0)."""
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _hashable(item)) for name, item in sorted(value.items()))
    return type(value), repr(value) if isinstance(value, (float, complex)) else value


def simplify(program: GraphModule) -> GraphModule:
    """Drop operations of a recorded program that are unused, repeated, or without effect.

    A program that changes a tensor in place is only freed of unused operations, since two equal calls around
    a change differ.
    """
    graph: Graph = program.graph
    graph.eliminate_dead_code()
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if not any(_schema_is_mutable(node) for node in calls):
        seen: dict[Any, Node] = {}
        for node in calls:
            key = (node.target, _hashable(node.args), _hashable(node.kwargs))
            twin = _same_as(node) or (seen.get(key) if _repeatable(node) else None)
            if twin is not None:
                node.replace_all_uses_with(twin)
                graph.erase_node(node)
            else:
                seen[key] = node
        graph.eliminate_dead_code()
    program.recompile()
    return program

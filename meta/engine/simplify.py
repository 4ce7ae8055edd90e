"""Recording a program, and removing its unused, repeated and ineffective operations before it is replayed.

Differentiating an unrolled loop twice records views of a tensor in the shape it has, products with one, and
the same transpose many times over. On a small network, where each call costs more than its arithmetic, that
is a third of the program. Every rewrite here leaves the remaining operations, their order and their bits as
they were.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

# Held while a program is recorded: torch keeps what it patches for that in one place for all threads.
RECORDER = threading.RLock()
aten = torch.ops.aten
RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.expand.default}
POWERS_AND_PRODUCTS = {aten.pow.Tensor_Scalar, aten.mul.Scalar}
SWAPS = {aten.t.default, aten.transpose.int}


# The same operations by torch's own Python names, which reach them in half the time of the operator objects.
DIRECT: dict[Any, Callable[..., Any]] = {
    aten._unsafe_view.default: torch.Tensor.view,
    aten.add.Tensor: torch.add,
    aten.bmm.default: torch.bmm,
    aten.div.Scalar: torch.div,
    aten.div.Tensor: torch.div,
    aten.expand.default: torch.Tensor.expand,
    aten.mean.dim: torch.mean,
    aten.mm.default: torch.mm,
    aten.mul.Scalar: torch.mul,
    aten.mul.Tensor: torch.mul,
    aten.neg.default: torch.neg,
    aten.pow.Tensor_Scalar: torch.pow,
    aten.relu.default: torch.relu,
    aten.sub.Tensor: torch.sub,
    aten.sum.dim_IntList: torch.sum,
    aten.t.default: torch.t,
    aten.tanh.default: torch.tanh,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.view.default: torch.Tensor.view,
}


def _schema_is_mutable(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def changes_in_place(program: GraphModule) -> bool:
    """Returns whether an operation of a recorded program changes a tensor in place."""
    return any(node.op == "call_function" and _schema_is_mutable(node) for node in program.graph.nodes)


def _layout(node: Node) -> tuple[Any, ...] | None:
    """Shape, strides and type of a node's tensor as recorded, or None where nothing was."""
    recorded: Any = node.meta.get("tensor_meta")
    if not hasattr(recorded, "stride"):
        return None
    return tuple(recorded.shape), tuple(recorded.stride), recorded.dtype


def _does_nothing(node: Node) -> bool:
    """Whether the operation yields its first argument, number by number."""
    return node.target in RESHAPES or (node.target in POWERS_AND_PRODUCTS and node.args[1] in (1, 1.0))


def _same_as(node: Node) -> Node | None:
    """Returns an earlier node that holds the same tensor, if this node's operation has no effect.

    Strides have to agree too: equal numbers in another layout may be multiplied by another kernel, to other bits.
    """
    source = node.args[0] if node.args else None
    if not isinstance(source, Node):
        return None
    if node.target in SWAPS and source.target is node.target and source.args[1:] == node.args[1:]:
        source = source.args[0]
    elif not _does_nothing(node):
        return None
    same = isinstance(source, Node) and _layout(node) is not None and _layout(node) == _layout(source)
    return source if same and isinstance(source, Node) else None


def _repeatable(node: Node) -> bool:
    """Whether two equal calls of the node's operation give equal results."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded not in target.tags


def _hashable(value: Any) -> Any:
    """Returns a key for an argument; equal numbers of different kinds get different keys (1, 1.0, True; 0.0, -0.0)."""
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _hashable(item)) for name, item in sorted(value.items()))
    return type(value), repr(value) if isinstance(value, (float, complex)) else value


def simplify(program: GraphModule) -> GraphModule:
    """Removes operations of a recorded program that are unused, repeated, or without effect.

    From a program that changes a tensor in place only unused operations are removed, since two equal calls around
    a change differ.

    Args:
        program: changed in place.

    Returns:
        ``program``.
    """
    graph: Graph = program.graph
    graph.eliminate_dead_code()
    calls = [node for node in graph.nodes if node.op == "call_function"]
    if not changes_in_place(program):
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


def record(function: Callable[..., list[Tensor]], tensors: Sequence[Tensor]) -> GraphModule:
    """Returns the tensor operations of ``function(*tensors)``, differentiation included, as a simplified program.

    Args:
        function: a pure function of tensors.
        tensors: example inputs; the program is valid for their shapes and dtypes.

    Raises:
        ValueError: if the function draws random numbers.
    """
    # Told of one fake mode, torch describes every result in it; else it makes one a result, with a stack trace, which
    # takes as long as all the rest.
    with RECORDER, tracing(TracingContext(FakeTensorMode())):
        program = make_fx(function)(*tensors)
    require_repeatable(program)
    return simplify(program)


def require_repeatable(program: GraphModule) -> None:
    """Checks that a recorded program draws no random numbers.

    Raises:
        ValueError: naming the operation that does.
    """
    for node in program.graph.nodes:
        if node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ValueError(
                f"expected a function of parameters and examples, received one that draws from torch's generator "
                f"({node.target}); random layers are keyed by the task in training alone, see meta.models.keyed"
            )


def direct(program: GraphModule) -> GraphModule:
    """Replaces operations by torch's Python functions that are called fastest; changes ``program`` and returns it."""
    for node in program.graph.nodes:
        if node.target in DIRECT and not node.kwargs:
            node.target = DIRECT[node.target]
    program.recompile()
    return program

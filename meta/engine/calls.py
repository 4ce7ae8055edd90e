"""Recorded programs of plain functions of tensors, and their division into what stays the same and what does not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_flatten, tree_unflatten

from meta.engine.simplify import direct, record


class Calls:
    """Programs of functions of tensors and dictionaries of them, by what they compute, their names and shapes."""

    def __init__(self) -> None:
        self._programs: dict[Any, tuple[Any, Any]] = {}
        self.nbytes = 0  # bytes that the programs take, about

    def run(self, what: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(*arguments)``, recorded at its first call for these names and shapes."""
        tensors, inputs = tree_flatten(arguments)
        key = (what, inputs, _shapes(tensors))
        if key not in self._programs:
            program, outputs = _recorded(function, tensors, inputs)
            self.nbytes += _size(program)
            self._programs[key] = (direct(program).forward, outputs)
        program, outputs = self._programs[key]
        with torch.inference_mode():  # derivatives are part of the program; nothing else is to be recorded
            return tree_unflatten(program(*tensors), outputs)

    def prepare(self, what: Any, function: Callable[..., Any], fixed: Any, example: Any) -> "Prepared":
        """``function(fixed, varying)`` for many ``varying`` of the names and shapes of ``example``.

        Whatever depends on ``fixed`` alone is computed here and kept.
        """
        tensors, varying = tree_flatten(fixed)[0], tree_flatten(example)[1]
        given, inputs = tree_flatten((fixed, example))
        key = (what, inputs, _shapes(given))
        if key not in self._programs:
            program, outputs = _recorded(function, given, inputs)
            self._programs[key] = (divide(program, len(tensors)), outputs)
        (first, rest), outputs = self._programs[key]
        with torch.inference_mode():
            return Prepared(rest, first(*tensors), varying, outputs)


class Prepared:
    """A function of which all that does not vary has been computed."""

    def __init__(self, program: Callable[..., Any], kept: list[Tensor], inputs: Any, outputs: Any) -> None:
        self._program, self._kept, self._inputs, self._outputs = program, kept, inputs, outputs

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(tensor.nbytes for tensor in self._kept)

    def __call__(self, varying: Any) -> Any:
        """The function's value.

        Raises:
            ValueError: if ``varying`` has other names, or the same in another order, than it was prepared for.
        """
        tensors, inputs = tree_flatten(varying)
        if inputs != self._inputs:
            raise ValueError(f"expected tensors as prepared for, {self._inputs}, received {inputs}; prepare anew")
        with torch.inference_mode():
            return tree_unflatten(self._program(*self._kept, *tensors), self._outputs)


NODE_BYTES = 10_000  # of an operation with its description and its code, measured


def _size(program: GraphModule) -> int:
    """Bytes of a program: its operations, and the tensors that are constants in it."""
    constants = {node.target for node in program.graph.nodes if node.op == "get_attr"}
    tensors = [getattr(program, name, None) for name in constants]
    held = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
    return NODE_BYTES * len(program.graph.nodes) + held


def _shapes(tensors: list[Any]) -> tuple[Any, ...]:
    return tuple((tensor.shape, tensor.dtype) for tensor in tensors)


def _recorded(function: Callable[..., Any], tensors: list[Any], inputs: Any) -> tuple[GraphModule, Any]:
    outputs: Any = None

    def flat(*given: Tensor) -> list[Tensor]:
        nonlocal outputs
        results, outputs = tree_flatten(function(*tree_unflatten(given, inputs)))
        return results

    return record(flat, tensors), outputs


def divide(program: GraphModule, fixed: int) -> tuple[Callable[..., list[Tensor]], Callable[..., list[Tensor]]]:
    """A program in two: (first inputs) -> kept tensors, and (kept tensors, further inputs) -> outputs.

    Args:
        program: a recorded program that changes nothing in place.
        fixed: the number of its first inputs.
    """
    nodes: list[Node] = list(program.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    varying: set[Node] = set(inputs[fixed:])
    for node in nodes:
        if node.op not in ("placeholder", "output") and varying & set(node.all_input_nodes):
            varying.add(node)
    output = nodes[-1]
    later = [node for node in nodes if node in varying or node is output]
    needed = {source for node in later for source in node.all_input_nodes if source not in varying}
    kept = [node for node in nodes if node in needed]

    first = Graph()
    there: dict[Node, Node] = {}
    for node in nodes:
        if node not in varying and node is not output:
            there[node] = first.node_copy(node, lambda source: there[source])
    first.output([there[node] for node in kept])

    rest = Graph()
    here = {node: rest.placeholder(f"kept{number}") for number, node in enumerate(kept)}
    for node in later:
        here[node] = rest.node_copy(node, lambda source: here[source])
    halves = [GraphModule(program, graph) for graph in (first, rest)]
    for half in halves:
        half.graph.eliminate_dead_code()
    forward: list[Any] = [direct(half).forward for half in halves]
    return forward[0], forward[1]

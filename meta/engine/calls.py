"""Recorded programs of functions of tensors, and their division into a part computed once and one computed per call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_flatten, tree_unflatten

from meta.engine.simplify import direct, record


class Calls:
    """Recorded programs of functions of tensors and dictionaries of tensors, one per purpose, names and shapes.

    Attributes:
        nbytes: estimate of the bytes that the programs take.
    """

    def __init__(self) -> None:
        self._programs: dict[Any, tuple[Any, Any]] = {}
        self.nbytes = 0  # bytes that the programs take, about

    def run(self, what: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns ``function(*arguments)``, recorded at its first call for these names and shapes.

        Args:
            what: hashable label of the computation; calls with equal labels must compute the same function.
            function: a pure function of tensors, without side effects.
            arguments: tensors, or nested dictionaries and tuples of them.
        """
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
        """Returns the function varying -> ``function(fixed, varying)``.

        Everything that depends on ``fixed`` alone is computed here and kept.

        Args:
            what: hashable label of the computation; calls with equal labels must compute the same function.
            function: a pure function of two arguments, without side effects.
            fixed: tensors that stay the same, nested in dictionaries or tuples.
            example: varying argument with the names and shapes of all later ones.
        """
        tensors, varying = tree_flatten(fixed)[0], tree_flatten(example)[1]
        leaves, inputs = tree_flatten((fixed, example))
        key = (what, inputs, _shapes(leaves))
        if key not in self._programs:
            program, outputs = _recorded(function, leaves, inputs)
            self._programs[key] = (divide(program, len(tensors)), outputs)
        (first, rest), outputs = self._programs[key]
        with torch.inference_mode():
            return Prepared(rest, first(*tensors), varying, outputs)


class Prepared:
    """A function of tensors whose part that does not depend on the varying argument is already computed."""

    def __init__(self, program: Callable[..., Any], kept: list[Tensor], inputs: Any, outputs: Any) -> None:
        self._program, self._kept, self._inputs, self._outputs = program, kept, inputs, outputs

    @property
    def nbytes(self) -> int:
        """Bytes of the kept tensors."""
        return sum(tensor.nbytes for tensor in self._kept)

    def __call__(self, varying: Any) -> Any:
        """Returns the function's value.

        Raises:
            ValueError: if ``varying`` has other names than the example, or another order of them.
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

    def flat(*leaves: Tensor) -> list[Tensor]:
        nonlocal outputs
        results, outputs = tree_flatten(function(*tree_unflatten(leaves, inputs)))
        return results

    return record(flat, tensors), outputs


def divide(program: GraphModule, fixed: int) -> tuple[Callable[..., list[Tensor]], Callable[..., list[Tensor]]]:
    """Divides a program into two: (first inputs) -> kept tensors, and (kept tensors, further inputs) -> outputs.

    Args:
        program: a recorded program that changes nothing in place.
        fixed: number of its first inputs, which do not vary.

    Returns:
        The two parts, as functions of flat lists of tensors.
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

"""How much memory a recorded program needs for its tensors at once."""

from typing import Any

from torch.fx import Node
from torch.fx.graph_module import GraphModule


def peak_bytes(program: GraphModule) -> int:
    """Bytes of the tensors that are alive together at most, inputs left out; views count as tensors of their own size.

    Args:
        program: recorded with shapes, as ``make_fx`` does.
    """
    last: dict[Node, int] = {}
    nodes = list(program.graph.nodes)
    for number, node in enumerate(nodes):
        for source in node.all_input_nodes:
            last[source] = number
    ends: dict[int, list[Node]] = {}
    for node, number in last.items():
        ends.setdefault(number, []).append(node)
    alive = most = 0
    for number, node in enumerate(nodes):
        if node.op == "call_function" and node in last:
            alive += _bytes(node)
            most = max(most, alive)
        alive -= sum(_bytes(gone) for gone in ends.get(number, []) if gone.op == "call_function")
    return most


def _bytes(node: Node) -> int:
    recorded: Any = node.meta.get("tensor_meta")
    if not hasattr(recorded, "shape") or 0 in recorded.stride:
        return 0  # several results, which their getters stand for, or an expanded one, which takes no room
    return int(recorded.shape.numel() * recorded.dtype.itemsize)

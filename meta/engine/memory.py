"""How a process keeps freed memory, and the peak memory of a recorded program."""

import ctypes
from typing import Any

from torch.fx import Node
from torch.fx.graph_module import GraphModule

# Parameters of mallopt(3) in glibc.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the process keep the memory it frees, for its next allocations.

    A worker allocates and frees the same tensors at every step. Left to itself, glibc gives their memory back to the
    system each time and fetches it anew, page by page, each page filled with zeros first: a quarter of the time of a
    step on Omniglot, half of it on images of 84 × 84. Peak memory grows by some per cent.

    Returns:
        Whether it was done: another C library than glibc is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # never shrink the heap
    mallopt(M_MMAP_MAX, 0)  # large blocks too come from the heap
    return True


def return_freed_memory() -> None:
    """Give freed memory back to the system once, whatever :func:`keep_freed_memory` says; glibc alone can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_bytes(program: GraphModule) -> int:
    """Returns the most bytes of tensors alive at once, without the inputs; views count as tensors of their own size.

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

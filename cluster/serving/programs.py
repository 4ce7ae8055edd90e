"""Programs for shapes that come again and again, a bounded number of them; see :mod:`meta.calls`."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from meta.calls import Calls
from meta.choice import rules
from meta.params import Params

RECORDED_AT = 3  # call of a shape: to record takes as long as some ten calls, and whoever asks decides on the shapes
KEPT = 64  # shapes
CHUNK = 32  # tasks vectorised at most


@dataclass
class _Shape:
    """How often a shape came, and its program once there is one."""

    calls: int = 0
    program: Calls | None = None


class Programs:
    """Computes functions of one task for batches of tasks, as :class:`cluster.registry.adapting.Run` asks for.

    Tasks are vectorised, filled up to a power of two so that there are few shapes. Convolutions of many images go one
    task after another, as in training (:mod:`meta.choice`). May be called by several threads.
    """

    def __init__(self) -> None:
        self._shapes: OrderedDict[Any, _Shape] = OrderedDict()
        self._lock = threading.Lock()
        self.recorder = threading.Lock()

    def __call__(self, what: Any, function: Callable[[Params, Any], Any], params: Params, tasks: Any) -> Any:
        """``function(params, one task)`` for each of ``tasks`` [T, …], outputs stacked."""
        count = len(tree_leaves(tasks)[0])
        if _convolves_many(params, tree_leaves(tasks)):
            rows = [
                self._run((what, "one"), function, params, tree_map(lambda leaf, n=number: leaf[n], tasks))
                for number in range(count)
            ]
            return tree_map(lambda *each: torch.stack(each), *rows)
        many = vmap(function, in_dims=(None, 0))
        parts = []
        for first in range(0, count, CHUNK):
            part = tree_map(lambda leaf, at=first: _filled(leaf[at : at + CHUNK]), tasks)
            parts.append(self._run((what, "many"), many, params, part))
        return tree_map(lambda *each: torch.cat(each)[:count], *parts)

    def _run(self, what: Any, function: Callable[..., Any], params: Params, tasks: Any) -> Any:
        key = (what, tuple((leaf.shape, leaf.dtype) for leaf in tree_leaves((params, tasks))))
        with self._lock:
            shape = self._shapes.setdefault(key, _Shape())
            self._shapes.move_to_end(key)
            if len(self._shapes) > KEPT:
                self._shapes.popitem(last=False)
            shape.calls += 1
            program, due = shape.program, shape.calls == RECORDED_AT
        if due:
            program = Calls()
            with self.recorder:  # torch records one program at a time
                found = program.run(what, function, params, tasks)
            shape.program = program  # from now on others may use it; until then they do without
        elif program is None:
            with torch.no_grad():
                return function(params, tasks)
        else:
            found = program.run(what, function, params, tasks)
        return tree_map(torch.clone, found)  # what is made in inference mode could not be differentiated


def _convolves_many(params: Params, leaves: list[Tensor]) -> bool:
    """Whether there are convolutions, over more images [T, B, C, H, W] a task than are worth vectorising."""
    images = sum(leaf.shape[1] for leaf in leaves if leaf.dim() == 5)
    return any(value.dim() == 4 for value in params.values()) and images > rules()["cpu"]["vectorised_images"]


def _filled(leaf: Tensor) -> Tensor:
    """Tasks [T, …] filled up to a power of two with the last of them."""
    more = (1 << (len(leaf) - 1).bit_length()) - len(leaf)
    return torch.cat([leaf, leaf[-1:].expand(more, *leaf.shape[1:])]) if more else leaf

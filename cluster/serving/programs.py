"""Programs for shapes that come again and again, within a budget of bytes; see :mod:`meta.engine.calls`."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from cluster.registry.adapting import InnerLoop
from meta.engine.calls import Calls
from meta.engine.choice import rules
from meta.params import Params

RECORDED_AT = 3  # call of a shape: to record takes as long as some ten calls, and whoever asks decides on the shapes
KEPT = 256  # shapes; a request has up to three: the first inner step, later ones, the outputs
CHUNK = 32  # tasks vectorised at most
PROGRAM_BYTES = 256 * 2**20  # of all programs together


@dataclass
class _Shape:
    """Number of requests of a shape, and their program once there is one."""

    calls: int = 0
    program: Calls | None = None

    @property
    def nbytes(self) -> int:
        return self.program.nbytes if self.program else 0


class Programs:
    """Computes functions of one task for batches of tasks, as :class:`cluster.registry.adapting.Run` asks for.

    Tasks are vectorised, filled up to a power of two so that there are few shapes. Convolutions of many images go one
    task after another, as in training (:mod:`meta.engine.choice`). A program holds one inner step, however many are
    taken. The programs used last are kept, within ``nbytes``. May be called by several threads.
    """

    def __init__(self, nbytes: int = PROGRAM_BYTES) -> None:
        self._shapes: OrderedDict[Any, _Shape] = OrderedDict()
        self._lock = threading.Lock()
        self._recorder = threading.Lock()
        self._most = nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all programs, about."""
        with self._lock:
            return sum(shape.nbytes for shape in self._shapes.values())

    def __call__(self, what: Any, function: Callable[[Params, Any], Any], params: Params, tasks: Any) -> Any:
        """``function(params, one task)`` for each of ``tasks`` [T, …], outputs stacked."""
        return Watched(self)(what, function, params, tasks)

    def adapt(self, what: Any, path: InnerLoop, params: Params, tasks: Any, steps: int) -> Any:
        """Outputs [T, …] after ``steps`` inner steps."""
        return Watched(self).adapt(what, path, params, tasks, steps)

    def run(self, what: Any, function: Callable[..., Any], params: Params, tasks: Any) -> Any:
        """Result of ``function(params, tasks)``: recorded when its shapes come the third time, then replayed.

        Args:
            what: tells functions apart.
            function: of tensors.
            params: what all tasks share.
            tasks: tensors [T, …], or tuples and dictionaries of them.
        """
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
            with self._recorder:  # torch records one program at a time
                outputs = program.run(what, function, params, tasks)
            self._keep(key, shape, program)  # from now on others may use it; until then they do without
        elif program is None:
            with torch.no_grad():
                return function(params, tasks)
        else:
            outputs = program.run(what, function, params, tasks)
        return tree_map(torch.clone, outputs)  # what is made in inference mode could not be differentiated

    def _keep(self, key: Any, shape: _Shape, program: Calls) -> None:
        """Keep a program, and drop those used longest ago until all fit; one that never fits is not kept."""
        if program.nbytes > self._most:
            return
        with self._lock:
            shape.program = program
            used = sum(one.nbytes for one in self._shapes.values())
            for other in [other for other in self._shapes if other != key]:
                if used <= self._most:
                    break
                used -= self._shapes.pop(other).nbytes


@dataclass(frozen=True)
class Watched:
    """A :class:`~cluster.registry.adapting.Run` that computes with some programs and may be broken off.

    Attributes:
        programs: of the shapes.
        proceed: called before every inner step; what it raises ends the work.
        chunk: tasks at a time, at most.
    """

    programs: Programs
    proceed: Callable[[], None] = lambda: None
    chunk: int = CHUNK

    def __call__(self, what: Any, function: Callable[[Params, Any], Any], params: Params, tasks: Any) -> Any:
        """``function(params, one task)`` for each of ``tasks`` [T, …], outputs stacked."""
        rows = []
        for part, many in self._parts(params, tasks):
            self.proceed()
            computed = vmap(function, in_dims=(None, 0)) if many else function
            outputs = self.programs.run((what, many), computed, params, part)
            rows.append(outputs if many else tree_map(lambda leaf: leaf[None], outputs))
        count = len(tree_leaves(tasks)[0])
        return tree_map(lambda *each: torch.cat(each)[:count], *rows)

    def adapt(self, what: Any, path: InnerLoop, params: Params, tasks: Any, steps: int) -> Any:
        """Outputs [T, …] after ``steps`` inner steps, one program a step.

        Args:
            what: tells functions apart that a program could be kept for.
            path: one inner step, and the outputs.
            params: θ by name.
            tasks: pairs (support, queries) of tensors [T, …], or of tuples of them.
            steps: inner steps.
        """
        batches = []
        for part, many in self._parts(params, tasks):
            own, dims = params, None
            for _ in range(steps):
                self.proceed()
                step = vmap(path.step, in_dims=(dims, 0)) if many else path.step
                own = self.programs.run((what, "step", many, dims), step, own, part[0])
                dims = 0 if many else None
            self.proceed()
            outputs = vmap(path.outputs, in_dims=(dims, 0)) if many else path.outputs
            rows = self.programs.run((what, "outputs", many, dims), outputs, own, part)
            batches.append(rows if many else rows[None])
        return torch.cat(batches)[: len(tree_leaves(tasks)[0])]

    def _parts(self, params: Params, tasks: Any) -> Iterator[tuple[Any, bool]]:
        """Parts of the tasks, and whether a part is several tasks to be vectorised."""
        leaves = tree_leaves(tasks)
        if convolves_many(params, leaves):
            for number in range(len(leaves[0])):
                yield tree_map(lambda leaf, n=number: leaf[n], tasks), False
            return
        for first in range(0, len(leaves[0]), self.chunk):
            yield tree_map(lambda leaf, at=first: _filled(leaf[at : at + self.chunk]), tasks), True


def convolves_many(params: Params, leaves: list[Tensor]) -> bool:
    """Whether the model has convolutions, over more images per task than vectorising is faster for.

    Args:
        params: θ by name.
        leaves: tensors of the tasks; images are [T, B, C, H, W].
    """
    images = sum(leaf.shape[1] for leaf in leaves if leaf.dim() == 5)
    return any(value.dim() == 4 for value in params.values()) and images > rules()["cpu"]["vectorised_images"]


def _filled(leaf: Tensor) -> Tensor:
    """Tasks [T, …] filled up to a power of two with the last of them."""
    more = (1 << (len(leaf) - 1).bit_length()) - len(leaf)
    return torch.cat([leaf, leaf[-1:].expand(more, *leaf.shape[1:])]) if more else leaf

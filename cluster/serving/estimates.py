"""Estimates of the memory that a request will take, computed before any of it is taken."""

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from cluster.registry.adapting import Adaptable, InnerLoop
from cluster.serving.programs import CHUNK, convolves_many
from cluster.serving.requests import Question
from meta.params import Params

logger = logging.getLogger(__name__)

KERNELS = 2.75  # times what tensors take: kernels copy, and the allocator loses some (2.4 measured)
ARRAYS = 4  # times that a question's arrays are there: received, stacked, as tensors, filled up
BASE = 8 * 2**20  # bytes of any computation
NUMBER = 64  # bytes of a number of the answer: in the array, as a Python object, as text
FALLBACK = 100  # bytes of tensors a byte of input, for models that cannot be examined
KNOWN = 512  # shapes whose need is remembered


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that a question takes.

    Attributes:
        each: while one task is computed.
        kept: for each task of the question, from its beginning to the end.
        answer: for each task, until it is sent.
    """

    each: int = 0
    kept: int = 0
    answer: int = 0

    def work(self, tasks: int, chunk: int) -> int:
        """Bytes to compute ``tasks`` tasks, ``chunk`` at a time.

        Args:
            tasks: number of tasks.
            chunk: tasks at a time.
        """
        return BASE + self.kept * tasks + int(KERNELS * self.each * min(tasks, chunk))

    def chunk(self, tasks: int, share: int) -> int:
        """The largest power of two of tasks at a time that ``share`` bytes suffice for; 1 at least.

        Args:
            tasks: number of tasks.
            share: bytes.
        """
        chunk = CHUNK
        while chunk > 1 and self.work(1 << (tasks - 1).bit_length(), chunk) > share:
            chunk //= 2
        return chunk


NOTHING = Need()


class Estimates:
    """Needs of questions by their shapes. Sizes are rounded up to powers of two, unless that is too much."""

    def __init__(self, model: Adaptable, share: int) -> None:
        """Examine ``model``; ``share`` bytes are what one batch may take without being looked at closely."""
        self._model, self._share = model, share
        self._known: OrderedDict[Any, Need] = OrderedDict()
        self._lock = threading.Lock()
        self._warned = False
        letters = {size for field in model.inputs for size in field.shape if isinstance(size, str)}
        self._need({size: 1 for size in letters if size != "T" and "+" not in size}, 1)  # the first one takes a second

    def of(self, question: Question) -> Need:
        """The need of a question."""
        sizes: dict[str, int] = {}
        for field in self._model.inputs:
            shape = question.arrays[field.name].shape
            free = zip(field.shape, shape, strict=True)
            sizes |= {
                size: length for size, length in free if isinstance(size, str) and size != "T" and "+" not in size
            }
        steps = min(question.inner_steps, 1)
        rounded = self._need({size: 1 << (length - 1).bit_length() for size, length in sizes.items()}, steps)
        return rounded if 4 * rounded.work(1, 1) <= self._share else self._need(sizes, steps)

    def _need(self, sizes: Mapping[str, int], steps: int) -> Need:
        key = (*sizes.items(), steps)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._examined(sizes, steps)
                if len(self._known) > KNOWN:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

    def _examined(self, sizes: Mapping[str, int], steps: int) -> Need:
        arrays: dict[str, NDArray[Any]] = {}
        for field in self._model.inputs:
            shape = [_size(size, sizes) for size in field.shape]
            arrays[field.name] = np.broadcast_to(np.zeros((), field.dtype), shape)
        data = sum(array.nbytes for array in arrays.values())
        answer = NUMBER * int(np.prod([_size(size, sizes) for size in self._model.output.shape]))
        examined = _Examined()
        try:
            self._model.adapted(arrays, steps, self._model.inner_lr, examined)
        except Exception as error:  # code of the user's; a bound is better than no server
            if not self._warned:
                logger.warning("memory of requests is estimated by their size alone: %s", error)
                self._warned = True
            return Need(each=FALLBACK * data, kept=ARRAYS * data + answer, answer=answer)
        return Need(each=examined.each, kept=ARRAYS * data + examined.kept + answer, answer=answer)


def _size(size: int | str, sizes: Mapping[str, int]) -> int:
    """A size of one task's array, ``H+1`` being one more than ``H``."""
    if isinstance(size, int):
        return size
    letter, more, _ = size.partition("+")
    return sizes.get(letter, 1) + (1 if more else 0)


class _Examined:
    """A :class:`~cluster.registry.adapting.Run` that computes shapes alone, and how much memory tensors take meanwhile.

    Attributes:
        each: bytes while one task is computed, at most.
        kept: bytes of what is computed of one task in between.
    """

    def __init__(self) -> None:
        self.each = self.kept = 0

    def __call__(self, what: Any, function: Callable[[Params, Any], Any], params: Params, tasks: Any) -> Any:
        del what
        many = not convolves_many(params, tree_leaves(tasks))
        outputs = self._measured(function, params, tasks, many=many, own=False)
        self.kept += 2 * _nbytes(outputs)
        return outputs

    def adapt(self, what: Any, path: InnerLoop, params: Params, tasks: Any, steps: int) -> Any:
        del what
        many = not convolves_many(params, tree_leaves(tasks))
        own = min(steps, 1) * 3 * _nbytes(params)  # before a step, after it, and a copy
        if steps:
            self._measured(path.step, params, tasks[0], many=many, own=True)
        outputs = self._measured(path.outputs, params, tasks, many=many, own=steps > 0)
        self.each += own
        return outputs

    def _measured(
        self, function: Callable[[Params, Any], Any], params: Params, tasks: Any, *, many: bool, own: bool
    ) -> Any:
        """Zeros of the shape of ``function(params, tasks)``, one task's; two tasks are measured where many are.

        Args:
            function: of one task.
            params: of all tasks.
            tasks: tensors [1, …].
            many: whether tasks are vectorised.
            own: whether each task has parameters of its own.
        """
        count, meter = 2 if many else 1, Meter()

        def several(leaf: Tensor) -> Tensor:
            return torch.empty((count, *leaf.shape[1:]) if many else leaf.shape[1:], dtype=leaf.dtype)

        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            batched = own and many
            inputs = {
                name: torch.empty((count, *value.shape) if batched else value.shape, dtype=value.dtype)
                for name, value in params.items()
            }
            computed = vmap(function, in_dims=(0 if batched else None, 0)) if many else function
            part = tree_map(several, tasks)
            with meter:
                outputs = computed(inputs, part)
            shapes = tree_map(lambda leaf: (tuple(leaf.shape[1:] if many else leaf.shape), leaf.dtype), outputs)
        self.each = max(self.each, -(-meter.peak // count))
        return tree_map(
            lambda shape: torch.zeros((1, *shape[0]), dtype=shape[1]),
            shapes,
            is_leaf=lambda one: isinstance(one, tuple) and len(one) == 2 and isinstance(one[1], torch.dtype),
        )


class Meter(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on, those of views once.

    Attributes:
        peak: the most that was there at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._there = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, and count what comes out."""
        del types
        outputs = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(outputs):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, count = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: object) -> None:
            self._there -= count
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, gone)
        self._there += count
        self.peak = max(self.peak, self._there)


def _nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree))

"""One recorded function of θ and an episode, compiled and run over the tasks of a batch."""

import ctypes
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from importlib import resources
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, decomposition_table
from torch.func import functionalize
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from meta.context import FIXED, Context
from meta.engine.native.closed import Closed
from meta.engine.native.elementwise import KINDS
from meta.engine.native.emit import source
from meta.engine.native.ir import Input, Unsupported
from meta.engine.native.lower import lower, stored_tensors
from meta.engine.native.rewrite import add_out_of_place, merge_sums
from meta.engine.native.schedule import Output, Plan
from meta.engine.native.toolchain import Library, load
from meta.engine.simplify import RECORDER, changes_in_place, require_repeatable, simplify
from meta.episode import Episode, from_leaves, input_names, leaves, unstack
from meta.params import Params

REALS = {torch.float32: "float", torch.float64: "double"}
HEADERS = ("kernels.h", "pooling.h", "indexing.h", "depthwise.h")
aten = torch.ops.aten
# Operators that torch's core has, and native puts together from others all the same.
PUT_TOGETHER = (
    aten._log_softmax.default,
    aten._log_softmax_backward_data.default,
    aten._softmax.default,
    aten.addmm.default,
    aten.elu.default,
    aten.gelu.default,
    aten.hardtanh.default,
)


class _Translated(NamedTuple):
    """A function of one task, planned: its source, the shapes of its outputs, and how they hang together.

    ``memory`` is what it computes in, in bytes, the kernels' own scratch not counted. ``constants`` are tensors that
    the function holds, and that the program reads after θ and the context's numbers.
    """

    source: str
    memory: int
    constants: list[Tensor]
    shapes: list[tuple[tuple[int, ...], bool, tuple[int, ...]]]
    outputs: Any


def translated(
    function: Callable[..., Any], params: Params, episodes: Episode, context: Context = FIXED, *, adds: bool
) -> _Translated:
    """Record a function of one task, plan it, and write it in C++.

    Args:
        function: (θ, episode of one task, context) -> tensors; with ``adds`` a pair, whose first part is added up.
        params: θ, for its shapes.
        episodes: a batch, for the shapes of one task.
        context: whose numbers are inputs of the program.
        adds: whether there is such a part.

    Raises:
        Unsupported: if the function holds an operation that has no translation.
    """
    dtype = next(iter(params.values())).dtype
    if dtype not in REALS:
        raise Unsupported(f"parameters of type {dtype}")
    example = unstack(episodes)
    graph, structure = _record(function, params, example, context)
    constants = [tensor.detach().clone() for tensor in stored_tensors(graph).values()]
    for tensor in constants:
        if tensor.is_floating_point() and tensor.dtype != dtype:
            raise Unsupported(f"a stored tensor of type {tensor.dtype} among numbers of {dtype}")
    theta = [*params.values(), *context.numbers.values()]
    shared = _inputs([*theta, *constants], shared=True)
    episode = _inputs(leaves(example), shared=False)
    values = lower(graph, [*shared[: len(theta)], *episode, *shared[len(theta) :]], dtype)
    totals = [False] * len(values)
    if adds:
        numbers = tree_unflatten(list(range(len(values))), structure)
        for number in tree_flatten(numbers[0])[0]:
            totals[number] = True
    outputs = [
        Output(value.shape, "real", source=value, total=total, number=number, shared=False)
        for number, (value, total) in enumerate(zip(values, totals, strict=True))
    ]
    plan = Plan(outputs, dtype.itemsize)
    headers = (resources.files("meta.engine.native").joinpath(name).read_text(encoding="utf-8") for name in HEADERS)
    text = "\n".join([*headers, source(plan, [*shared, *episode], REALS[dtype])])
    memory = plan.shared_bytes + plan.arena_bytes
    return _Translated(
        text,
        memory,
        constants,
        [(one.shape, one.total, plan.output_strides(one)) for one in outputs],
        structure,
    )


class Program:
    """A function of θ and one task, computed for every task of a batch.

    The part of the outputs that is added up comes as sums over the tasks, the others with a leading task dimension.
    Memory is one arena for each thread, whatever the number of tasks. Tasks are cut into as many runs as there are
    threads; each run adds up from its first task on, and the runs' sums are added in order.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        params: Params,
        episodes: Episode,
        context: Context = FIXED,
        *,
        adds: bool,
        threads: int = 1,
    ) -> None:
        """Translate and compile; see :func:`translated`.

        Raises:
            Unsupported: if there is no translation, or no compiler.
        """
        self._names = tuple(params)
        self._threads = threads
        text, _, constants, self._shapes, self._outputs = translated(function, params, episodes, context, adds=adds)
        self._constants = [tensor.contiguous() for tensor in constants]
        self._library: Library = load(text)
        self._shared = _memory(self._library.shared_bytes)
        self._arenas = [_memory(self._library.arena_bytes) for _ in range(threads)]

    def fork(self) -> "Program":
        """The same program with memory of its own, so that another thread may run it at the same time."""
        twin = copy(self)
        twin._shared = _memory(self._library.shared_bytes)
        twin._arenas = [_memory(self._library.arena_bytes) for _ in range(self._threads)]
        return twin

    def __call__(self, params: Params, episodes: Episode, context: Context = FIXED) -> Any:
        """The outputs for a batch."""
        shared = [*(params[name] for name in self._names), *context.numbers.values()]
        theta = [*(value.contiguous() for value in shared), *self._constants]
        episode_leaves = [leaf.contiguous() for leaf in leaves(episodes)]
        count = len(episodes.description)
        runs = min(self._threads, count)
        each = {
            number: theta[0].new_empty((count, *shape))
            for number, (shape, total, _) in enumerate(self._shapes)
            if not total
        }
        parts = [
            [each[n] if n in each else theta[0].new_empty(prod(shape)) for n, (shape, _, _) in enumerate(self._shapes)]
            for _ in range(runs)
        ]
        where, episode, prepared = _pointers(theta), _pointers(episode_leaves), self._shared.data_ptr()
        self._library.prepare(where, prepared)

        def run(number: int) -> None:
            first, last = count * number // runs, count * (number + 1) // runs
            arena, outputs = self._arenas[number].data_ptr(), _pointers(parts[number])
            self._library.run(where, episode, prepared, arena, outputs, first, last)

        if runs == 1:
            run(0)
        else:
            with ThreadPoolExecutor(runs) as pool:
                list(pool.map(run, range(runs)))
        results = []
        # In order of the runs, whichever ended first: bits depend on the number of threads alone.
        for number, (shape, total, steps) in enumerate(self._shapes):
            result = parts[0][number]
            if total:
                for part in parts[1:]:
                    result += part[number]
                result = result.as_strided(shape, steps)
            results.append(result)
        return tree_unflatten(results, self._outputs)


def _memory(size: int) -> Tensor:
    """Bytes that torch allocated, aligned to 64."""
    return torch.empty(max(size, 64), dtype=torch.uint8)


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _inputs(tensors: Sequence[Tensor], *, shared: bool) -> list[Input]:
    inputs = []
    for number, tensor in enumerate(tensors):
        if tensor.dtype not in KINDS:
            raise Unsupported(f"inputs of type {tensor.dtype}")
        inputs.append(Input(tuple(tensor.shape), KINDS[tensor.dtype], number=number, shared=shared))
    return inputs


def _record(
    function: Callable[..., Any], params: Params, episode: Episode, context: Context
) -> tuple[GraphModule, Any]:
    """Record a function of one task in operators that have a translation; the program, and its outputs' structure."""
    outputs: Any = None
    parts, names = (len(params), len(params) + len(context.numbers)), input_names(episode)

    def flat(*tensors: Tensor) -> list[Tensor]:
        nonlocal outputs
        theta = dict(zip(params, tensors[: parts[0]], strict=True))
        numbers = context.replaced(tensors[parts[0] : parts[1]])
        with Closed():
            flat_results, outputs = tree_flatten(function(theta, from_leaves(tensors[parts[1] :], names), numbers))
        return flat_results

    tensors = [*params.values(), *context.numbers.values(), *leaves(episode)]
    program = add_out_of_place(_recorded(flat, tensors))
    if changes_in_place(program):
        program = _recorded(functionalize(program), tensors)
    require_repeatable(program)
    return merge_sums(simplify(program)), outputs


def _recorded(function: Callable[..., list[Tensor]], tensors: list[Tensor]) -> GraphModule:
    # Fake tensors have shapes and no numbers: recording computes nothing and takes no memory for results.
    recorder = make_fx(
        function, decomposition_table=_decompositions(), tracing_mode="fake", _allow_non_fake_inputs=True
    )
    with RECORDER:
        program: GraphModule = recorder(*tensors)
    return program


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """How operators without a translation are put together from others. To collect them takes torch some time."""
    table = dict(core_aten_decompositions())
    for operator in PUT_TOGETHER:
        table[operator] = decomposition_table[operator]
    # Whose derivatives are again one operation each.
    del table[aten.embedding_dense_backward.default], table[aten.select_backward.default]
    return table

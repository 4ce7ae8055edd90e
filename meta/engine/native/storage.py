"""Storage of a program: which values are stored, in which order of dimensions, and where kernels find operands.

An expression is stored when several loops need it and reading it back is cheaper than computing it again, when it would
otherwise be computed again for every element it is broadcast to, or when a kernel wants it in memory.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from meta.engine.native.ir import (
    Choice,
    Constant,
    Copy,
    Index,
    Input,
    Joined,
    Kernel,
    Map,
    Order,
    Reduction,
    Shape,
    Twin,
    Value,
    View,
    contiguous,
    offset,
    strides,
)

CHEAP, LONG = 6, 48  # operations of an expression: repeated without a thought; too many to write into another


class Operand(NamedTuple):
    """Where a kernel finds an operand: a stored value, the place of the first element, a stride for each dimension."""

    value: Value
    first: int
    strides: tuple[int, ...]


class Storage:
    """The decisions for the values that some outputs are made of.

    Attributes:
        stored: the values that have a place in memory.
        orders: for each of them, its dimensions from the slowest to the fastest.
        operands: for each kernel, where it finds what it reads.
    """

    def __init__(self, outputs: Sequence[Value]) -> None:
        """Decide."""
        self.stored: set[Value] = set()
        self.orders: dict[Value, Order] = {}
        self.operands: dict[Kernel, list[Operand]] = {}
        self._outputs = outputs
        self._strides: dict[Value, tuple[int, ...] | None] = {}
        values = in_order(outputs)
        self._choose_stored(values)
        self._settle_operands([value for value in values if isinstance(value, Kernel)])

    def values(self) -> list[Value]:
        """The values left to compute, copies for kernels included, in the order of the recorded program."""
        return in_order(self._outputs, self.operands)

    def _choose_stored(self, values: Sequence[Value]) -> None:
        readers: dict[Value, set[Value]] = defaultdict(set)
        broadcast: set[Value] = set()
        for value in values:
            if isinstance(value, View):
                continue
            for source in value.sources:
                base, wide = _through_views(source)
                readers[base].add(value)
                if wide:
                    broadcast.add(base)
        for value in values:
            if isinstance(value, Input | Kernel | Twin | Reduction | Copy | Joined) or (
                isinstance(value, Map | Choice) and self._worth_storing(value, readers[value], value in broadcast)
            ):
                self.stored.add(value)
        for value in values:
            if value in self.stored:
                self.orders[value] = self._natural_order(value)

    def _worth_storing(self, value: Value, readers: set[Value], broadcast: bool) -> bool:
        operations, heavy, loads = self._expression(value)
        dear = heavy or len(loads) > 1 or operations > CHEAP
        kernels = [reader for reader in readers if isinstance(reader, Kernel)]
        if kernels:
            # A kernel reads a copy of what the others write out for themselves: it need not last as long as they.
            return dear or len(kernels) == len(readers)
        if operations == 0:
            return False
        return broadcast or operations > LONG or (len(readers) > 1 and dear)

    def _expression(self, value: Value) -> tuple[int, bool, set[Value]]:
        """Operations, whether one is heavy, and the large tensors read, of an expression written out in full."""
        operations, heavy, loads = 0, False, set()
        if isinstance(value, Map):
            operations, heavy = 1, value.heavy
        elif isinstance(value, Choice):
            operations = 1
        for source in value.sources:
            base, _ = _through_views(source)
            if base in self.stored:
                # A small tensor that is read over and over stays in the first-level cache and costs no load.
                if 2 * base.numel >= value.numel:
                    loads.add(base)
            elif isinstance(base, Map | Choice):
                more, base_heavy, base_loads = self._expression(base)
                operations, heavy = operations + more, heavy or base_heavy
                loads |= base_loads
        return operations, heavy, loads

    # -- how it lies -----------------------------------------------------------------------------------------------

    def _natural_order(self, value: Value) -> Order:
        if isinstance(value, Copy | Kernel | Twin):
            return value.order
        if isinstance(value, Input):
            return contiguous(len(value.shape))
        if isinstance(value, Reduction):
            return self.order_of(value.source)
        if isinstance(value, Joined):
            return self.order_of(value.parts[0])
        return self.order_of(value)

    def order_of(self, value: Value) -> Order:
        """The order of dimensions in which an expression's elements are best visited: as they lie in memory."""
        steps = self._steps(value) or strides(value.shape, contiguous(len(value.shape)))
        steps = tuple(map(abs, steps))  # reversed dimensions lie like others
        large = 1 + max(steps, default=0)
        key = [step if step or size == 1 else large for step, size in zip(steps, value.shape, strict=True)]
        # Dimensions of size one come first among equals, so that they do not part those that run on.
        return tuple(sorted(range(len(steps)), key=lambda dim: (value.shape[dim] != 1, -key[dim], dim)))

    def _steps(self, value: Value) -> tuple[int, ...] | None:
        """Strides of a value as it lies, or would lie, in memory; None for constants."""
        if value not in self._strides:
            self._strides[value] = self._found_steps(value)
        return self._strides[value]

    def _found_steps(self, value: Value) -> tuple[int, ...] | None:
        if value in self.orders:
            return strides(value.shape, self.orders[value])
        if isinstance(value, View):
            inner = self._steps(value.source)
            return None if inner is None else _view_steps(value, inner)[1]
        if isinstance(value, Copy | Kernel | Twin | Input | Joined):
            return strides(value.shape, self._natural_order(value))
        if isinstance(value, Constant):
            return None
        candidates = [steps for source in value.sources if (steps := self._steps(source)) is not None]
        candidates = [steps for steps in candidates if len(steps) == len(value.shape)]
        return max(candidates, key=lambda steps: sum(step != 0 for step in steps), default=None)

    def _settle_operands(self, kernels: Sequence[Kernel]) -> None:
        """Find each operand of each kernel where the kernel can read it, in a copy where need be."""
        asked: dict[Value, Order] = {}
        for kernel in kernels:
            for value, order in zip(kernel.args, kernel.orders, strict=True):
                if isinstance(value, Map | Choice) and order is not None:
                    asked.setdefault(value, order)
        # An expression lies as the first kernel asks, others read a copy; whatever follows its strides is found anew.
        self.orders |= asked
        self._strides.clear()
        copies: dict[tuple[Value, Order], Copy] = {}
        for kernel in kernels:
            self.operands[kernel] = [
                self._readable(kernel, value, order, copies)
                for value, order in zip(kernel.args, kernel.orders, strict=True)
            ]

    def _readable(
        self, kernel: Kernel, value: Value, order: Order | None, copies: dict[tuple[Value, Order], Copy]
    ) -> Operand:
        """An operand as it lies, or a copy of it in the order that the kernel asks for."""
        operand = self._operand(value)
        if operand is not None and _suits(operand, value.shape, order):
            return operand
        layout = order if order is not None else contiguous(len(value.shape))
        if (value, layout) not in copies:
            # It comes right before the first kernel that reads it.
            copy = Copy(
                value.shape, value.kind, source=value, order=layout, shared=value.shared, serial=kernel.serial - 0.5
            )
            copies[value, layout] = copy
            self.stored.add(copy)
            self.orders[copy] = layout
        return Operand(copies[value, layout], 0, strides(value.shape, layout))

    def _operand(self, value: Value) -> Operand | None:
        """A value as part of a stored one, or None if it is not."""
        if value in self.stored:
            return Operand(value, 0, strides(value.shape, self.orders[value]))
        if isinstance(value, View):
            inner = self._operand(value.source)
            if inner is not None:
                first, steps = _view_steps(value, inner.strides)
                return Operand(inner.value, inner.first + first, steps)
        return None


def in_order(outputs: Sequence[Value], operands: dict[Kernel, list[Operand]] | None = None) -> list[Value]:
    """All values that the outputs are made of, in the order of the recorded program."""
    reached: set[Value] = set()
    stack = list(outputs)
    while stack:
        value = stack.pop()
        if value in reached:
            continue
        reached.add(value)
        if isinstance(value, Kernel) and operands is not None:
            stack += [operand.value for operand in operands[value]]
        else:
            stack += value.sources
        if isinstance(value, Kernel) and value.twin is not None:
            stack.append(value.twin)
    return sorted(reached, key=lambda value: value.serial)


def _through_views(value: Value) -> tuple[Value, bool]:
    """The sources of views, and whether they repeat its elements."""
    size = value.numel
    while isinstance(value, View):
        value = value.source
    return value, size > value.numel


def _view_steps(view: View, inner: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """First place and strides of a view of something with strides ``inner``."""
    names = [f"i{dim}" for dim in range(len(view.shape))]
    place = offset(view.at(tuple(Index.of(name) for name in names)), inner)
    factors = dict(place.terms)
    return place.const, tuple(
        factors.get(name, 0) if size != 1 else 0 for name, size in zip(names, view.shape, strict=True)
    )


def _suits(operand: Operand, shape: Shape, order: Order | None) -> bool:
    """Whether a kernel can read an operand as it lies."""
    pairs = zip(operand.strides, shape, strict=True)
    if order is None:
        return all(step > 0 or size == 1 for step, size in pairs)
    contiguous_steps = strides(shape, order)
    return operand.first == 0 and all(
        step == right or size == 1 for (step, size), right in zip(pairs, contiguous_steps, strict=True)
    )

"""In which order a program is computed, and where everything lies in memory.

Loops over the same elements that read the same tensors become one. Every tensor gets a fixed place in one arena, shared
by tensors that are never alive together.
"""

from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from meta.engine.native.ir import (
    Choice,
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
    strides,
)
from meta.engine.native.storage import Operand, Storage

BYTES = {"long": 8, "int": 4, "bool": 1, "byte": 1}
ALIGNMENT = 64


@dataclass(eq=False)
class Output(Value):
    """A result of the program: added up over the tasks (``total``), or one for each task."""

    source: Value = None  # type: ignore[assignment]
    total: bool = False
    number: int = 0

    @property
    def sources(self) -> tuple[Value, ...]:
        """The value that is put out."""
        return (self.source,)


@dataclass(eq=False)
class Piece(Value):
    """One part of a joined value, written from ``place`` on."""

    source: Value = None  # type: ignore[assignment]
    whole: Joined = None  # type: ignore[assignment]
    place: tuple[int, ...] = ()

    @property
    def sources(self) -> tuple[Value, ...]:
        """The part."""
        return (self.source,)


@dataclass(eq=False)
class Group:
    """Roots computed in one nest of loops over ``shape`` in ``order``, or one call of a kernel."""

    shape: Shape
    order: Order
    roots: list[Value]
    shared: bool
    loads: set[Value] = field(default_factory=set)

    @property
    def kernel(self) -> Kernel | None:
        """The kernel that is called, if it is a call."""
        return self.roots[0] if isinstance(self.roots[0], Kernel) else None


class Plan:
    """The program in groups, with the place of everything that is stored.

    Attributes:
        outputs: what is computed.
        groups: loops and calls, in order.
        local: expressions that only their own loops read: they need no place.
        places: for everything else that is stored, the first byte in the arena, or in the part that all tasks share.
        shared_bytes: size of that part.
        arena_bytes: size of the arena.
    """

    def __init__(self, outputs: Sequence[Output], real_bytes: int) -> None:
        """Decide on everything."""
        self.outputs = outputs
        self._real_bytes = real_bytes
        self._storage = Storage(outputs)
        roots = [v for v in self._storage.values() if v in self.stored or isinstance(v, Output)]
        self.groups = self._grouped(roots)
        self.local = self._unread()
        self.places: dict[Value, int] = {}
        self.shared_bytes = self._place([group for group in self.groups if group.shared], reuse=False)
        self.arena_bytes = self._place([group for group in self.groups if not group.shared], reuse=True)

    @property
    def stored(self) -> set[Value]:
        """The values that have a place in memory."""
        return self._storage.stored

    @property
    def orders(self) -> dict[Value, Order]:
        """For each of them, its dimensions from the slowest to the fastest."""
        return self._storage.orders

    @property
    def operands(self) -> dict[Kernel, list[Operand]]:
        """For each kernel, where it finds what it reads."""
        return self._storage.operands

    def output_strides(self, output: Output) -> tuple[int, ...]:
        """Strides of a total as the program leaves it."""
        return strides(
            output.shape, self._storage.order_of(output.source) if output.total else contiguous(len(output.shape))
        )

    def _grouped(self, roots: Sequence[Value]) -> list[Group]:
        groups: list[Group] = []
        where: dict[Value, int] = {}
        for root in roots:
            if isinstance(root, Input):
                continue
            if isinstance(root, Joined):
                where[root] = max(self._enter(piece, groups, where) for piece in _pieces(root))
                continue
            if isinstance(root, Twin):
                where[root] = where[root.first]
                groups[where[root]].roots.append(root)
                continue
            where[root] = self._enter(root, groups, where)
        return groups

    def _enter(self, root: Value, groups: list[Group], where: dict[Value, int]) -> int:
        """Add a root to the group that it fits into, or to a new one; the group's number."""
        shape, order = self._domain(root)
        leaves = set(self._leaves(root))
        position = self._fitting(root, groups, self._earliest(leaves, where, (shape, order)))
        if position is None:
            position = len(groups)
            groups.append(Group(shape, order, [], root.shared))
        groups[position].roots.append(root)
        groups[position].loads |= {leaf for leaf, _ in leaves}
        return position

    def _earliest(self, leaves: set[tuple[Value, bool]], where: dict[Value, int], domain: tuple[Shape, Order]) -> int:
        """The first group by which all leaves are there; an expression may join the group that computes them."""
        earliest = 0
        # A sum is whole after its loops, a kernel's result after its call: who reads them comes in a later group.
        for leaf, same in leaves:
            if leaf in where:
                joins = same and isinstance(leaf, Map | Choice) and self._domain(leaf) == domain
                earliest = max(earliest, where[leaf] + (0 if joins else 1))
        return earliest

    def _fitting(self, root: Value, groups: Sequence[Group], earliest: int) -> int | None:
        """The last group from ``earliest`` on with the root's loops that has a tensor of the root's in hand."""
        if isinstance(root, Kernel):
            return None
        # α and the like are read everywhere: to have one of them in hand is no reason to share loops.
        read = {leaf for leaf, _ in self._leaves(root) if not (isinstance(leaf, Input) and leaf.numel == 1)}
        domain = (*self._domain(root), root.shared)
        for position in range(len(groups) - 1, earliest - 1, -1):
            group = groups[position]
            same = group.kernel is None and (group.shape, group.order, group.shared) == domain
            if same and (group.loads | set(group.roots)) & read:
                return position
        return None

    def _domain(self, root: Value) -> tuple[Shape, Order]:
        """The elements that the root's loops run over, and their order."""
        if isinstance(root, Reduction):
            return root.source.shape, self._storage.order_of(root.source)
        if isinstance(root, Piece):
            return root.shape, self.orders[root.whole]
        if isinstance(root, Output):
            return root.shape, self._storage.order_of(root.source) if root.total else contiguous(len(root.shape))
        return root.shape, self.orders[root]

    def _leaves(self, root: Value) -> Iterator[tuple[Value, bool]]:
        """Stored values that a root reads, and whether at the very element that the loop is at."""
        if isinstance(root, Kernel):
            for operand in self.operands[root]:
                yield operand.value, False
            return
        stack = [(source, not isinstance(root, Choice)) for source in root.sources]
        while stack:
            value, same = stack.pop()
            if value in self.stored:
                yield value, same
            else:
                same = same and not isinstance(value, View | Choice)
                stack += [(source, same) for source in value.sources]

    def _unread(self) -> set[Value]:
        """Expressions that only their own loops read need no place in memory."""
        read: dict[Value, set[int]] = defaultdict(set)
        apart: set[Value] = set()
        for number, group in enumerate(self.groups):
            for root in group.roots:
                if isinstance(root, Twin):
                    continue
                for leaf, same in self._leaves(root):
                    read[leaf].add(number)
                    if not same:
                        apart.add(leaf)
        return {
            root
            for number, group in enumerate(self.groups)
            for root in group.roots
            if isinstance(root, Map | Choice) and root not in apart and read[root] <= {number}
        }

    def size(self, value: Value) -> int:
        """Bytes of a stored value, rounded up."""
        size = value.numel * BYTES.get(value.kind, self._real_bytes)
        return -(-size // ALIGNMENT) * ALIGNMENT

    def _place(self, groups: Sequence[Group], *, reuse: bool) -> int:
        """Find places for what the groups compute, large ones first, each the lowest that is free while it is alive."""
        spans = self._lifetimes(groups) if reuse else dict.fromkeys(self._computed(groups), (0, len(groups)))
        placed: list[tuple[int, int, int, int]] = []  # first and last byte, first and last group; in order of bytes
        total = 0
        # Both ends of a span count: the loops of a group read and write in turns, so a result must not lie where an
        # operand is read for the last time. That is also why the pointers of generated loops may be `__restrict`.
        for value in sorted(spans, key=lambda value: (-self.size(value), spans[value][0])):
            first, last = spans[value]
            size, at = self.size(value), 0
            for begin, end, other_first, other_last in placed:
                if other_first <= last and first <= other_last:
                    if at + size <= begin:
                        break
                    at = max(at, end)
            self.places[value] = at
            insort(placed, (at, at + size, first, last))
            total = max(total, at + size)
        return total

    def _computed(self, groups: Sequence[Group]) -> list[Value]:
        roots = (root.whole if isinstance(root, Piece) else root for group in groups for root in group.roots)
        return [root for root in roots if not isinstance(root, Output) and root not in self.local]

    def _lifetimes(self, groups: Sequence[Group]) -> dict[Value, tuple[int, int]]:
        """The numbers of the groups that compute a value and read it last."""
        spans: dict[Value, tuple[int, int]] = {}
        for number, group in enumerate(groups):
            for root in self._computed([group]):
                spans[root] = (spans.get(root, (number,))[0], number)
        for number, group in enumerate(groups):
            for root in group.roots:
                for leaf, _ in () if isinstance(root, Twin) else self._leaves(root):
                    if leaf in spans:
                        spans[leaf] = (spans[leaf][0], number)
        return spans


def _pieces(whole: Joined) -> Iterator[Piece]:
    """The parts of a joined value with their places."""
    first = 0
    for part in whole.parts:
        place = tuple(first if dim == whole.dim else 0 for dim in range(len(whole.shape)))
        yield Piece(part.shape, part.kind, source=part, whole=whole, place=place, shared=whole.shared)
        first += part.shape[whole.dim]

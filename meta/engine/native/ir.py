"""The intermediate form between a recorded program and C++: values, and how an element of one is indexed.

A value is either stored in a buffer (inputs, results of contractions, whatever else the scheduler decides to store) or
an expression that is written out where it is used. Views (transposed, expanded, reshaped tensors) are never stored:
they only rewrite the indices at which their source is read.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import Any, NamedTuple

Shape = tuple[int, ...]
Order = tuple[int, ...]  # dimensions from the slowest to the fastest in memory


class Unsupported(Exception):  # noqa: N818 - not a fault: another strategy runs the program
    """A program holds what cannot be translated; the message says what."""


class Index(NamedTuple):
    """An index as a sum of integer multiples of named terms (loop variables, integers read from memory)."""

    terms: tuple[tuple[str, int], ...] = ()
    const: int = 0

    @classmethod
    def of(cls, term: str) -> "Index":
        """One term, once."""
        return cls(((term, 1),))

    def plus(self, other: "Index") -> "Index":
        """The sum."""
        factors = dict(self.terms)
        for term, factor in other.terms:
            factors[term] = factors.get(term, 0) + factor
        return Index(tuple(sorted((t, f) for t, f in factors.items() if f)), self.const + other.const)

    def times(self, factor: int) -> "Index":
        """The product with an integer."""
        return Index(tuple((t, f * factor) for t, f in self.terms) if factor else (), self.const * factor)

    def __str__(self) -> str:
        """As C++."""
        parts = [term if factor == 1 else f"{term} * {factor}" for term, factor in self.terms]
        return " + ".join(parts + [str(self.const)] * (self.const != 0 or not parts))


Indices = tuple[Index, ...]
ZERO = Index()
_serials = count()


@dataclass(eq=False)
class Value:
    """A tensor of the program.

    Attributes:
        shape: its shape.
        kind: ``real``, ``long``, ``int``, ``bool`` or ``byte``.
        shared: whether it depends on θ alone, so that it is computed once for all tasks.
        serial: grows from value to value, so that the order of the recorded program is kept.
    """

    shape: Shape
    kind: str = "real"
    shared: bool = field(default=True, kw_only=True)
    serial: float = field(default_factory=lambda: next(_serials), kw_only=True)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def sources(self) -> tuple["Value", ...]:
        """The values it is made of."""
        return ()


@dataclass(eq=False)
class Input(Value):
    """Tensor number ``number`` of θ (``shared``) or of the episode, contiguous as torch lays it out."""

    number: int = 0


@dataclass(eq=False)
class Constant(Value):
    """One number everywhere."""

    number: float | int | bool = 0


@dataclass(eq=False)
class View(Value):
    """A source read at other indices; ``dims`` if it has the source's dimensions in another order."""

    source: Value = None  # type: ignore[assignment]
    at: Callable[[Indices], Indices] = lambda indices: indices
    dims: tuple[int, ...] | None = None

    @property
    def sources(self) -> tuple[Value, ...]:
        """The source."""
        return (self.source,)


@dataclass(eq=False)
class Map(Value):
    """An elementwise expression of sources of the same shape; ``template`` has their places."""

    template: str = ""
    args: tuple[Value, ...] = ()
    heavy: bool = False

    @property
    def sources(self) -> tuple[Value, ...]:
        """The arguments."""
        return self.args


@dataclass(eq=False)
class Choice(Value):
    """Elements of one source or another, by where they are: ``condition`` of the indices, then both index maps.

    ``index`` is a value read for the condition or for the index map, given to them as a term. ``span`` is a dimension
    and its first and last place plus one, if ``one`` replaces that slice of ``other``.
    """

    one: Value = None  # type: ignore[assignment]
    other: Value | None = None
    index: Value | None = None
    index_at: Callable[[Indices], Indices] = lambda indices: indices
    condition: Callable[[Indices, Index], str] = lambda *_: "true"
    one_at: Callable[[Indices, Index], Indices] = lambda indices, _: indices
    other_at: Callable[[Indices], Indices] = lambda indices: indices
    span: tuple[int, int, int] | None = None

    @property
    def sources(self) -> tuple[Value, ...]:
        """Both sources and the index."""
        return tuple(value for value in (self.one, self.other, self.index) if value is not None)


@dataclass(eq=False)
class Copy(Value):
    """A source stored in a given order of dimensions."""

    source: Value = None  # type: ignore[assignment]
    order: Order = ()

    @property
    def sources(self) -> tuple[Value, ...]:
        """The source."""
        return (self.source,)


@dataclass(eq=False)
class Joined(Value):
    """Parts one after the other along a dimension, stored, each written by loops of its own."""

    parts: tuple[Value, ...] = ()
    dim: int = 0

    @property
    def sources(self) -> tuple[Value, ...]:
        """The parts."""
        return self.parts


@dataclass(eq=False)
class Reduction(Value):
    """Sum or maximum of the source over some dimensions, which stay as dimensions of size one."""

    source: Value = None  # type: ignore[assignment]
    over: tuple[int, ...] = ()
    what: str = "sum"

    @property
    def sources(self) -> tuple[Value, ...]:
        """The source."""
        return (self.source,)


@dataclass(eq=False)
class Kernel(Value):
    """A call of a kernel: a matrix product, a convolution, a pooling.

    Attributes:
        name: which.
        args: its operands.
        orders: for each operand the order of dimensions it has to lie in; None: any strides will do.
        order: that of the result.
        sizes: the kernel's numbers.
        twin: the value that the same call yields besides, if any.
    """

    name: str = ""
    args: tuple[Value, ...] = ()
    orders: tuple[Order | None, ...] = ()
    order: Order = ()
    sizes: tuple[Any, ...] = ()
    twin: "Twin | None" = None

    @property
    def sources(self) -> tuple[Value, ...]:
        """The operands."""
        return self.args


@dataclass(eq=False)
class Twin(Value):
    """The second result of a kernel."""

    first: Kernel = None  # type: ignore[assignment]
    order: Order = ()

    @property
    def sources(self) -> tuple[Value, ...]:
        """The kernel."""
        return (self.first,)


def contiguous(rank: int) -> Order:
    """Row-major order."""
    return tuple(range(rank))


def strides(shape: Shape, order: Order) -> tuple[int, ...]:
    """Strides of a dense tensor whose dimensions lie in ``order``.

    >>> strides((2, 3, 4, 5), (0, 2, 3, 1))
    (60, 1, 15, 3)
    """
    result, step = [0] * len(shape), 1
    for dim in reversed(order):
        result[dim] = step
        step *= shape[dim]
    return tuple(result)


def offset(indices: Iterable[Index], steps: Iterable[int]) -> Index:
    """The place of an element in memory."""
    place = ZERO
    for index, step in zip(indices, steps, strict=True):
        place = place.plus(index.times(step))
    return place

"""One nest of loops as a C++ function: expressions, stores, and sums in parts."""

import math
from collections.abc import Callable

from meta.engine.native.ir import (
    ZERO,
    Choice,
    Constant,
    Copy,
    Index,
    Indices,
    Map,
    Reduction,
    Value,
    View,
    offset,
    strides,
)
from meta.engine.native.schedule import Group, Output, Piece, Plan

TYPES = {"real": "real", "long": "int64_t", "int": "int32_t", "bool": "uint8_t", "byte": "uint8_t"}
UNROLLED = 16  # turns of a loop that g++ may unroll whole (its parameter max-completely-peel-times)
# Sums of more terms than this are added up in parts, whose rounding errors do not grow with the whole.
PART = 32
Expression = Callable[[Value, Indices], str]


class Loops:
    """One function with one nest of loops and all that is computed in it."""

    def __init__(self, plan: Plan, group: Group) -> None:
        """Write a group's loops.

        Stored values are parameters of the function, called by their number, with constant parts of indices in the
        argument. So the steps of an unrolled loop, which differ in where they read, share one function.
        """
        self._plan = plan
        self._group = group
        self.pointers: list[tuple[Value, int]] = []
        self._lines: list[str] = []
        self._memo: dict[tuple[Value, Indices], str] = {}
        self._shape = group.shape
        self._order = tuple(dim for dim in group.order if group.shape[dim] != 1)
        self._here = tuple(Index.of(f"i{dim}") if size != 1 else ZERO for dim, size in enumerate(group.shape))
        self._own = set(group.roots)
        self._scalars: list[tuple[str, str]] = []
        self._before: dict[int, list[str]] = {}
        self._after: dict[int, list[str]] = {}

    def function(self, name: str) -> str:
        """The C++ of it."""
        for root in self._group.roots:
            self._root(root)
        depth = len(self._order)
        lines = [*self._before.get(0, [])]
        for level, dim in enumerate(self._order):
            indent = "  " * (level + 1)
            if level > 0:
                lines += [f"{indent}{line}" for line in self._before.get(level, [])]
            if level == depth - 1:
                lines += [f"{indent}{pragma}" for pragma in self._pragmas()]
            lines.append(f"{indent}for (long i{dim} = 0; i{dim} < {self._shape[dim]}; ++i{dim}) {{")
        lines += ["  " * (depth + 1) + line for line in self._lines]
        for level in reversed(range(depth)):
            indent = "  " * (level + 1)
            lines.append(f"{indent}}}")
            lines += [f"{indent}{line}" for line in self._after.get(level, [])]
        written = self._own | {root.whole for root in self._group.roots if isinstance(root, Piece)}
        parameters = ", ".join(
            f"{'' if value in written else 'const '}{TYPES[value.kind]}* __restrict p{number}"
            for number, (value, _) in enumerate(self.pointers)
        )
        return "\n".join([f"{self._attributes()} static void {name}({parameters}) {{", *lines, "}"])

    @property
    def _small(self) -> bool:
        """Whether the innermost loop may be unrolled whole.

        That would leave the loop around it to the vectoriser, and g++ 12 gives wrong sums where such a loop adds to the
        same element several times in a turn: then nothing is vectorised. Nor may such a function ask for it by a
        pragma, whose arrays g++ 12 does not align where the function's options are its own.
        """
        return not self._order or self._shape[self._order[-1]] <= UNROLLED

    def _attributes(self) -> str:
        return "SCALAR" if self._small else "__attribute__((noinline))"

    def _pragmas(self) -> list[str]:
        """Tell that turns of the innermost loop meet in nothing but sums kept in scalars."""
        if self._small or any(what != "sum" for _, what in self._scalars):
            return []
        names = ", ".join(name for name, _ in self._scalars)
        return [f"#pragma omp simd reduction(+ : {names})" if names else "#pragma omp simd"]

    # -- roots -----------------------------------------------------------------------------------------------------

    def _root(self, root: Value) -> None:
        if isinstance(root, Reduction):
            self._reduce(root)
        elif isinstance(root, Output):
            at = offset(self._here, strides(root.shape, self._group.order))
            what = self._value(root.source, self._here)
            self._lines.append(f"{self._pointer(root)}[{at}] {'+=' if root.total else '='} {what};")
        elif isinstance(root, Piece):
            place = tuple(index.plus(Index((), first)) for index, first in zip(self._here, root.place, strict=True))
            what = self._value(root.source, self._here)
            self._lines.append(f"{self._element(root.whole, place)} = {what};")
        elif isinstance(root, Copy):
            self._store(root, self._value(root.source, self._here))
        else:
            name = self._value(root, self._here)
            if root not in self._plan.local:
                self._store(root, name)

    def _store(self, root: Value, what: str) -> None:
        at = offset(self._here, strides(root.shape, self._plan.orders[root]))
        self._lines.append(f"{self._pointer(root)}[{at}] = {what};")

    def _reduce(self, root: Reduction) -> None:
        """Add up into small sums inside the outer loops, and those into the result.

        A sum has a level for each reduced loop from the inside out at which it has grown over PART terms.
        """
        what = self._value(root.source, self._here)
        target = f"{self._pointer(root)}[{self._kept(root, 0)[1]}]"
        start = "real(0)" if root.what == "sum" else "-std::numeric_limits<real>::infinity()"
        self._before.setdefault(0, []).append(
            f"for (long k = 0; k < {root.numel}; ++k) {self._pointer(root)}[k] = {start};"
        )
        reduced = [level for level, dim in enumerate(self._order) if dim in root.over]
        levels, count = [], 1
        innermost = len(self._order) - 1
        # The outermost reduced loop needs no partial sum: it adds into the result.
        for level in reversed(reduced[1:] if reduced and reduced[0] != innermost else reduced):
            count *= self._shape[self._order[level]]
            if count >= PART or level == innermost:
                levels.append(level)
                count = 1
        inner = what
        for number, level in enumerate(levels):
            name = f"s{len(self._memo)}_{len(self._lines)}_{number}_{len(self._scalars)}"
            size, at = self._kept(root, level)
            if level == innermost:
                declared, place = f"real {name} = {start};", name
                self._scalars.append((name, root.what))
            else:
                fill = f"for (auto& one : {name}) one = {start};" if root.what != "sum" else ""
                declared = f"alignas(64) real {name}[{size}]{' = {}' if root.what == 'sum' else ''}; {fill}"
                place = f"{name}[{at}]"
            self._before.setdefault(level, []).append(declared)
            if number == 0:
                self._lines.append(self._combine(root, place, inner))
            else:
                self._after.setdefault(levels[number - 1], []).append(
                    self._over_kept(root, levels[number - 1], self._combine(root, place, inner))
                )
            inner = place
        if levels:
            self._after.setdefault(levels[-1], []).append(
                self._over_kept(root, levels[-1], self._combine(root, target, inner))
            )
        else:
            self._lines.append(self._combine(root, target, inner))

    def _combine(self, root: Reduction, place: str, what: str) -> str:
        return f"{place} += {what};" if root.what == "sum" else f"{place} = maximum<real>({place}, {what});"

    def _kept(self, root: Reduction, level: int) -> tuple[int, Index]:
        """Size and place of a partial result that holds the kept dimensions of the loops from ``level`` on."""
        dims = [dim for dim in self._order[level:] if dim not in root.over]
        size, at = 1, ZERO
        if level == 0:
            return root.numel, offset(self._here_kept(root), strides(root.shape, self._plan.orders[root]))
        for dim in reversed(dims):
            at = at.plus(self._here[dim].times(size))
            size *= self._shape[dim]
        return size, at

    def _here_kept(self, root: Reduction) -> Indices:
        return tuple(ZERO if dim in root.over else index for dim, index in enumerate(self._here))

    def _over_kept(self, root: Reduction, level: int, statement: str) -> str:
        """A statement for each element of the partial result of a level."""
        for dim in reversed([dim for dim in self._order[level:] if dim not in root.over]):
            statement = f"for (long i{dim} = 0; i{dim} < {self._shape[dim]}; ++i{dim}) {statement}"
        return statement

    # -- expressions -----------------------------------------------------------------------------------------------

    def _pointer(self, value: Value, first: int = 0) -> str:
        if (value, first) not in self.pointers:
            self.pointers.append((value, first))
        return f"p{self.pointers.index((value, first))}"

    def _element(self, value: Value, indices: Indices) -> str:
        """An element of a stored value, as it lies in memory."""
        place = offset(indices, strides(value.shape, self._plan.orders[value]))
        return f"{self._pointer(value, place.const)}[{Index(place.terms)}]"

    def _value(self, value: Value, indices: Indices) -> str:
        """The name of a variable that holds an element."""
        key = (value, indices)
        if key not in self._memo:
            expression = self._expression(value, indices, self._value)
            if isinstance(value, Constant | View):
                return expression
            name = f"t{len(self._memo)}"
            kind = "bool" if value.kind == "bool" else TYPES[value.kind]
            self._lines.append(f"const {kind} {name} = {expression};")
            self._memo[key] = name
        return self._memo[key]

    def _inline(self, value: Value, indices: Indices) -> str:
        """An element as one expression, for places where it may not be computed before a condition is known."""
        return self._expression(value, indices, self._inline)

    def _expression(self, value: Value, indices: Indices, one: Expression) -> str:
        if isinstance(value, Constant):
            return _literal(value)
        if isinstance(value, View):
            return one(value.source, value.at(indices))
        if value in self._plan.stored and not (value in self._own and isinstance(value, Map | Choice)):
            return self._element(value, indices)
        if isinstance(value, Map):
            return value.template.format(*(one(arg, indices) for arg in value.args))
        assert isinstance(value, Choice)
        return self._choice(value, indices, one)

    def _choice(self, value: Choice, indices: Indices, one: Expression) -> str:
        place = ZERO
        if value.index is not None:
            term = one(value.index, value.index_at(indices))
            place = Index.of(term if term.isidentifier() else f"long({term})")
        if value.other is None:
            return one(value.one, value.one_at(indices, place))
        condition = value.condition(indices, place)
        yes = self._inline(value.one, value.one_at(indices, place))
        no = self._inline(value.other, value.other_at(indices))
        return f"({condition} ? {yes} : {no})"


def _literal(value: Constant) -> str:
    number = value.number
    if value.kind == "bool":
        return "true" if number else "false"
    if value.kind != "real":
        return f"int64_t({int(number)})"
    number = float(number)
    if math.isnan(number):
        return "std::numeric_limits<real>::quiet_NaN()"
    if math.isinf(number):
        return f"({'-' if number < 0 else ''}std::numeric_limits<real>::infinity())"
    return f"real({number!r})"

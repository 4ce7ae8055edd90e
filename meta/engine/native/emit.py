"""A plan as C++: one function for each nest of loops, and one that computes a task."""

from collections.abc import Sequence

from meta.engine.native.ir import Input, Value
from meta.engine.native.loops import TYPES, Loops
from meta.engine.native.schedule import Group, Output, Plan

CONVOLUTIONS = ("forward", "data", "weight")


def source(plan: Plan, inputs: Sequence[Input], real: str) -> str:
    """The whole of a program's C++, without the kernels.

    Args:
        plan: the program.
        inputs: θ and the episode's tensors.
        real: ``float`` or ``double``.
    """
    return _Source(plan, inputs, real).text()


class _Source:
    def __init__(self, plan: Plan, inputs: Sequence[Input], real: str) -> None:
        self._plan = plan
        self._inputs = inputs
        self._real = real
        self.scratch: list[str] = ["0"]

    def text(self) -> str:
        names: dict[str, str] = {}  # of functions, by what they do
        calls: dict[bool, list[str]] = {True: [], False: []}
        for group in self._plan.groups:
            if group.kernel is not None:
                calls[group.shared].append(self._call(group))
            else:
                loops = Loops(self._plan, group)
                name = names.setdefault(loops.function("NAME"), f"loops{len(names)}")
                places = (f"({self.pointer(value)}) + {first}" for value, first in loops.pointers)
                calls[group.shared].append(f"{name}({', '.join(places)});")
        functions = [text.replace("NAME", name, 1) for text, name in names.items()]
        return "\n".join([*self._head(), *functions, *self._entries(calls)]) + "\n"

    def pointer(self, value: Value) -> str:
        """The C++ expression for where a stored value lies."""
        if isinstance(value, Input):
            number = self._inputs.index(value)
            if value.shared:
                return f"(const {TYPES[value.kind]}*)theta[{number}]"
            episode = number - sum(one.shared for one in self._inputs)
            return f"(const {TYPES[value.kind]}*)episode[{episode}] + task * {value.numel}"
        if isinstance(value, Output):
            at = f" + task * {value.numel}" if not value.total else ""
            return f"(real*)outputs[{value.number}]{at}"
        base = "shared" if value.shared else "arena"
        return f"({TYPES[value.kind]}*)({base} + {self._plan.places[value]})"

    def _head(self) -> list[str]:
        return [
            "#include <cmath>",
            "#include <cstdint>",
            "#include <cstring>",
            "#include <initializer_list>",
            "#include <limits>",
            f"typedef {self._real} real;",
            "using namespace metaray;",
            "#if defined(__clang__)",
            "#define SCALAR __attribute__((noinline))",
            "#else",
            '#define SCALAR __attribute__((noinline, optimize("no-tree-vectorize")))',
            "#endif",
            '#define EXPORT extern "C" __attribute__((visibility("default")))',
            "static constexpr long largest(std::initializer_list<long> sizes) {",
            "  long most = 0;",
            "  for (long size : sizes) most = size > most ? size : most;",
            "  return most;",
            "}",
        ]

    def _entries(self, calls: dict[bool, list[str]]) -> list[str]:
        plan = self._plan
        zeros = [
            f"  std::memset(outputs[{output.number}], 0, {output.numel} * sizeof(real));"
            for output in plan.outputs
            if output.total
        ]
        # Kernels are called one after another: the scratch of the largest serves all.
        return [
            f"static constexpr long SCRATCH = largest({{{', '.join(dict.fromkeys(self.scratch))}}}) * sizeof(real);",
            f"EXPORT long shared_bytes() {{ return {plan.shared_bytes} + SCRATCH; }}",
            f"EXPORT long arena_bytes() {{ return {plan.arena_bytes} + SCRATCH; }}",
            "EXPORT void prepare(const void* const* theta, char* shared) {",
            f"  real* scratch = (real*)(shared + {plan.shared_bytes});",
            "  (void)theta; (void)scratch;",
            *(f"  {call}" for call in calls[True]),
            "}",
            "EXPORT void run(const void* const* theta, const void* const* episode, char* shared, char* arena,",
            "                    void* const* outputs, long first, long last) {",
            f"  real* scratch = (real*)(arena + {plan.arena_bytes});",
            "  (void)theta; (void)episode; (void)shared; (void)scratch;",
            *zeros,
            "  for (long task = first; task < last; ++task) {",
            *(f"    {call}" for call in calls[False]),
            "  }",
            "}",
        ]

    def _call(self, group: Group) -> str:
        kernel = group.kernel
        assert kernel is not None
        operands = self._plan.operands[kernel]
        places = [f"({self.pointer(op.value)}) + {op.first}" for op in operands]
        numbers = ", ".join(str(size) for size in kernel.sizes)
        result = self.pointer(kernel)
        if kernel.name == "gemm":
            columns = kernel.sizes[1]
            steps = [*operands[0].strides, *operands[1].strides, columns, 1]
            kind = f"Gemm<real, {numbers}, {', '.join(map(str, steps))}>"
            self.scratch.append(f"{kind}::scratch_size")
            return f"{kind}::run({places[0]}, {places[1]}, {result}, scratch);"
        if kernel.name == "bmm":
            rows, columns = kernel.sizes[:2]
            (a_step, *a_steps), (b_step, *b_steps) = operands[0].strides, operands[1].strides
            kind = f"Gemm<real, {numbers}, {', '.join(map(str, [*a_steps, *b_steps]))}, {columns}, 1>"
            self.scratch.append(f"{kind}::scratch_size")
            each = f"({places[0]}) + n * {a_step}, ({places[1]}) + n * {b_step}, ({result}) + n * {rows * columns}"
            return f"for (long n = 0; n < {kernel.shape[0]}; ++n) {kind}::run({each}, scratch);"
        if kernel.name in CONVOLUTIONS:
            kind = f"Conv<real, {numbers}>"
            self.scratch.append(f"{kind}::{kernel.name}_scratch")
            return f"{kind}::{kernel.name}({places[0]}, {places[1]}, {result}, scratch);"
        if kernel.name.startswith("depthwise_"):
            kind = f"Depthwise<real, {numbers}>"
            self.scratch.append(f"{kind}::scratch_size")
            map_name = kernel.name.removeprefix("depthwise_")
            return f"{kind}::{map_name}({places[0]}, {places[1]}, {result}, scratch);"
        targets = [result] + ([self.pointer(kernel.twin)] if kernel.twin is not None else [])
        return f"{kernel.name}<real, {numbers}>({', '.join([*places, *targets])});"

"""Values of an environment that vary between tasks: ranges and choices."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from numbers import Real
from typing import Any, Protocol

import numpy as np

from tasks.environments.arguments import require_type
from tasks.family import TaskKey


class Varied(Protocol):
    """The distribution of one value that is drawn for each task."""

    @property
    def size(self) -> int:
        """Number of numbers in a value's description."""
        ...

    def draw(self, rng: np.random.Generator) -> Any:
        """Returns a value."""
        ...

    def describe(self, value: Any) -> list[float]:
        """Returns the ``size`` numbers that describe a value to an oracle."""
        ...


MOST_KINDS = 12  # combinations of choices up to which scores are shown for each


@dataclass(frozen=True)
class Range:
    """A number drawn uniformly from [low, high]."""

    low: float
    high: float
    size: int = 1

    def draw(self, rng: np.random.Generator) -> float:
        """Returns a number."""
        return float(self.low + (self.high - self.low) * rng.random())

    def describe(self, value: float) -> list[float]:
        """Returns the number itself."""
        return [value]


@dataclass(frozen=True)
class Whole:
    """A whole number drawn uniformly from low, low + 1, …, high."""

    low: int
    high: int
    size: int = 1

    def draw(self, rng: np.random.Generator) -> int:
        """Returns a whole number."""
        return int(rng.integers(self.low, self.high, endpoint=True))

    def describe(self, value: int) -> list[float]:
        """Returns the number itself."""
        return [float(value)]


@dataclass(frozen=True)
class Choice:
    """One of several values; a number describes itself, other values are described by their position, one-hot."""

    values: tuple[Any, ...]

    @property
    def size(self) -> int:
        """1 for numbers, as many as there are values otherwise."""
        return 1 if all(isinstance(value, Real) for value in self.values) else len(self.values)

    def draw(self, rng: np.random.Generator) -> Any:
        """Returns one of the values."""
        return self.values[rng.integers(len(self.values))]

    def describe(self, value: Any) -> list[float]:
        """Returns the number, or the one-hot position of the value."""
        return [float(value)] if self.size == 1 else [float(value == other) for other in self.values]


def parse(vary: Mapping[str, Any], types: Mapping[str, type] | None = None) -> dict[str, Varied]:
    """Returns the distributions of varied values by name, in alphabetical order.

    Args:
        vary: ``[low, high]`` or ``{"choice": [value, …]}`` by name, as in a configuration. Between two whole numbers
            whole
            numbers are drawn, unless the argument is known to be real.
        types: types of arguments by name, as far as they are known.

    Raises:
        ValueError: naming the value that is neither.

    >>> parse({"length": [0.5, 1.5], "map": {"choice": ["small", "large"]}})
    {'length': Range(low=0.5, high=1.5, size=1), 'map': Choice(values=('small', 'large'))}
    >>> parse({"joints": [1, 5], "mass": [1, 5]}, {"mass": float})
    {'joints': Whole(low=1, high=5, size=1), 'mass': Range(low=1.0, high=5.0, size=1)}
    """
    return {name: _parse(name, vary[name], (types or {}).get(name)) for name in sorted(vary)}


def kinds(varied: Mapping[str, Varied]) -> tuple[str, ...]:
    """Returns the kinds of task, one per combination of choices, all equally likely; none if there are too many.

    >>> kinds(parse({"length": [0.5, 1.5], "map": {"choice": ["small", "large"]}}))
    ('map=small', 'map=large')
    """
    choices = {name: one.values for name, one in varied.items() if isinstance(one, Choice)}
    if not choices or math.prod(map(len, choices.values())) > MOST_KINDS:
        return ()
    return tuple(kind(varied, dict(zip(choices, values, strict=True))) for values in product(*choices.values()))


def in_turn(varied: Mapping[str, Varied], key: TaskKey) -> dict[str, Any]:
    """Returns the task's values among choices, such that each combination comes once in K consecutive tasks.

    K is the number of combinations. Tasks n K to n K + K - 1 have them in an order drawn from seed, split and n.

    Args:
        varied: distributions by name.
        key: the task.

    >>> varied = parse({"direction": {"choice": [-1, 1]}})
    >>> sorted(in_turn(varied, TaskKey(0, "train", index))["direction"] for index in (6, 7))
    [-1, 1]
    """
    choices = {name: one.values for name, one in varied.items() if isinstance(one, Choice)}
    sizes = [len(values) for values in choices.values()]
    count = math.prod(sizes)
    block, place = divmod(key.index, count)
    order = TaskKey(key.seed, key.split, block).rng("kinds").permutation(count)
    numbers = np.unravel_index(order[place], sizes)
    return {name: choices[name][number] for name, number in zip(choices, numbers, strict=True)}


def kind(varied: Mapping[str, Varied], values: Mapping[str, Any]) -> str:
    """Returns the name of the kind of a task, such as ``map=small``.

    Args:
        varied: distributions by name.
        values: the task's values by name.
    """
    chosen = {name: values[name] for name, one in varied.items() if isinstance(one, Choice)}
    return ", ".join(f"{name}={_word(value)}" for name, value in chosen.items())


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parse(name: str, form: Any, expected: type | None) -> Varied:
    if isinstance(form, Mapping) and form.keys() == {"choice"}:
        values = form["choice"]
        if isinstance(values, list | tuple) and values:
            for value in values:
                require_type(f"vary.{name}", expected, value)
            return Choice(tuple(values))
    if isinstance(form, list | tuple) and len(form) == 2 and all(map(_finite, form)) and form[0] <= form[1]:
        if expected is not float and all(isinstance(bound, int) for bound in form):
            return Whole(*form)
        if expected is int:
            raise ValueError(
                f"vary.{name}: expected a range of whole numbers for an integer argument, received {form}; write "
                f"[{math.ceil(form[0])}, {math.floor(form[1])}]"
            )
        return Range(float(form[0]), float(form[1]))
    raise ValueError(
        f"vary.{name}: expected a range [low, high] with low ≤ high, or {{choice: [value, …]}} with at least one "
        f"value, received {form}"
    )


def _finite(number: Any) -> bool:
    return isinstance(number, Real) and not isinstance(number, bool) and math.isfinite(number)

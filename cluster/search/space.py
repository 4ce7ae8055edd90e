"""The space of a search: for each configuration key the values it may take, and one for each point of a unit cube."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from cluster.config.sections import Section

DIGITS = 4  # significant digits of a sampled number: enough for a step size, and legible
Bounds = tuple[float, float]
Choices = Annotated[tuple[Any, ...], Field(min_length=1)]


class Domain(Section):
    """The values of one key; exactly one of the fields is given.

    Attributes:
        loguniform: bounds of a positive number whose logarithm is uniform.
        uniform: bounds of a uniform number.
        randint: bounds of an integer, both of them included.
        choice: values to choose among.
        grid: values that are all tried; only with ``searcher: grid``.
    """

    loguniform: Bounds | None = None
    uniform: Bounds | None = None
    randint: tuple[int, int] | None = None
    choice: Choices | None = None
    grid: Choices | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        set_keys = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(set_keys) != 1:
            kinds = ", ".join(type(self).model_fields)
            raise ValueError(f"expected exactly one of {kinds}, received {' and '.join(set_keys) or 'none'}")
        if self.bounds is not None:
            low, high = self.bounds
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"expected two finite bounds, the lower one first, received [{low:g}, {high:g}]")
            if self.loguniform and low <= 0:
                raise ValueError(f"loguniform expects positive bounds, received [{low:g}, {high:g}]")
        return self

    @property
    def bounds(self) -> Bounds | None:
        """Lowest and highest value of a number, None for choices."""
        return self.loguniform or self.uniform or self.randint

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All values, None if they are a continuum."""
        if self.randint is not None:
            return tuple(range(self.randint[0], self.randint[1] + 1))
        return self.choice or self.grid

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values that have to be valid if all between them are to be."""
        return self.bounds or self.values or ()

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the domain's measure.

        >>> Domain(loguniform=(0.01, 1.0)).at(0.5), Domain(randint=(1, 3)).at(0.99)
        (0.1, 3)
        """
        if self.values is not None:
            return self.values[int(share * len(self.values))]
        assert self.bounds is not None
        low, high = self.bounds
        if self.loguniform:
            return self.within(math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
        return self.within(low + share * (high - low))

    def within(self, number: float) -> float:
        """A number of the domain near another: rounded, and no lower or higher than the bounds."""
        assert self.bounds is not None
        low, high = self.bounds
        if self.randint is not None:
            return round(min(max(number, low), high))
        return min(max(float(f"{number:.{DIGITS}g}"), low), high)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the domain's."""
        if self.values is not None:
            return value in self.values
        assert self.bounds is not None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.bounds[0] <= value <= self.bounds[1]


@dataclass(frozen=True)
class Space:
    """Domains by dotted key, in the order of the file."""

    domains: Mapping[str, Domain]

    def at(self, shares: Sequence[float]) -> dict[str, Any]:
        """The values at a point of the unit cube."""
        return {key: domain.at(share) for (key, domain), share in zip(self.domains.items(), shares, strict=True)}

    def grid(self) -> list[dict[str, Any]]:
        """All points of a space of finite domains, the last key varying fastest."""
        axes = [domain.values for domain in self.domains.values()]
        assert all(axes), "a continuum has no grid"
        return [dict(zip(self.domains, values, strict=True)) for values in itertools.product(*axes)]  # type: ignore[arg-type]

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a point lies in the space."""
        return all(domain.holds(values[key]) for key, domain in self.domains.items())

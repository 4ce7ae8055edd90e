"""MAML++: what keeps MAML with several inner steps from diverging."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from meta.algorithms.base import Metrics
from meta.algorithms.maml import MAML
from meta.context import FIXED, Context
from meta.episode import Episode, Examples
from meta.inner import FirstOrder, matches
from meta.params import Params

ROWS = "step/"  # begins the names, in θ, of parameters with a row for each inner step


@dataclass(frozen=True, kw_only=True)
class MAMLPlusPlus(MAML):
    """MAML++ (Antoniou, Edwards, Storkey 2019), each part by a key of its own.

    The learned step sizes of each layer and step are ``inner.rule: {name: learned_sgd, per: step}``, the cosine
    schedule is one of the outer optimizer.

    Attributes:
        multi_step: outer steps over which the multi-step loss Σ_j w_j L(θ'_j; query) is annealed (section 4, «MSL»).
            The weights w_j start at 1/J each; all but the last fall to 0. From then on it is the loss of MAML.
        first_order: outer steps that are taken with the first-order derivative, before exact ones («DA»).
        per_step: patterns of parameters that have values of their own before each inner step, and after the last
            («BNWB», ``*.offset`` of a batch norm). The inner loop does not move them.
    """

    multi_step: int = 0
    first_order: int = 0
    per_step: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the keys.

        Raises:
            ValueError: if a number is negative.
        """
        for name in ("multi_step", "first_order"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a number of outer steps, 0 or more, received {getattr(self, name)}")
        if self.per_step:
            still = (*self.inner.adapt, *("!" + pattern for pattern in self.per_step))
            object.__setattr__(self, "inner", replace(self.inner, adapt=still))

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns θ: parameters that fit ``per_step`` as J + 1 equal rows.

        Raises:
            ValueError: if a pattern fits no parameter.
        """
        params = super().init(generator, dtype)
        for pattern in self.per_step:
            if not any(matches(name, [pattern]) for name in params):
                raise ValueError(
                    f"algorithm.per_step: expected patterns of parameter names, '{pattern}' fits none of "
                    f"{', '.join(params)}"
                )
        rows = {name: value for name, value in params.items() if self.per_step and matches(name, self.per_step)}
        theta = {name: value for name, value in params.items() if name not in rows}
        repeated = {name: value.expand(self.inner.steps + 1, *value.shape).clone() for name, value in rows.items()}
        return {**theta, **{ROWS + name: value for name, value in repeated.items()}}

    def numbers(self, step: int | None) -> Mapping[str, float | tuple[float, ...]]:
        """Returns α, and while the multi-step loss is annealed its weights [J]."""
        numbers: dict[str, float | tuple[float, ...]] = dict(super().numbers(step))
        count = self.inner.steps
        if step is not None and step < self.multi_step and count > 0:
            early = (1 - step / self.multi_step) / count
            numbers["weights"] = (*[early] * (count - 1), 1 - (count - 1) * early)
        return numbers

    def stage(self, step: int | None) -> str:
        """Returns ``first_order`` for the outer steps without second order, else an empty text."""
        return "first_order" if step is not None and step < self.first_order else ""

    def path(
        self, params: Params, support: Examples, steps: int | None = None, context: Context = FIXED
    ) -> Iterator[tuple[Params, Tensor | None]]:
        """Yields the task's parameters after 0, 1, … inner steps, each with its own row of ``per_step``."""
        inner, steps = self.inner, self.inner.steps if steps is None else steps
        if context.stage == "first_order":
            inner = replace(inner, derivative=FirstOrder())
        rows = {name.removeprefix(ROWS): value for name, value in params.items() if name.startswith(ROWS)}

        def at_step(number: int, params: Params) -> Params:
            return {**params, **{name: value[min(number, len(value) - 1)] for name, value in rows.items()}}

        def loss(number: int, params: Params, examples: Examples) -> Tensor:
            return self.loss(at_step(number, params), examples)

        at = inner.begin({name: value for name, value in params.items() if not name.startswith(ROWS)})
        yield at_step(0, at.params), None
        for number in range(steps):
            at, value = inner.step(partial(loss, number), at, support, steps, context)
            yield at_step(number + 1, at.params), value

    def meta_loss(self, params: Params, episode: Episode, context: Context = FIXED) -> tuple[Tensor, Metrics]:
        """Returns Σ_j w_j L(θ'_j; query), a scalar, or L(θ'_J; query) without weights, and the metrics of MAML."""
        weights = context.numbers.get("weights")
        if weights is None:
            return super().meta_loss(params, episode, context)
        metrics: Metrics = {}
        terms = []
        for number, (adapted, value) in enumerate(self.path(params, episode.support, None, context)):
            if value is not None:
                metrics.setdefault("support_loss", value)
                loss, of_query = self.query_loss(adapted, episode)
                terms.append(weights[number - 1] * loss)
        return torch.stack(terms).sum(), metrics | of_query

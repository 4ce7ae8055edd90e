"""Sums over a meta-batch: what the shards answer, added along one fixed tree as it comes in."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cluster.config.schema import Config
from cluster.errors import DivergedError
from cluster.workers.messages import Flat, Result
from cluster.workers.pool import Pool, Ticket
from meta.reduce import TreeSum


@dataclass(frozen=True, kw_only=True)
class Total:
    """A meta-batch's sum of gradients [P], sums of metrics, and the tasks whose gradient is not finite."""

    tasks: int
    gradient: Flat
    metrics: dict[str, float]
    nonfinite: list[int]

    @property
    def means(self) -> dict[str, float]:
        """The metrics, averaged over tasks."""
        return {name: value / self.tasks for name, value in self.metrics.items()}

    @property
    def finite(self) -> bool:
        """Whether the sum and each task's part of it are finite."""
        return not self.nonfinite and bool(np.isfinite(self.gradient).all())

    def diverged(self, step: int, config: Config) -> DivergedError:
        """The error for a gradient that is not finite."""
        where = f"train tasks {self.nonfinite}" if self.nonfinite else "the sum over the meta-batch"
        return DivergedError(
            f"expected a finite meta-gradient, received NaN or infinity at step {step} from {where}. "
            f"Lower inner.lr ({config.inner.lr:g}) or outer.lr ({config.outer.lr:g}), clip with "
            "outer.clip_value, or pass over such steps with outer.on_nonfinite=skip"
        )


def total_gradient(ticket: Ticket, pool: Pool, size: int) -> Total:
    """The sum of a ticket of gradients, for P = ``size``."""
    gradients: TreeSum[Flat] = TreeSum(len(ticket.orders))
    metrics: TreeSum[Flat] = TreeSum(len(ticket.orders))
    nonfinite: list[int] = []
    for result in pool.gather(ticket):
        gradients.add(result.order.shard, result.gradient(size))
        metrics.add(result.order.shard, result.metric_sums(size))
        nonfinite += result.nonfinite
        names = result.metrics
    return Total(
        tasks=sum(len(order.tasks.indices) for order in ticket.orders),
        gradient=gradients.total(),
        metrics=dict(zip(names, metrics.total().tolist(), strict=True)),
        nonfinite=sorted(nonfinite),
    )


def total_vector(results: Iterable[Result], shards: int) -> Flat:
    """The sum of products."""
    total: TreeSum[Flat] = TreeSum(shards)
    for result in results:
        total.add(result.order.shard, result.buffer)
    return total.total()


def total_judgement(results: Iterable[Result], shards: int) -> tuple[float, float]:
    """Sums of surrogate and KL divergence, in float64."""
    total: TreeSum[Flat] = TreeSum(shards)
    for result in results:
        total.add(result.order.shard, result.judgements.astype(np.float64).sum(axis=0))
    surrogate, kl = total.total().tolist()
    return surrogate, kl

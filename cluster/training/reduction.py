"""Sums over a meta-batch: the shards' replies, added along one fixed tree as they come in."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cluster.config.schema import Config
from cluster.errors import DivergedError
from cluster.workers.messages import FisherReply, Flat, GradientReply, GradientRequest, Reply, SurrogateReply
from cluster.workers.pool import Pool, Ticket
from meta.reduce import TreeSum


@dataclass(frozen=True, kw_only=True)
class GradientSum:
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
        """The error for a gradient that is not finite.

        Args:
            step: the outer step.
            config: the run's configuration, for advice.
        """
        where = f"train tasks {self.nonfinite}" if self.nonfinite else "the sum over the meta-batch"
        return DivergedError(
            f"expected a finite meta-gradient, received NaN or infinity at step {step} from {where}. "
            f"Lower inner.lr ({config.inner.lr:g}) or outer.lr ({config.outer.lr:g}), clip with "
            "outer.clip_value, or pass over such steps with outer.on_nonfinite=skip"
        )


def sum_gradients(ticket: Ticket, pool: Pool) -> GradientSum:
    """The sums of meta-gradients [P] and metrics over a meta-batch, once all of its replies have come.

    Args:
        ticket: the gradient requests of all shards.
        pool: the workers that they were submitted to.
    """
    gradients: TreeSum[Flat] = TreeSum(ticket.shards)
    metrics: TreeSum[Flat] = TreeSum(ticket.shards)
    nonfinite: set[int] = set()
    for reply in pool.gather(ticket):
        assert isinstance(reply, GradientReply), reply
        level = reply.request.level if isinstance(reply.request, GradientRequest) else 0
        gradients.cover(reply.request.shard, reply.gradient, level)
        metrics.cover(reply.request.shard, reply.metric_sums, level)
        nonfinite.update(reply.nonfinite)
        names = reply.metrics
    return GradientSum(
        tasks=sum(len(request.tasks.indices) for request in ticket.requests),
        gradient=gradients.total(),
        metrics=dict(zip(names, metrics.total().tolist(), strict=True)),
        nonfinite=sorted(nonfinite),
    )


def sum_products(replies: Iterable[Reply], shards: int) -> Flat:
    """The sum of products with the Fisher matrix, [P].

    Args:
        replies: one :class:`FisherReply` for each shard, in any order.
        shards: number of shards.
    """
    total: TreeSum[Flat] = TreeSum(shards)
    for reply in replies:
        assert isinstance(reply, FisherReply), reply
        total.add(reply.request.shard, reply.product)
    return total.total()


def sum_surrogates(replies: Iterable[Reply], shards: int) -> tuple[float, float]:
    """Sums of surrogate and KL divergence, in float64.

    Args:
        replies: one :class:`SurrogateReply` for each shard, in any order.
        shards: number of shards.
    """
    total: TreeSum[Flat] = TreeSum(shards)
    for reply in replies:
        assert isinstance(reply, SurrogateReply), reply
        total.add(reply.request.shard, reply.sums)
    surrogate, kl = total.total().tolist()
    return surrogate, kl

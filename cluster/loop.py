"""The training loop: hand out a meta-batch, add up the meta-gradients, step, keep the books meanwhile."""

from dataclasses import dataclass

import numpy as np

from cluster.books import Books
from cluster.config import Config
from cluster.errors import DivergedError
from cluster.interrupts import StopFlag
from cluster.learner import Learner
from cluster.messages import Flat, gradient_orders
from cluster.pool import Pool, Ticket
from meta.reduce import TreeSum


def meta_train(config: Config, learner: Learner, pool: Pool, books: Books, stop: StopFlag) -> None:
    """Train until ``outer.steps`` or until asked to stop; the state is saved either way.

    The next meta-batch is handed out as soon as θ has moved; metrics, validation and checkpoints of the step
    before are seen to while the workers compute it.
    """
    if learner.step < config.outer.steps:
        ticket = _hand_out(config, learner, pool)
    while learner.step < config.outer.steps and not stop:
        total = _add_up(ticket, pool, learner.layout.size)
        metrics = _apply(config, learner, total)
        if learner.step < config.outer.steps:
            ticket = _hand_out(config, learner, pool)
        books.after_step(learner, metrics)
    books.finish(learner)


@dataclass(frozen=True, kw_only=True)
class _Total:
    """A meta-batch's sum of gradients [P], sums of metrics, and the tasks whose gradient is not finite."""

    tasks: int
    gradient: Flat
    metrics: dict[str, float]
    nonfinite: list[int]


def _hand_out(config: Config, learner: Learner, pool: Pool) -> Ticket:
    return pool.submit(gradient_orders(learner.step, config.meta_batch, config.shard_size), learner.theta)


def _add_up(ticket: Ticket, pool: Pool, size: int) -> _Total:
    """Add the shards up along the fixed tree, as they come."""
    gradients: TreeSum[Flat] = TreeSum(len(ticket.orders))
    metrics: TreeSum[Flat] = TreeSum(len(ticket.orders))
    nonfinite: list[int] = []
    for result in pool.gather(ticket):
        gradients.add(result.order.shard, result.gradient(size))
        metrics.add(result.order.shard, result.metric_sums(size))
        nonfinite += result.nonfinite
        names = result.metrics
    tasks = sum(len(order.tasks.indices) for order in ticket.orders)
    return _Total(
        tasks=tasks,
        gradient=gradients.total(),
        metrics=dict(zip(names, metrics.total().tolist(), strict=True)),
        nonfinite=sorted(nonfinite),
    )


def _apply(config: Config, learner: Learner, total: _Total) -> dict[str, float]:
    """Move θ, or deal with a gradient that is not finite; returns the step's mean metrics."""
    means = {name: value / total.tasks for name, value in total.metrics.items()}
    if total.nonfinite or not np.isfinite(total.gradient).all():
        if config.outer.on_nonfinite == "stop":
            where = f"train tasks {total.nonfinite}" if total.nonfinite else "the sum over the meta-batch"
            raise DivergedError(
                f"expected a finite meta-gradient, received NaN or infinity at step {learner.step} from {where}. "
                f"Lower inner.lr ({config.inner.lr:g}) or outer.lr ({config.outer.lr:g}), clip with "
                "outer.clip_value, or pass over such steps with outer.on_nonfinite=skip"
            )
        learner.skip()
        return {"skipped": 1.0}
    norm = learner.update(total.gradient, total.tasks)
    return means | {"gradient_norm": norm, "skipped": 0.0}

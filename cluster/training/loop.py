"""The training loop: hand out a meta-batch, add up the meta-gradients, step, keep the books meanwhile."""

from cluster.config.schema import Config
from cluster.interrupts import StopFlag
from cluster.training.learner import Learner
from cluster.training.outer_step import outer_step
from cluster.training.recorder import Books
from cluster.training.reduction import total_gradient
from cluster.workers.messages import gradient_orders
from cluster.workers.pool import Pool, Ticket


def meta_train(config: Config, learner: Learner, pool: Pool, books: Books, stop: StopFlag) -> None:
    """Train until ``outer.steps`` or until asked to stop; the state is saved either way.

    The next meta-batch is handed out as soon as θ has moved; metrics, validation and checkpoints of the step
    before are seen to while the workers compute it.
    """
    if learner.step < config.outer.steps:
        ticket = _hand_out(config, learner, pool)
    while learner.step < config.outer.steps and not stop:
        total = total_gradient(ticket, pool, learner.layout.size)
        metrics = outer_step(config, learner, pool, ticket.orders, total)
        if learner.step < config.outer.steps:
            ticket = _hand_out(config, learner, pool)
        books.after_step(learner, metrics)
    books.finish(learner)


def _hand_out(config: Config, learner: Learner, pool: Pool) -> Ticket:
    return pool.submit(gradient_orders(learner.step, config.meta_batch, config.shard_size), learner.theta)

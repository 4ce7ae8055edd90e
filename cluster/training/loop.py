"""The training loop: hand out a meta-batch, add up the meta-gradients, step, record meanwhile."""

from cluster.config.schema import Config
from cluster.errors import ClusterError
from cluster.interrupts import StopFlag
from cluster.training.learner import Learner
from cluster.training.outer_step import outer_step
from cluster.training.recorder import Recorder
from cluster.training.reduction import sum_gradients
from cluster.workers.messages import gradient_requests
from cluster.workers.pool import Pool, Ticket


def meta_train(config: Config, learner: Learner, pool: Pool, recorder: Recorder, stop: StopFlag) -> None:
    """Train until ``outer.steps`` or until asked to stop; the state is saved either way.

    The next meta-batch is handed out as soon as θ has moved; metrics, validation and checkpoints of the step
    before are recorded while the workers compute it.

    Args:
        config: the run's configuration.
        learner: holds θ and the optimizer.
        pool: the workers.
        recorder: records metrics, validation and checkpoints.
        stop: ends the loop after the current outer step once set.

    Raises:
        ClusterError: if no workers are left to go on with; the state after the last whole step is saved.
    """
    try:
        _train(config, learner, pool, recorder, stop)
    except ClusterError as error:
        raise type(error)(f"{error}; {recorder.give_up(learner)}") from error


def _train(config: Config, learner: Learner, pool: Pool, recorder: Recorder, stop: StopFlag) -> None:
    if learner.step < config.outer.steps:
        ticket = _hand_out(config, learner, pool)
    while learner.step < config.outer.steps and not stop:
        total = sum_gradients(ticket, pool)
        metrics = outer_step(config, learner, pool, ticket.requests, total)
        if learner.step < config.outer.steps:
            ticket = _hand_out(config, learner, pool)
        recorder.after_step(learner, metrics)
    recorder.finish(learner)


def _hand_out(config: Config, learner: Learner, pool: Pool) -> Ticket:
    requests = gradient_requests(learner.step, config.meta_batch, config.shard_size, pool.level)
    return pool.submit(requests, learner.theta)

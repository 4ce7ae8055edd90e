"""The outer step: how the learner moves θ by a meta-batch's gradient, ``outer.step`` of the configuration.

``gradient`` takes one step of the optimizer. ``trpo`` and ``ppo`` send the workers further
requests about the same rollouts.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cluster.config.schema import Config
from cluster.errors import ClusterError
from cluster.training.learner import Learner
from cluster.training.reduction import GradientSum, sum_gradients, sum_products, sum_surrogates
from cluster.workers.messages import FisherProduct, Flat, GradientAt, Reply, Request, RolloutRequest, SurrogateAndKL
from cluster.workers.pool import Pool, Ticket
from meta.policy.trust_region import TrustRegion, full_step, line_search

Metrics = dict[str, float]


def outer_step(
    config: Config, learner: Learner, pool: Pool, requests: Sequence[Request], total: GradientSum
) -> Metrics:
    """Move θ by the gradient of a meta-batch, or pass over one that is not finite.

    Args:
        config: the run's configuration.
        learner: holds θ.
        pool: the workers that computed the gradient; they keep rollouts until the next one.
        requests: those of the gradient.
        total: the sum of their replies.

    Returns:
        The step's mean metrics.

    Raises:
        DivergedError: if the gradient is not finite and such steps are not to be passed over.
    """
    if not total.finite:
        if config.outer.on_nonfinite == "stop":
            raise total.diverged(learner.step, config)
        learner.skip()
        return {"skipped": 1.0}
    step = STEPS[config.outer.step]
    metrics = step(config, learner, RolloutRequests(pool, requests, learner.theta), total)
    learner.finish_step()
    return _with_rate(total) | metrics | {"skipped": 0.0}


class RolloutRequests:
    """Requests about the rollouts that a gradient was computed from, sampled under the θ of this step."""

    def __init__(self, pool: Pool, requests: Sequence[Request], theta: Flat) -> None:
        """Keep the pool and the gradient's requests; nothing is computed yet."""
        self.theta = theta
        self.shards = len(requests)
        self._pool, self._requests = pool, requests

    def submit(self, kind: type[RolloutRequest], second: Flat) -> Ticket:
        """Submit requests of a kind with their second vector, one for each shard.

        Args:
            kind: class of the requests.
            second: their second vector, [P].
        """
        requests = [kind(step=one.step, shard=one.shard, tasks=one.tasks) for one in self._requests]
        return self._pool.submit(requests, self.theta, second)

    def ask(self, kind: type[RolloutRequest], second: Flat) -> Iterator[Reply]:
        """Submit requests as :meth:`submit` does; yields the replies as they come.

        Args:
            kind: class of the requests.
            second: their second vector, [P].
        """
        return self._pool.gather(self.submit(kind, second))

    def gradient_at(self, theta: Flat) -> GradientSum:
        """The sum of meta-gradients at other parameters [P]."""
        return sum_gradients(self.submit(GradientAt, theta), self._pool)


def gradient_step(config: Config, learner: Learner, rollouts: RolloutRequests, total: GradientSum) -> Metrics:
    """One step of the optimizer down the mean meta-gradient.

    Args:
        config: the run's configuration.
        learner: holds θ.
        rollouts: requests about the gradient's rollouts; none are made.
        total: sum of meta-gradients [P] and metrics over the meta-batch.
    """
    del config, rollouts
    return {"gradient_norm": learner.descend(total.gradient, total.tasks)}


def trust_region_step(config: Config, learner: Learner, rollouts: RolloutRequests, total: GradientSum) -> Metrics:
    """A natural-gradient step within the bound of KL (Finn et al. 2017, 5.3; Schulman et al. 2015).

    Args:
        config: the run's configuration, ``outer.trpo``.
        learner: holds θ.
        rollouts: requests about the gradient's rollouts.
        total: sum of meta-gradients [P] and metrics over the meta-batch.
    """
    settings = TrustRegion(**config.outer.trpo.model_dump())
    tasks, dtype = total.tasks, rollouts.theta.dtype

    def product(vector: Tensor) -> Tensor:
        replies = rollouts.ask(FisherProduct, vector.numpy().astype(dtype))
        mean = torch.from_numpy(sum_products(replies, rollouts.shards).astype(np.float64)) / tasks
        return learner.without_frozen(mean)

    def surrogate_and_kl(params: Tensor) -> tuple[float, float]:
        replies = rollouts.ask(SurrogateAndKL, params.numpy().astype(dtype))
        surrogate, kl = sum_surrogates(replies, rollouts.shards)
        return surrogate / tasks, kl / tasks

    gradient = learner.without_frozen(torch.from_numpy(total.gradient.astype(np.float64)) / tasks)
    step = full_step(product, gradient, settings)
    before = torch.from_numpy(rollouts.theta.astype(np.float64))
    search = line_search(surrogate_and_kl, before, step, total.means["surrogate"], settings)
    learner.move(search.params.numpy().astype(dtype))
    return {
        "gradient_norm": float(gradient.norm()),
        "kl": search.kl,
        "step_share": search.share,
        "surrogate_after": search.surrogate,
    }


def clipped_steps(config: Config, learner: Learner, rollouts: RolloutRequests, total: GradientSum) -> Metrics:
    """``outer.ppo.epochs`` steps of the optimizer on the clipped surrogate, over the same rollouts (ProMP).

    Args:
        config: the run's configuration, ``outer.ppo``.
        learner: holds θ.
        rollouts: requests about the gradient's rollouts.
        total: sum of meta-gradients [P] and metrics over the meta-batch.

    Raises:
        ClusterError: if the workers are lost; the learner is then as it was before the step.
    """
    before = learner.state()
    norm = learner.descend(total.gradient, total.tasks)
    for _ in range(config.outer.ppo.epochs - 1):
        try:
            later = rollouts.gradient_at(learner.theta)
        except ClusterError:
            learner.load(before, learner.step, learner.skipped)
            raise
        if not later.finite:
            raise later.diverged(learner.step, config)
        learner.descend(later.gradient, later.tasks)
    return {"gradient_norm": norm}


STEPS: dict[str, Callable[[Config, Learner, RolloutRequests, GradientSum], Metrics]] = {
    "gradient": gradient_step,
    "trpo": trust_region_step,
    "ppo": clipped_steps,
}


def _with_rate(total: GradientSum) -> Metrics:
    """Mean metrics; of rollouts, the environment steps of the meta-batch and how many a worker takes a second."""
    means, steps = total.means, total.metrics.get("environment_steps")
    if steps is not None:
        seconds = total.metrics["sampling_seconds"]
        del means["sampling_seconds"]
        means |= {"environment_steps": steps, "environment_steps_per_second_per_worker": steps / max(seconds, 1e-9)}
    return means

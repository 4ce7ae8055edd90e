"""The outer step: what the learner does with a meta-batch's gradient. Some ask the workers again before θ moves."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cluster.config.schema import Config
from cluster.training.learner import Learner
from cluster.training.reduction import Total, total_gradient, total_judgement, total_vector
from cluster.workers.messages import Flat, Order
from cluster.workers.pool import Pool, Ticket
from meta.policy.trust_region import TrustRegion, full_step, line_search

Metrics = dict[str, float]


def outer_step(config: Config, learner: Learner, pool: Pool, orders: Sequence[Order], total: Total) -> Metrics:
    """Move θ by the gradient of a meta-batch, or deal with one that is not finite.

    Args:
        config: the run's configuration.
        learner: holds θ.
        pool: the workers that computed the gradient; they keep rollouts until the next one.
        orders: what they were asked.
        total: their answers' sum.

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
    again = _Again(config, learner, pool, orders, total)
    if config.outer.optimizer == "trpo":
        found = again.trust_region_step()
    elif config.outer.optimizer == "ppo":
        found = again.clipped_steps()
    else:
        found = {"gradient_norm": learner.update(total.gradient, total.tasks)}
    return _with_rate(total) | found | {"skipped": 0.0}


def _with_rate(total: Total) -> Metrics:
    """The means; of rollouts, steps of the environments in the meta-batch and how many a worker takes a second."""
    means, steps = total.means, total.metrics.get("environment_steps")
    if steps is not None:
        seconds = total.metrics["sampling_seconds"]
        del means["sampling_seconds"]
        means |= {"environment_steps": steps, "environment_steps_per_second_per_worker": steps / max(seconds, 1e-9)}
    return means


class _Again:
    """Questions about the rollouts that a gradient was computed from, sampled under the θ of this step."""

    def __init__(self, config: Config, learner: Learner, pool: Pool, orders: Sequence[Order], total: Total) -> None:
        self._config, self._learner, self._pool, self._orders, self._total = config, learner, pool, orders, total
        self._theta = learner.theta

    def _ask(self, kind: str, vector: Flat) -> Ticket:
        orders = [dataclasses.replace(order, kind=kind, upcoming=None) for order in self._orders]  # type: ignore[arg-type]
        return self._pool.submit(orders, np.concatenate([self._theta, vector]))

    def trust_region_step(self) -> Metrics:
        """A natural-gradient step within the bound of KL (Finn et al. 2017, 5.3; Schulman et al. 2015)."""
        settings = TrustRegion(**self._config.outer.trpo.model_dump())
        tasks, shards, dtype = self._total.tasks, len(self._orders), self._theta.dtype

        def product(vector: Tensor) -> Tensor:
            answer = self._pool.gather(self._ask("product", vector.numpy().astype(dtype)))
            found = torch.from_numpy(total_vector(answer, shards).astype(np.float64)) / tasks
            return self._learner.without_frozen(found)

        def judge(params: Tensor) -> tuple[float, float]:
            answer = self._pool.gather(self._ask("judge", params.numpy().astype(dtype)))
            surrogate, kl = total_judgement(answer, shards)
            return surrogate / tasks, kl / tasks

        gradient = self._learner.without_frozen(torch.from_numpy(self._total.gradient.astype(np.float64)) / tasks)
        step = full_step(product, gradient, settings)
        before = torch.from_numpy(self._theta.astype(np.float64))
        search = line_search(judge, before, step, self._total.means["surrogate"], settings)
        self._learner.move(search.params.numpy().astype(dtype))
        return {
            "gradient_norm": float(gradient.norm()),
            "kl": search.kl,
            "step_share": search.share,
            "surrogate_after": search.surrogate,
        }

    def clipped_steps(self) -> Metrics:
        """``outer.ppo.epochs`` steps of Adam on the clipped surrogate, over the same rollouts (ProMP)."""
        norm = self._learner.descend(self._total.gradient, self._total.tasks)
        moved = self._learner.moved
        for _ in range(self._config.outer.ppo.epochs - 1):
            total = total_gradient(self._ask("again", self._learner.theta), self._pool, self._learner.layout.size)
            if not total.finite:
                raise total.diverged(self._learner.step, self._config)
            self._learner.descend(total.gradient, total.tasks)
            moved |= self._learner.moved
        self._learner.moved = moved
        self._learner.step += 1
        return {"gradient_norm": norm}

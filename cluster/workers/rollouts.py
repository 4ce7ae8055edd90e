"""What a worker does where tasks are acted in: sampling and adapting in turn, and gradients over what was sampled."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from cluster.setups.policies import PolicySetup
from cluster.workers.messages import Order, Result, TaskRange, to_flat
from meta.episode import Episode, Examples
from meta.params import Params
from meta.policy.advantages import AdvantageSettings, Trajectories, advantages
from meta.policy.distributions import Policy
from meta.policy.samples import Samples, pack, require_shape
from tasks.environments.contract import Numbers
from tasks.environments.rollout import Rollouts, roll
from tasks.family import TaskKey


@dataclass(kw_only=True)
class Sampled:
    """The rollouts of a shard.

    Attributes:
        episodes: the rollouts as episodes of the shard's tasks.
        returns: mean returns [T] before and after each inner step.
        environment_steps: steps taken in each task, [T].
        seconds: time that sampling took.
        products: multiplies with the Hessian of KL on these rollouts, once that has been asked for.
    """

    episodes: Episode
    returns: list[Numbers]
    environment_steps: Numbers
    seconds: float
    products: Callable[[Params], Params] | None = None


class PolicyWork:
    """Orders about policies.

    Rollouts are kept for the orders that come back to them in the same outer step. A worker that has none, because it
    stands in for a lost one, samples them again: under the same θ they are the same bits.
    """

    def __init__(self, setup: PolicySetup) -> None:
        """Sample nothing yet."""
        self._setup = setup
        self._kept: dict[tuple[int, TaskRange], Sampled] = {}

    def run(self, order: Order, params: Params, other: Params | None) -> Result:
        """Compute one order.

        Args:
            order: what to compute.
            params: θ that the rollouts are, or were, sampled under.
            other: for ``again`` and ``judge`` θ to compute at, for ``product`` the vector; else None.
        """
        if order.kind == "scores":
            return self._scores(order, params)
        sampled = self._sampled(order, params)
        engine = self._setup.engine
        if order.kind == "gradient":
            return self._gradient(order, params, sampled)
        assert other is not None, order.kind
        if order.kind == "again":
            return self._gradient(order, other, sampled)
        if order.kind == "product":
            product = sampled.products or engine.products(_copied(params), sampled.episodes)
            sampled.products = product
            return Result(order=order, buffer=to_flat(self._setup.layout.flatten(product(other))))
        return Result(order=order, buffer=to_flat(engine.judged(other, sampled.episodes)))

    def _scores(self, order: Order, params: Params) -> Result:
        walk = self.walk(self._keys(order.tasks), params, max(order.inner_steps), evaluation=True)
        returns = [rollouts.returns for rollouts, _ in walk]
        columns = [returns[min(number, len(returns) - 1)] for number in order.inner_steps]
        return Result(order=order, buffer=to_flat(torch.from_numpy(np.stack(columns, axis=1))))

    def _gradient(self, order: Order, params: Params, sampled: Sampled) -> Result:
        setup = self._setup
        gradient, found = setup.engine.meta_gradient(params, sampled.episodes)
        metrics: dict[str, Tensor] = {**found, "return": self._row(sampled.returns[-1])}
        if len(sampled.returns) > 1:
            metrics["return_before"] = self._row(sampled.returns[0])
        metrics["environment_steps"] = self._row(sampled.environment_steps)
        metrics["sampling_seconds"] = torch.full_like(metrics["return"], sampled.seconds / len(sampled.returns[0]))
        flat = setup.layout.flatten(gradient)
        names = tuple(sorted(metrics))
        finite = bool(torch.isfinite(flat).all())
        return Result(
            order=order,
            buffer=to_flat(torch.cat([flat, *(metrics[name] for name in names)])),
            metrics=names,
            nonfinite=() if finite else tuple(order.tasks.indices),
        )

    def _row(self, values: Numbers) -> Tensor:
        return torch.from_numpy(values).to(self._setup.dtype).to(self._setup.device)

    def _sampled(self, order: Order, params: Params) -> Sampled:
        key = (order.step, order.tasks)
        if order.kind == "gradient" or key not in self._kept:
            # A gradient order of a new step ends the use of the rollouts of the one before.
            self._kept = {kept: value for kept, value in self._kept.items() if kept[0] == order.step}
            self._kept[key] = self.sample(order.tasks, params, self._setup.algorithm.trained_steps)
        return self._kept[key]

    def sample(self, tasks: TaskRange, params: Params, steps: int) -> Sampled:
        """Rollouts of the policy and of the policy after each of ``steps`` inner steps, for all tasks of a range."""
        began, keys = time.perf_counter(), self._keys(tasks)
        support: list[Examples] = []
        returns: list[Numbers] = []
        taken = np.zeros(len(keys))
        for rollouts, examples in self.walk(keys, params, steps):
            support.append(examples())
            returns.append(rollouts.returns)
            taken += rollouts.taken.sum(axis=(1, 2))
        return Sampled(
            episodes=_episodes(support),
            returns=returns,
            environment_steps=taken,
            seconds=time.perf_counter() - began,
        )

    def walk(
        self, keys: list[TaskKey], params: Params, steps: int, *, evaluation: bool = False
    ) -> Iterator[tuple[Rollouts, Callable[[], Examples]]]:
        """Rollouts of the policy and of the policy after each inner step, and what either is learnt from.

        In an evaluation α is ``eval.later_lr`` times as large from the second step on, and what an oracle knows already
        it does not adapt to: its first rollouts are its last.

        Args:
            keys: the tasks.
            params: θ.
            steps: number of inner steps.
            evaluation: whether to adapt as in an evaluation.

        Yields:
            ``steps`` + 1 times the rollouts, and a function that gives them as the algorithm takes them, [T, B, …].
        """
        setup = self._setup
        own = {name: value.expand(len(keys), *value.shape).clone() for name, value in params.items()}
        for number in range(steps + 1):
            rollouts = self.roll(keys, own, number)
            examples = cache(partial(self._examples, keys, rollouts))
            yield rollouts, examples
            if evaluation and setup.algorithm.informed:
                return
            if number < steps:
                own = setup.engine.step(own, examples(), self._lr(number, evaluation=evaluation))

    def _keys(self, tasks: TaskRange) -> list[TaskKey]:
        return [TaskKey(self._setup.seed, tasks.split, index) for index in tasks.indices]

    def roll(self, keys: list[TaskKey], own: Params, inner_step: int) -> Rollouts:
        """Rollouts of each task's own policy, parameters [T, …]."""
        setup = self._setup
        told = self._told(keys)

        def act(observations: Numbers, noise: Numbers) -> tuple[Numbers, Numbers]:
            seen = np.concatenate([observations, np.broadcast_to(told, (*observations.shape[:2], told.shape[-1]))], -1)
            given = [torch.from_numpy(array).to(setup.device, setup.dtype) for array in (seen, noise)]
            actions, outputs = setup.engine.act(own, given[0], given[1])
            return actions.cpu().double().numpy(), outputs.cpu().double().numpy()

        return roll(setup.family, keys, inner_step, act)

    def _told(self, keys: list[TaskKey]) -> Numbers:
        """What stands beside every observation, [T, 1, D]: an oracle sees the tasks' descriptions, others nothing."""
        if not self._setup.algorithm.informed:
            return np.zeros((len(keys), 1, 0))
        return self._setup.family.describe(keys)[:, None]

    def _lr(self, number: int, *, evaluation: bool) -> float:
        config = self._setup.config
        return config.inner.lr * (config.eval.later_lr if evaluation and number > 0 else 1.0)

    def _examples(self, keys: list[TaskKey], rollouts: Rollouts) -> Examples:
        """Rollouts as the algorithm takes them, [T, B, …]: with advantages, and with the policy that acted."""
        setup = self._setup
        told = self._told(keys)[:, :, None]
        told = np.broadcast_to(told, (*rollouts.observations.shape[:3], told.shape[-1]))
        observed, rewards, actions, outputs = (
            torch.from_numpy(np.ascontiguousarray(array)).to(setup.dtype)
            for array in (
                np.concatenate([rollouts.observations, told], axis=-1),
                rollouts.rewards,
                rollouts.actions,
                rollouts.outputs,
            )
        )
        taken, ended = torch.from_numpy(rollouts.taken), torch.from_numpy(rollouts.terminated)
        seen = Trajectories(observed, rewards, taken, ended)
        packed = as_examples(setup.algorithm.model, setup.advantage, seen, actions, outputs)
        return Examples(packed.inputs.to(setup.device), packed.targets.to(setup.device))


def as_examples(
    policy: Policy, settings: AdvantageSettings, seen: Trajectories, actions: Tensor, outputs: Tensor
) -> Examples:
    """Rollouts of T tasks as an algorithm takes them, [T, N · H, …].

    Args:
        policy: gives the log-probabilities of what was done.
        settings: how rewards become advantages.
        seen: observations, rewards and ends.
        actions: [T, N, H, A], as sampled ([T, N, H, 1] numbers if discrete).
        outputs: [T, N, H, M], the distributions they were sampled from.
    """
    observed, rewards, taken, _ = seen
    weights = taken.to(observed.dtype) / taken.sum(dim=(1, 2), keepdim=True)
    found = advantages(seen, settings)
    log_probabilities = require_shape("log_probability", policy.log_probability(outputs, actions), weights.shape)
    columns = (observed[:, :, :-1], actions, weights, rewards, found, log_probabilities, outputs)
    return pack(Samples(*(column.flatten(1, 2).contiguous() for column in columns)))


def _copied(params: Params) -> Params:
    """Parameters that later orders leave alone."""
    return {name: value.clone() for name, value in params.items()}


def _episodes(support: list[Examples]) -> Episode:
    """Rollouts in order of inner steps as one batch of episodes: the last are the query."""
    *before, query = support
    rows = len(query.inputs)
    if before:
        both = [torch.stack([getattr(one, name) for one in before], dim=1) for name in Examples._fields]
        inner = Examples(both[0], both[1])
    else:
        inner = Examples(*(part[:, None][:, :0] for part in query))
    return Episode(inner, query, query.inputs.new_zeros(rows, 0))

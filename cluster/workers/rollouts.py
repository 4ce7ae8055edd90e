"""Requests about RL tasks: sampling and adapting in turn, and gradients over the rollouts that were sampled."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cluster.workers.messages import (
    FisherProduct,
    FisherReply,
    GradientAt,
    GradientReply,
    GradientRequest,
    Reply,
    Request,
    RolloutRequest,
    ScoresReply,
    ScoresRequest,
    SurrogateAndKL,
    SurrogateReply,
    TaskRange,
    to_flat,
)
from meta.context import Context
from meta.episode import Episode, Examples
from meta.params import Layout, Params
from meta.policy import PolicyMAML
from meta.policy.advantages import AdvantageSettings, Trajectories
from meta.policy.engine import PolicyEngine
from meta.policy.samples import as_examples
from tasks.environments.contract import EnvironmentFamily, Numbers
from tasks.environments.rollout import Rollouts, roll
from tasks.family import TaskKey


class RolloutSource(Protocol):
    """A set-up of RL tasks, as far as their work asks."""

    @property
    def family(self) -> EnvironmentFamily:
        """The environments."""
        ...

    @property
    def algorithm(self) -> PolicyMAML:
        """The algorithm by which policies adapt."""
        ...

    @property
    def engine(self) -> PolicyEngine:
        """The engine that computes over batches of tasks."""
        ...

    @property
    def advantage(self) -> AdvantageSettings:
        """Settings of the advantages that are computed from rewards."""
        ...

    @property
    def layout(self) -> Layout:
        """The parameters' places in θ."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of θ."""
        ...

    @property
    def device(self) -> torch.device:
        """Device on which policies are computed."""
        ...

    @property
    def seed(self) -> int:
        """Of tasks and rollouts."""
        ...

    def context(self, step: int | None) -> Context:
        """The scheduled numbers of an outer step, None being after training.

        Args:
            step: number of the outer step, from 0 on.
        """
        ...

    def step_context(self, inner_step: int, *, evaluation: bool) -> Context:
        """The context of inner step number ``inner_step``.

        Args:
            inner_step: number of the inner step, from 0 on.
            evaluation: whether it is a step of an evaluation.
        """
        ...


@dataclass(kw_only=True)
class Sampled:
    """The rollouts of a shard.

    Attributes:
        episodes: the rollouts as episodes of the shard's tasks.
        returns: mean returns [T] before and after each inner step.
        environment_steps: steps taken in each task, [T].
        outside: observations of each task outside their declared space, [T], of environments that count them.
        seconds: time that sampling took.
        products: multiplies with the Hessian of KL on these rollouts, once that has been asked for.
    """

    episodes: Episode
    returns: list[Numbers]
    environment_steps: Numbers
    seconds: float
    outside: Numbers | None = None
    products: Callable[[Params], Params] | None = None


class RolloutWork:
    """Meta-gradients and scores of policies.

    Rollouts are kept for the requests that come back to them in the same outer step. A worker that has none, because
    it replaces a lost one, samples them again: under the same θ they are the same bits.
    """

    def __init__(self, setup: RolloutSource) -> None:
        """Sample nothing yet."""
        self._setup = setup
        self._kept: dict[tuple[int, TaskRange], Sampled] = {}

    def run(self, request: Request, params: Params) -> Reply:
        """Compute one request under θ.

        Args:
            request: meta-gradients or scores of a shard.
            params: θ by name.
        """
        if isinstance(request, GradientRequest):
            return self._gradient(request, params, self._sampled(request, params))
        if isinstance(request, ScoresRequest):
            return self._scores(request, params)
        raise TypeError(f"expected a request for gradients or scores, received {request.kind}")

    def between_requests(self) -> bool:
        """Nothing: rollouts depend on θ."""
        return False

    def run_on_rollouts(self, request: RolloutRequest, params: Params, second: Params) -> Reply:
        """Compute one request about rollouts sampled under θ.

        Args:
            request: what to compute.
            params: θ.
            second: the parameters to compute at, or the vector to multiply.
        """
        setup, engine = self._setup, self._setup.engine
        sampled = self._sampled(request, params)
        if isinstance(request, GradientAt):
            return self._gradient(request, second, sampled)
        if isinstance(request, FisherProduct):
            product = sampled.products or engine.fisher_products(
                _copied(params), sampled.episodes, setup.context(request.step)
            )
            sampled.products = product
            return FisherReply(request=request, buffer=to_flat(self._setup.layout.flatten(product(second))))
        if isinstance(request, SurrogateAndKL):
            rows = engine.surrogate_and_kl(second, sampled.episodes, setup.context(request.step))
            return SurrogateReply(request=request, buffer=to_flat(rows))
        raise TypeError(f"expected a request about rollouts, received {request.kind}")

    def _scores(self, request: ScoresRequest, params: Params) -> ScoresReply:
        walk = self.walk(self._keys(request.tasks), params, max(request.inner_steps), evaluation=True)
        returns = [rollouts.returns for rollouts, _ in walk]
        columns = [returns[min(number, len(returns) - 1)] for number in request.inner_steps]
        return ScoresReply(request=request, buffer=to_flat(torch.from_numpy(np.stack(columns, axis=1))))

    def _gradient(self, request: Request, params: Params, sampled: Sampled) -> GradientReply:
        setup = self._setup
        gradient, means = setup.engine.meta_gradient(params, sampled.episodes, setup.context(request.step))
        metrics: dict[str, Tensor] = {**means, "return": self._row(sampled.returns[-1])}
        if len(sampled.returns) > 1:
            metrics["return_before"] = self._row(sampled.returns[0])
        metrics["environment_steps"] = self._row(sampled.environment_steps)
        if sampled.outside is not None:
            metrics["outside_share"] = self._row(sampled.outside / sampled.environment_steps)
        metrics["sampling_seconds"] = torch.full_like(metrics["return"], sampled.seconds / len(sampled.returns[0]))
        flat = setup.layout.flatten(gradient)
        names = tuple(sorted(metrics))
        finite = bool(torch.isfinite(flat).all())
        return GradientReply(
            request=request,
            buffer=to_flat(torch.cat([flat, *(metrics[name] for name in names)])),
            metrics=names,
            nonfinite=() if finite else tuple(request.tasks.indices),
        )

    def _row(self, values: Numbers) -> Tensor:
        return torch.from_numpy(values).to(self._setup.dtype).to(self._setup.device)

    def _sampled(self, request: Request, params: Params) -> Sampled:
        key = (request.step, request.tasks)
        if isinstance(request, GradientRequest) or key not in self._kept:
            # A gradient request of a new step ends the use of the rollouts of the one before.
            self._kept = {kept: value for kept, value in self._kept.items() if kept[0] == request.step}
            self._kept[key] = self.sample(request.tasks, params, self._setup.algorithm.trained_steps)
        return self._kept[key]

    def sample(self, tasks: TaskRange, params: Params, steps: int) -> Sampled:
        """Rollouts of the policy and of the policy after each of ``steps`` inner steps, for all tasks of a range.

        Args:
            tasks: the shard's T tasks.
            params: θ by name.
            steps: number of inner steps.
        """
        began, keys = time.perf_counter(), self._keys(tasks)
        support: list[Examples] = []
        returns: list[Numbers] = []
        taken, outside, counted = np.zeros(len(keys)), np.zeros(len(keys)), True
        for rollouts, examples in self.walk(keys, params, steps):
            support.append(examples())
            returns.append(rollouts.returns)
            taken += rollouts.taken.sum(axis=(1, 2))
            counted = rollouts.outside is not None
            outside += rollouts.outside if rollouts.outside is not None else 0
        return Sampled(
            episodes=_episodes(support),
            returns=returns,
            environment_steps=taken,
            seconds=time.perf_counter() - began,
            outside=outside if counted else None,
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
        own = setup.engine.begin(params, len(keys))
        for number in range(steps + 1):
            rollouts = self.roll(keys, own.params, number)
            examples = cache(partial(self._examples, keys, rollouts))
            yield rollouts, examples
            if evaluation and setup.algorithm.informed:
                return
            if number < steps:
                own = setup.engine.step(own, examples(), setup.step_context(number, evaluation=evaluation))

    def _keys(self, tasks: TaskRange) -> list[TaskKey]:
        return [TaskKey(self._setup.seed, tasks.split, index) for index in tasks.indices]

    def roll(self, keys: list[TaskKey], own: Params, inner_step: int) -> Rollouts:
        """Rollouts of each task's own policy, parameters [T, …].

        Args:
            keys: of the T tasks.
            own: each task's parameters, by name, [T, …].
            inner_step: inner steps that were taken before, a part of the random numbers' key.
        """
        setup = self._setup
        descriptions = self._descriptions(keys)

        def act(observations: Numbers, noise: Numbers) -> tuple[Numbers, Numbers]:
            seen = np.concatenate(
                [observations, np.broadcast_to(descriptions, (*observations.shape[:2], descriptions.shape[-1]))], -1
            )
            tensors = [torch.from_numpy(array).to(setup.device, setup.dtype) for array in (seen, noise)]
            actions, outputs = setup.engine.act(own, tensors[0], tensors[1])
            return actions.cpu().double().numpy(), outputs.cpu().double().numpy()

        return roll(setup.family, keys, inner_step, act)

    def _descriptions(self, keys: list[TaskKey]) -> Numbers:
        """Numbers appended to every observation, [T, 1, D]: the tasks' descriptions for an oracle, else none, D = 0."""
        if not self._setup.algorithm.informed:
            return np.zeros((len(keys), 1, 0))
        return self._setup.family.describe(keys)[:, None]

    def _examples(self, keys: list[TaskKey], rollouts: Rollouts) -> Examples:
        """Rollouts as the algorithm takes them, [T, B, …]: with advantages, and with the policy that acted."""
        setup = self._setup
        descriptions = self._descriptions(keys)[:, :, None]
        descriptions = np.broadcast_to(descriptions, (*rollouts.observations.shape[:3], descriptions.shape[-1]))
        observed, rewards, actions, outputs = (
            torch.from_numpy(np.ascontiguousarray(array)).to(setup.dtype)
            for array in (
                np.concatenate([rollouts.observations, descriptions], axis=-1),
                rollouts.rewards,
                rollouts.actions,
                rollouts.outputs,
            )
        )
        taken, ended = torch.from_numpy(rollouts.taken), torch.from_numpy(rollouts.terminated)
        seen = Trajectories(observed, rewards, taken, ended)
        packed = as_examples(setup.algorithm.model, setup.advantage, seen, actions, outputs)
        return Examples(packed.tensor.to(setup.device), packed.targets.to(setup.device))


def _copied(params: Params) -> Params:
    """Parameters that later requests leave alone."""
    return {name: value.clone() for name, value in params.items()}


def _episodes(support: list[Examples]) -> Episode:
    """Rollouts in order of inner steps as one batch of episodes: the last are the query."""
    *before, query = support
    rows = len(query.tensor)
    if before:
        stacked = [torch.stack([getattr(one, name) for one in before], dim=1) for name in Examples._fields]
        inner = Examples(stacked[0], stacked[1])
    else:
        inner = Examples(*(part[:, None][:, :0] for part in (query.tensor, query.targets)))
    return Episode(inner, query, query.tensor.new_zeros(rows, 0))

"""Execution of an algorithm over policies for a batch of tasks.

Acting is one vectorised program for all tasks and trajectories. What runs over a whole batch of rollouts goes task
after task, by programs recorded once: thousands of rows a task leave nothing to gain by vectorising, and only one
task's intermediates are kept. Meta-gradients go through the strategies of :mod:`meta.engine.strategies`.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from meta.context import FIXED, Context
from meta.engine.calls import Calls, Prepared
from meta.engine.strategies import Engine, MetaGradient
from meta.episode import Episode, Examples, from_leaves, leaves
from meta.inner import At
from meta.params import Params
from meta.policy.algorithms import PolicyMAML, fisher_product

ALIGNMENT = 64  # bytes; where a matrix begins elsewhere, its product may be added up in another order


class PolicyEngine:
    """The functions of a policy algorithm for a batch of T tasks.

    A task's results have the same bits whichever other tasks are in the batch; sums over tasks are added in their
    order.
    """

    def __init__(self, algorithm: PolicyMAML, gradients: Callable[[], Engine], memory: int | None = None) -> None:
        """Makes an engine without recorded programs.

        Args:
            algorithm: the algorithm to execute.
            gradients: returns the engine for meta-gradients; called when a meta-gradient is requested.
            memory: bytes that may be kept between products, over all batches in use; None: no limit.
        """
        self._algorithm = algorithm
        self._gradients, self._memory = gradients, memory
        self._kept: WeakSet[Prepared] = WeakSet()  # of all batches whose products are still in use
        self._calls = Calls()

    def act(self, params: Params, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns actions [T, N, A] and the distributions [T, N, M] they are sampled from.

        Args:
            params: each task's own parameters, [T, ...].
            observations: [T, N, O].
            noise: random numbers that :meth:`meta.policy.distributions.Policy.sample` takes, [T, N, A].
        """
        policy = self._algorithm.model

        def one(params: Params, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            outputs = policy.apply(params, observations)
            return policy.sample(outputs, noise), outputs

        tasks = len(observations)
        if tasks == 1:  # a product of single matrices would go another way than one of several
            params = {name: value.repeat_interleave(2, dim=0) for name, value in params.items()}
            observations, noise = observations.repeat(2, 1, 1), noise.repeat(2, 1, 1)
        rows = observations.shape[1]
        if spare := -rows % (ALIGNMENT // observations.element_size()):  # each task's rows are to begin alike
            observations, noise = (F.pad(part, (0, 0, 0, spare)) for part in (observations, noise))
        actions, outputs = self._calls.run("act", vmap(one), params, observations, noise)
        return actions[:tasks, :rows], outputs[:tasks, :rows]

    def begin(self, params: Params, tasks: int) -> At:
        """Returns each task's own point of the inner loop before the first step, every tensor [T, ...].

        Args:
            params: θ.
            tasks: T.
        """
        at = self._algorithm.inner.begin(params)
        parts = (at.params, at.state, at.learned)
        own = tree_map(lambda value: value.expand(tasks, *value.shape).clone(), parts)
        return At(own[0], own[1], 0, {}, own[2])

    def step(self, at: At, examples: Examples, context: Context = FIXED) -> At:
        """Returns each task's own point of the inner loop after one more step.

        Args:
            at: every tensor [T, ...].
            examples: each task's rollouts, packed, [T, B, ...].
            context: holds α under ``lr``.
        """
        number = at.number if self._algorithm.inner.rule.per_step else 0
        rows = []

        def step(parts: tuple[Params, Any, Params], inputs: Tensor, targets: Tensor, numbers: Params) -> Any:
            params, state, learned = parts
            before = At(params, state, number, {}, learned)
            after = self._algorithm.step(before, Examples(inputs, targets), Context(numbers))
            return after.params, after.state

        for task in range(len(examples.tensor)):
            # Clones are aligned, rows may not be.
            own = tree_map(lambda value, task=task: value[task].clone(), (at.params, at.state, at.learned))
            data = (examples.tensor[task].clone(), examples.targets[task].clone())
            rows.append(self._calls.run(("step", number), step, own, *data, dict(context.numbers)))
        params, state = tree_map(lambda *values: torch.stack(values), *rows)
        return at._replace(params=params, state=state, number=at.number + 1)

    def meta_gradient(self, params: Params, episodes: Episode, context: Context = FIXED) -> MetaGradient:
        """Returns the sum of the tasks' meta-gradients, and their metrics, each [T].

        Args:
            params: θ.
            episodes: rollouts of T tasks: support [T, J, B, ...], query [T, B, ...].
            context: the scheduled numbers.
        """
        return self._gradients().meta_gradient(params, episodes, context)

    def fisher_products(
        self, params: Params, episodes: Episode, context: Context = FIXED
    ) -> Callable[[Params], Params]:
        """Returns the function v -> the sum over tasks of :func:`meta.policy.algorithms.fisher_product`.

        The part that does not depend on v, two thirds of the work, is computed for each task at its first product and
        kept, as long as all kept parts stay within the engine's ``memory``.

        Args:
            params: θ.
            episodes: rollouts of T tasks, [T, ...].
            context: holds α under ``lr``.
        """

        def one(fixed: tuple[Params, tuple[Tensor, ...], Params], vector: Params) -> Params:
            return fisher_product(self._algorithm, fixed[0], vector, from_leaves(fixed[1]), Context(fixed[2]))

        tasks = range(len(episodes.description))
        kept: dict[int, Prepared] = {}

        def prepared(task: int, vector: Params) -> Prepared:
            if task in kept:
                return kept[task]
            task_product = self._calls.prepare(
                "fisher_product", one, (params, _apart(episodes, task), dict(context.numbers)), vector
            )
            if self._memory is None or sum(one.nbytes for one in self._kept) + task_product.nbytes <= self._memory:
                kept[task] = task_product
                self._kept.add(task_product)
            return task_product

        def product(vector: Params) -> Params:
            total: Params = {}
            for task in tasks:
                curved = prepared(task, vector)(vector)
                total = {name: total[name].add_(part) if total else part.clone() for name, part in curved.items()}
            return total

        return product

    def surrogate_and_kl(self, params: Params, episodes: Episode, context: Context = FIXED) -> Tensor:
        """Returns surrogate and KL divergence of each task's adapted policy, [T, 2].

        Args:
            params: θ.
            episodes: rollouts of T tasks: support [T, J, B, ...], query [T, B, ...].
            context: holds α under ``lr``.
        """
        tasks, numbers = range(len(episodes.description)), dict(context.numbers)

        def one(params: Params, parts: tuple[Tensor, ...], numbers: Params) -> Tensor:
            return self._algorithm.surrogate_and_kl(params, from_leaves(parts), Context(numbers))

        return torch.stack(
            [self._calls.run("surrogate_and_kl", one, params, _apart(episodes, task), numbers) for task in tasks]
        )


def _apart(episodes: Episode, task: int) -> tuple[Tensor, ...]:
    """Returns copies of the tensors of one task's episode, aligned as torch aligns its allocations."""
    return tuple(leaf[task].clone() for leaf in leaves(episodes))

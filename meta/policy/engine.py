"""Execution of an algorithm over policies for a batch of tasks.

Acting is one vectorised program for all tasks and trajectories. What runs over a whole batch of rollouts goes task
after task, by programs recorded once: thousands of rows a task leave nothing to gain by vectorising, and only one
task's intermediates are kept. Meta-gradients go through the strategies of :mod:`meta.engine.strategies`.
"""

from collections.abc import Callable
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from meta.engine.calls import Calls, Prepared
from meta.engine.strategies import Engine, MetaGradient
from meta.episode import Episode, Examples, from_leaves, leaves
from meta.params import Params
from meta.policy.algorithms import PolicyMAML, fisher_product

ALIGNMENT = 64  # bytes; where a matrix begins elsewhere, its product may be added up in another order


class PolicyEngine:
    """The batch functions of an algorithm over policies.

    Every function gives a task the same bits whichever tasks are beside it, and adds tasks up in their order.
    """

    def __init__(self, algorithm: PolicyMAML, gradients: Callable[[], Engine], memory: int | None = None) -> None:
        """Record nothing yet.

        Args:
            algorithm: what is computed.
            gradients: gives the engine for meta-gradients, when it is first asked for.
            memory: bytes that may be kept between products, of all batches in use; None: as many as it takes.
        """
        self._algorithm = algorithm
        self._gradients, self._memory = gradients, memory
        self._kept: WeakSet[Prepared] = WeakSet()  # of all batches whose products are still in use
        self._calls = Calls()

    def act(self, params: Params, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [T, N, A] and distributions [T, N, M] of each task's own parameters [T, …] at [T, N, O]."""
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
            observations, noise = (F.pad(given, (0, 0, 0, spare)) for given in (observations, noise))
        actions, outputs = self._calls.run("act", vmap(one), params, observations, noise)
        return actions[:tasks, :rows], outputs[:tasks, :rows]

    def step(self, params: Params, examples: Examples, lr: float) -> Params:
        """One inner step of each task's own parameters [T, …] on its rollouts [T, B, …]."""
        rows = []
        for task in range(len(examples.inputs)):
            own = {name: value[task].clone() for name, value in params.items()}  # clones are aligned, rows may not be
            data = (examples.inputs[task].clone(), examples.targets[task].clone())
            rows.append(self._calls.run(("step", lr), self._step(lr), own, *data))
        return {name: torch.stack([row[name] for row in rows]) for name in params}

    def _step(self, lr: float) -> Callable[[Params, Tensor, Tensor], Params]:
        def step(params: Params, inputs: Tensor, targets: Tensor) -> Params:
            return self._algorithm.step(params, Examples(inputs, targets), lr)

        return step

    def meta_gradient(self, params: Params, episodes: Episode) -> MetaGradient:
        """The sum of the tasks' meta-gradients, and their metrics, each [T]."""
        return self._gradients().meta_gradient(params, episodes)

    def fisher_products(self, params: Params, episodes: Episode) -> Callable[[Params], Params]:
        """The function that gives the sum over tasks of :func:`meta.policy.algorithms.fisher_product` for a vector.

        What does not depend on the vector, two thirds of the work, is computed for each task at its first product and
        kept, as long as it stays within the memory allowed in all.
        """

        def one(fixed: tuple[Params, tuple[Tensor, ...]], vector: Params) -> Params:
            return fisher_product(self._algorithm, fixed[0], vector, from_leaves(fixed[1]))

        tasks = range(len(episodes.description))
        kept: dict[int, Prepared] = {}

        def prepared(task: int, vector: Params) -> Prepared:
            if task in kept:
                return kept[task]
            found = self._calls.prepare("fisher_product", one, (params, _apart(episodes, task)), vector)
            if self._memory is None or sum(one.nbytes for one in self._kept) + found.nbytes <= self._memory:
                kept[task] = found
                self._kept.add(found)
            return found

        def product(vector: Params) -> Params:
            total: Params = {}
            for task in tasks:
                found = prepared(task, vector)(vector)
                total = {name: total[name].add_(part) if total else part.clone() for name, part in found.items()}
            return total

        return product

    def surrogate_and_kl(self, params: Params, episodes: Episode) -> Tensor:
        """Surrogate and KL divergence of each task's adapted policy, [T, 2]."""
        tasks = range(len(episodes.description))

        def one(params: Params, parts: tuple[Tensor, ...]) -> Tensor:
            return self._algorithm.surrogate_and_kl(params, from_leaves(parts))

        return torch.stack([self._calls.run("surrogate_and_kl", one, params, _apart(episodes, task)) for task in tasks])


def _apart(episodes: Episode, task: int) -> tuple[Tensor, ...]:
    """The tensors of one task's episode in memory of their own, aligned like any other."""
    return tuple(leaf[task].clone() for leaf in leaves(episodes))

"""The table of suites: what is differentiated, on which shapes, and the work itself with weights and data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from benchmarks.episodes import generator, images, rollouts, sinusoids
from benchmarks.navigation import SURROGATE, PolicyGradient, importance_ratio, likelihood_ratio
from benchmarks.user_models import Encoder, ResNet18, SequenceClassifier, UserModel
from meta.algorithms import MAML, Algorithm
from meta.episode import Episode, Examples, from_leaves, leaves, place, unstack
from meta.inner import Inner
from meta.models import MLP, Conv4, Model, ResNet12
from meta.objectives import CROSS_ENTROPY, MSE, Measure, Objective
from meta.params import Params
from meta.policy import GaussianPolicy


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One load.

    Attributes:
        name: what it is asked for by.
        says: what it is, for tables.
        model: the network; whose class also decides the kind of episode.
        objective: loss of the task; for a policy the outer one.
        tasks: tasks of a meta-batch.
        lr: α.
        steps: inner steps.
        way: classes of a task; 1 where there are none.
        shot: support examples per class.
        query: query examples per class.
    """

    name: str
    says: str
    model: MLP | Conv4 | ResNet12 | GaussianPolicy | UserModel
    objective: Objective
    tasks: int
    lr: float
    steps: int = 1
    way: int = 1
    shot: int
    query: int

    @property
    def support(self) -> int:
        """Support examples of a task."""
        return self.way * self.shot

    @property
    def queries(self) -> int:
        """Query examples of a task."""
        return self.way * self.query

    @property
    def algorithm(self) -> Algorithm:
        """MAML on this load; every parameter moves in the inner loop."""
        cls: type[Any] = PolicyGradient if isinstance(self.model, GaussianPolicy) else MAML
        algorithm: Algorithm = cls(
            model=self.model, objective=self.objective, inner=Inner(lr=self.lr, steps=self.steps)
        )
        return algorithm

    @property
    def losses(self) -> tuple[Measure, Measure]:
        """The inner and the outer objective, each (outputs, targets) -> scalar."""
        if isinstance(self.model, GaussianPolicy):
            return likelihood_ratio, importance_ratio
        return self.objective.loss, self.objective.loss

    def params(self) -> Params:
        """The weights that all competitors start from, in float32."""
        return self.model.init(generator(), torch.float32)

    def episodes(self) -> Episode:
        """The meta-batch [T, ...], in float32."""
        if isinstance(self.model, GaussianPolicy):
            return rollouts(self.tasks, self.model, self.params(), self.shot, self.query)
        if isinstance(self.model, MLP):
            return sinusoids(self.tasks, self.shot, self.query)
        return images(self.tasks, self.model.inputs, self.way, self.shot, self.query)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A suite's weights and data at one precision on one device."""

    suite: Suite
    params: Params
    episodes: Episode

    @classmethod
    def of(cls, suite: Suite, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Self:
        """The work of a suite, with the numbers of float32 at every precision.

        Args:
            suite: the measurement.
            dtype: of weights and data.
            device: of weights and data.
        """
        params = {name: value.to(device=device, dtype=dtype) for name, value in suite.params().items()}
        return cls(suite=suite, params=params, episodes=place(suite.episodes(), dtype, device))

    @property
    def model(self) -> Model:
        """The network."""
        return self.suite.model

    @property
    def dtype(self) -> torch.dtype:
        """The precision."""
        return next(iter(self.params.values())).dtype

    @property
    def device(self) -> torch.device:
        """Device of weights and data."""
        return next(iter(self.params.values())).device

    def tasks(self) -> list[Episode]:
        """Episodes one by one."""
        return [unstack(self.episodes, task) for task in range(self.suite.tasks)]

    def part(self, start: int, stop: int) -> "Work":
        """The work of tasks ``start`` … ``stop - 1``.

        Args:
            start: first task.
            stop: after the last task.
        """
        episodes = from_leaves([leaf[start:stop].clone() for leaf in leaves(self.episodes)])
        return replace(self, suite=replace(self.suite, tasks=stop - start), episodes=episodes)

    def inner(self, params: Params, support: Examples) -> Tensor:
        """The inner objective, a scalar.

        Args:
            params: by name.
            support: of one task.
        """
        return self.suite.losses[0](self.model.apply(params, support.inputs), support.targets)

    def outer(self, params: Params, query: Examples) -> Tensor:
        """The outer objective, a scalar.

        Args:
            params: adapted to the task, by name.
            query: of one task.
        """
        return self.suite.losses[1](self.model.apply(params, query.inputs), query.targets)


def _omniglot(name: str, says: str, *, way: int, query: int, tasks: int, lr: float, steps: int) -> Suite:
    return Suite(
        name=name,
        says=says,
        model=Conv4(inputs=(1, 28, 28), outputs=way, channels=64, down="stride"),
        objective=CROSS_ENTROPY,
        tasks=tasks,
        lr=lr,
        steps=steps,
        way=way,
        shot=1,
        query=query,
    )


SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="sinusoid",
            says="sinusoids, 10 points, 25 tasks, 1 step",
            # Kaiming's weights: the second-order part of the gradient is then as large as the first-order part.
            model=MLP(inputs=(1,), outputs=1, hidden=(40, 40), init_std=None),
            objective=MSE,
            tasks=25,
            lr=0.01,
            shot=10,
            query=10,
        ),
        _omniglot(
            "omniglot", "Omniglot 5-way 1-shot, 1 query, 32 tasks, 1 step", way=5, query=1, tasks=32, lr=0.4, steps=1
        ),
        _omniglot(
            "omniglot_15",
            "Omniglot 5-way 1-shot, 15 queries, 32 tasks, 1 step",
            way=5,
            query=15,
            tasks=32,
            lr=0.4,
            steps=1,
        ),
        _omniglot(
            "omniglot_20way",
            "Omniglot 20-way 1-shot, 1 query, 16 tasks, 5 steps",
            way=20,
            query=1,
            tasks=16,
            lr=0.1,
            steps=5,
        ),
        Suite(
            name="mini_imagenet",
            says="mini-ImageNet 5-way 1-shot, 15 queries, 4 tasks, 5 steps",
            model=Conv4(inputs=(3, 84, 84), outputs=5, channels=32, down="pool"),
            objective=CROSS_ENTROPY,
            tasks=4,
            lr=0.05,
            steps=5,
            way=5,
            shot=1,
            query=15,
        ),
        Suite(
            name="cifar_fs_resnet12",
            says="CIFAR-FS 5-way 1-shot with ResNet-12, 15 queries, 2 tasks, 1 step",
            model=ResNet12(inputs=(3, 32, 32), outputs=5),
            objective=CROSS_ENTROPY,
            tasks=2,
            lr=0.05,
            way=5,
            shot=1,
            query=15,
        ),
        Suite(
            name="lstm",
            says="sequences of 50 steps 5-way 2-shot, LSTM of 64 units, 4 tasks, 1 step",
            model=UserModel(lambda: SequenceClassifier(8, 64, 5), (50, 8)),
            objective=CROSS_ENTROPY,
            tasks=4,
            lr=0.05,
            way=5,
            shot=2,
            query=2,
        ),
        Suite(
            name="transformer",
            says="64 tokens 5-way 1-shot, 4-layer transformer encoder of width 128, 2 tasks, 1 step",
            model=UserModel(lambda: Encoder(16, 128, 4, 5), (64, 16)),
            objective=CROSS_ENTROPY,
            tasks=2,
            lr=0.05,
            way=5,
            shot=1,
            query=1,
        ),
        Suite(
            name="resnet12_84",
            says="84 × 84 images 5-way 1-shot with ResNet-12, 1 query, 1 task, 1 step",
            model=ResNet12(inputs=(3, 84, 84), outputs=5),
            objective=CROSS_ENTROPY,
            tasks=1,
            lr=0.05,
            way=5,
            shot=1,
            query=1,
        ),
        Suite(
            name="resnet18_84",
            says="84 × 84 images 5-way 1-shot with ResNet-18, 1 query, 1 task, 1 step",
            model=UserModel(lambda: ResNet18(5), (3, 84, 84)),
            objective=CROSS_ENTROPY,
            tasks=1,
            lr=0.05,
            way=5,
            shot=1,
            query=1,
        ),
        Suite(
            name="navigation",
            says="policy gradients, 20 + 20 trajectories of 100 steps, 20 tasks, 1 step",
            model=GaussianPolicy(inputs=(2,), outputs=2, hidden=(100, 100)),
            objective=SURROGATE,
            tasks=20,
            lr=0.1,
            shot=2000,
            query=2000,
        ),
    )
}

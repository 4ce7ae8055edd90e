"""Meta-learning algorithms: what is differentiated in training, and how a task is adapted to.

Each is written for one task; the engine runs it over a batch of tasks. An algorithm of your own is a class
with these methods, named in the configuration by its import path.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor
from torch.func import grad

from meta.adapt import EVERY, adapt, path, require_matches
from meta.episode import Episode, Examples, NoisyEpisode, pooled
from meta.models.base import Model
from meta.models.keyed import Keyed
from meta.models.norm import BatchNorm, NormalisedModel
from meta.objectives import Objective
from meta.params import Params

Metrics = dict[str, Tensor]
NO_NOISE = torch.zeros(0)


class Algorithm(Protocol):
    """The interface of a meta-learning algorithm that the engine, the evaluation and the figures use.

    The class is constructed as ``cls(model=…, objective=…, inner_lr=…, inner_steps=…, adapt=…)``. Its methods compute
    one
    task; the engine maps them over the tasks of a shard.

    Attributes:
        model: the network.
        objective: loss and score of the task family.
        inner_steps: inner steps in training.
    """

    model: Model
    objective: Objective
    inner_steps: int

    @staticmethod
    def input_shape(inputs: tuple[int, ...], description: int) -> tuple[int, ...]:
        """Returns the shape of one model input, without the example dimension.

        Args:
            inputs: the family's shape of one input.
            description: size D of the family's task descriptions.
        """
        ...

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns fresh meta-parameters θ.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        ...

    def meta_loss(self, params: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        """Returns the outer objective of one task, a scalar, and metrics to report, scalars by name.

        Args:
            params: θ.
            episode: one task's data.
        """
        ...

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...]) -> Tensor:
        """Returns the query score of one task after each number of inner steps, [K].

        Args:
            params: θ.
            episode: one task's data.
            steps: K increasing numbers of inner steps.
        """
        ...

    def predict(self, params: Params, episode: Episode, inputs: Tensor, steps: int) -> Tensor:
        """Returns outputs [B, ...] of the model adapted to one task.

        Args:
            params: θ.
            episode: the task's data; only its support and description are used.
            inputs: [B, ...].
            steps: number of inner steps on the support.
        """
        ...


def gradient_of(algorithm: Algorithm) -> Callable[[Params, Episode], tuple[Params, Metrics]]:
    """Returns the function (θ, one task's episode) -> (meta-gradient, metrics) that training computes.

    While the function runs, models are in training mode: random layers draw from the episode's noise, see
    :mod:`meta.models.keyed`.
    """

    def meta_loss(params: Params, episode: Episode, noise: Tensor) -> tuple[Tensor, Metrics]:
        with Keyed(noise):
            return algorithm.meta_loss(params, episode)

    def gradient(params: Params, episode: Episode) -> tuple[Params, Metrics]:
        noise = episode.noise if isinstance(episode, NoisyEpisode) else NO_NOISE
        result: tuple[Params, Metrics] = grad(meta_loss, has_aux=True)(params, Episode(*episode), noise)
        return result

    return gradient


def noise_size(algorithm: Algorithm, params: Params, episode: Episode) -> int:
    """Returns M, the number of random numbers that the meta-loss of one task draws.

    Args:
        algorithm: computes the meta-loss.
        params: θ.
        episode: one task's data; M depends on its shapes alone.
    """
    counter = Keyed()
    with counter:
        algorithm.meta_loss(params, episode)
    return counter.position


@dataclass(frozen=True, kw_only=True)
class MAML:
    """Model-agnostic meta-learning (Finn, Abbeel, Levine 2017, Algorithms 1 and 2).

    The outer objective of a task is L(θ'; query) with θ' the parameters after ``inner_steps`` steps of
    gradient descent on the support loss. Its gradient with respect to θ is exact, second order included.

    Attributes:
        model: the network.
        objective: loss and score, given by the task family.
        inner_lr: α.
        inner_steps: inner steps in training; evaluation may ask for any number.
        adapt: patterns of the names of the parameters that the inner loop moves; the others are meta-learned only.
            ``("head.*",)`` is ANIL (Raghu et al. 2020).
        recompute: compute inner steps again when they are differentiated, see :func:`meta.adapt.path`.
    """

    model: Model
    objective: Objective
    inner_lr: float
    inner_steps: int
    adapt: tuple[str, ...] = EVERY
    recompute: bool = False
    first_order: ClassVar[bool] = False
    informed: ClassVar[bool] = False  # whether inputs come with the task's description

    @staticmethod
    def input_shape(inputs: tuple[int, ...], description: int) -> tuple[int, ...]:
        """Returns ``inputs``, the family's own input shape; see :meth:`Algorithm.input_shape`."""
        del description
        return inputs

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the model's initial parameters.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.

        Raises:
            ValueError: if a pattern of ``adapt`` fits none of them.
        """
        params = self.model.init(generator, dtype)
        require_matches(params, self.adapt)
        return params

    def loss(self, params: Params, examples: Examples) -> Tensor:
        """Returns the objective's loss of the model on ``examples`` ([B, ...]), a scalar."""
        return self.objective.loss(self.model.apply(params, examples.inputs), examples.targets)

    def outputs(self, params: Params, inputs: Tensor, support: Examples) -> Tensor:
        """Returns the model's outputs [B, ...] for inputs of one task.

        Args:
            params: the parameters adapted to the task.
            inputs: [B, ...].
            support: the task's support examples, [S, ...]; their statistics are used if batch norm is ``inductive``.
        """
        if batch_norm_of(self.model) == "inductive":
            return cast(NormalisedModel, self.model).apply(params, inputs, support.inputs)
        return self.model.apply(params, inputs)

    def _path(self, params: Params, support: Examples, steps: int) -> Iterator[tuple[Params, Tensor | None]]:
        return path(
            self.loss,
            params,
            support,
            steps=steps,
            lr=self.inner_lr,
            first_order=self.first_order,
            names=self.adapt,
            recompute=self.recompute,
        )

    def meta_loss(self, params: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        """Returns L(θ'; query), a scalar, and the metrics: support loss before adaptation, query loss and query score.

        Args:
            params: θ.
            episode: one task's data.
        """
        walk = list(self._path(params, episode.support, self.inner_steps))
        adapted, _ = walk[-1]
        metrics: Metrics = {}
        if len(walk) > 1 and (support_loss := walk[1][1]) is not None:
            metrics["support_loss"] = support_loss
        outputs = self.outputs(adapted, episode.query.inputs, episode.support)
        loss = self.objective.loss(outputs, episode.query.targets)
        metrics["loss"] = loss
        metrics[self.objective.metric] = self.objective.score(outputs, episode.query.targets)
        return loss, metrics

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...]) -> Tensor:
        """Returns the query score after each number of inner steps in ``steps``, [K], by one pass along the inner loop.

        Args:
            params: θ.
            episode: one task's data.
            steps: K increasing numbers of inner steps.
        """
        scores = []
        for number, (adapted, _) in enumerate(self._path(params, episode.support, max(steps))):
            if number in steps:
                outputs = self.outputs(adapted, episode.query.inputs, episode.support)
                scores.append(self.objective.score(outputs, episode.query.targets))
        return torch.stack(scores)

    def step(self, params: Params, support: Examples) -> Params:
        """Returns the parameters after one inner step on a task's support ([S, ...])."""
        *_, (moved, _) = self._path(params, support, 1)
        return moved

    def predict(self, params: Params, episode: Episode, inputs: Tensor, steps: int) -> Tensor:
        """Returns outputs [B, ...] of the adapted model.

        Args:
            params: θ.
            episode: the task's data; only its support is used.
            inputs: [B, ...].
            steps: number of inner steps on the support.
        """
        adapted = adapt(self.loss, params, episode.support, steps=steps, lr=self.inner_lr, names=self.adapt)
        return self.outputs(adapted, inputs, episode.support)


@dataclass(frozen=True, kw_only=True)
class FirstOrderMAML(MAML):
    """MAML whose inner gradients are treated as constants (Finn et al. 2017, 5.2, «first-order approx.»)."""

    first_order: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Pretrain(MAML):
    """The paper's baseline: one network trained on all tasks together, fine-tuned at evaluation.

    Training descends the loss on all examples of a task, without adaptation; evaluation takes inner steps of
    size ``inner_lr`` from there, as MAML does (Finn et al. 2017, 5.1).
    """

    def meta_loss(self, params: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        """Returns L(θ; support and query), a scalar, and the metrics; the parameters are not adapted."""
        examples = pooled(episode)
        outputs = self.model.apply(params, examples.inputs)
        loss = self.objective.loss(outputs, examples.targets)
        return loss, {"loss": loss, self.objective.metric: self.objective.score(outputs, examples.targets)}


@dataclass(frozen=True, kw_only=True)
class Oracle(Pretrain):
    """A network that sees the task's description beside every input; the bound that adaptation works towards.

    It knows the task already, so it takes no inner steps: its score is the same at every number of them
    (Finn et al. 2017, 5.1).
    """

    informed: ClassVar[bool] = True

    @staticmethod
    def input_shape(inputs: tuple[int, ...], description: int) -> tuple[int, ...]:
        """Returns the shape of a flat input with the description appended, [I + D].

        Args:
            inputs: the family's shape of one input, (I,).
            description: size D of the family's task descriptions.

        Raises:
            ValueError: if the family's tasks have no description, or its inputs are not vectors.
        """
        if description < 1 or len(inputs) != 1:
            raise ValueError(
                "algorithm oracle expects a family of vector inputs that describes its tasks "
                f"(spec.description above 0), received inputs of shape {inputs} and a description of size "
                f"{description}"
            )
        return (inputs[0] + description,)

    def meta_loss(self, params: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        """Returns L(θ; support and query), a scalar, and the metrics, with the description appended to every input."""
        return super().meta_loss(params, self._informed(episode))

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...]) -> Tensor:
        """Returns the query score without adaptation, repeated for every entry of ``steps``, [K]."""
        return super().scores(params, self._informed(episode), (0,)).expand(len(steps))

    def predict(self, params: Params, episode: Episode, inputs: Tensor, steps: int) -> Tensor:
        """Returns outputs [B, ...] for inputs [B, I] with the description appended; ``steps`` is ignored."""
        del steps
        return self.model.apply(params, _beside(inputs, episode.description))

    @staticmethod
    def _informed(episode: Episode) -> Episode:
        support, query, description = episode
        return Episode(
            Examples(_beside(support.inputs, description), support.targets),
            Examples(_beside(query.inputs, description), query.targets),
            description,
        )


def batch_norm_of(model: Model) -> BatchNorm | None:
    """Returns the model's batch-norm mode; None if the model has no batch norm or no attribute ``batch_norm``."""
    mode: BatchNorm | None = getattr(model, "batch_norm", None)
    return mode


def _beside(inputs: Tensor, description: Tensor) -> Tensor:
    """Appends a description [D] to every row of inputs [B, I], giving [B, I + D]."""
    return torch.cat([inputs, description.expand(inputs.shape[0], -1)], dim=1)

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
    """What engine, evaluation and figures need of a meta-learning algorithm.

    Its class is constructed as ``cls(model=…, objective=…, inner_lr=…, inner_steps=…, adapt=…)``.
    """

    model: Model
    objective: Objective
    inner_steps: int

    @staticmethod
    def input_shape(inputs: tuple[int, ...], description: int) -> tuple[int, ...]:
        """Shape of one model input, given the family's and the size of its task descriptions."""
        ...

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Fresh meta-parameters θ."""
        ...

    def meta_loss(self, params: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        """The outer objective of one task, a scalar, and scalars to report."""
        ...

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...]) -> Tensor:
        """The query score of one task after each number of inner steps in ``steps`` (increasing), [K]."""
        ...

    def predict(self, params: Params, episode: Episode, inputs: Tensor, steps: int) -> Tensor:
        """Outputs [B, ...] for ``inputs`` [B, ...] after ``steps`` inner steps on the episode's support."""
        ...


def gradient_of(algorithm: Algorithm) -> Callable[[Params, Episode], tuple[Params, Metrics]]:
    """The function (θ, one task's episode) -> meta-gradient and metrics that training computes.

    While it runs, models are in training: random layers draw from the episode's noise, see :mod:`meta.models.keyed`.
    """

    def meta_loss(params: Params, episode: Episode, noise: Tensor) -> tuple[Tensor, Metrics]:
        with Keyed(noise):
            return algorithm.meta_loss(params, episode)

    def gradient(params: Params, episode: Episode) -> tuple[Params, Metrics]:
        noise = episode.noise if isinstance(episode, NoisyEpisode) else NO_NOISE
        found: tuple[Params, Metrics] = grad(meta_loss, has_aux=True)(params, Episode(*episode), noise)
        return found

    return gradient


def noise_size(algorithm: Algorithm, params: Params, episode: Episode) -> int:
    """Random numbers M that the meta-loss of one task takes."""
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
        """The family's own input shape."""
        del description
        return inputs

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """The model's initial parameters.

        Raises:
            ValueError: if a pattern of ``adapt`` fits none of them.
        """
        params = self.model.init(generator, dtype)
        require_matches(params, self.adapt)
        return params

    def loss(self, params: Params, examples: Examples) -> Tensor:
        """The objective's loss of the model on ``examples``, a scalar."""
        return self.objective.loss(self.model.apply(params, examples.inputs), examples.targets)

    def outputs(self, params: Params, inputs: Tensor, support: Examples) -> Tensor:
        """Outputs [B, ...] for ``inputs`` [B, ...] of a task, under its adapted parameters."""
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
        """L(θ'; query), with the support loss before adaptation and the query score beside it."""
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
        """One pass along the adaptation path, scored on the query set where asked."""
        wanted = []
        for number, (adapted, _) in enumerate(self._path(params, episode.support, max(steps))):
            if number in steps:
                outputs = self.outputs(adapted, episode.query.inputs, episode.support)
                wanted.append(self.objective.score(outputs, episode.query.targets))
        return torch.stack(wanted)

    def step(self, params: Params, support: Examples) -> Params:
        """Parameters after one inner step on a task's support."""
        *_, (moved, _) = self._path(params, support, 1)
        return moved

    def predict(self, params: Params, episode: Episode, inputs: Tensor, steps: int) -> Tensor:
        """Outputs of the adapted model."""
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
        """L(θ; support and query)."""
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
        """Flat inputs with the description appended.

        Raises:
            ValueError: if the family describes its tasks by nothing, or its inputs are not vectors.
        """
        if description < 1 or len(inputs) != 1:
            raise ValueError(
                "algorithm oracle expects a family of vector inputs that describes its tasks "
                f"(spec.description above 0), received inputs of shape {inputs} and a description of size "
                f"{description}"
            )
        return (inputs[0] + description,)

    def meta_loss(self, params: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        """L(θ; support and query), the description appended to every input."""
        return super().meta_loss(params, self._informed(episode))

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...]) -> Tensor:
        """The query score without adaptation, repeated for every entry of ``steps``."""
        return super().scores(params, self._informed(episode), (0,)).expand(len(steps))

    def predict(self, params: Params, episode: Episode, inputs: Tensor, steps: int) -> Tensor:
        """Outputs of the informed model."""
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
    """The model's batch-norm mode; None where it has no such layer, or says nothing."""
    mode: BatchNorm | None = getattr(model, "batch_norm", None)
    return mode


def _beside(inputs: Tensor, description: Tensor) -> Tensor:
    """Append a description [D] to every row of inputs [B, I], giving [B, I + D]."""
    return torch.cat([inputs, description.expand(inputs.shape[0], -1)], dim=1)

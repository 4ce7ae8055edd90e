"""MAML, and the base of the methods that adapt parameters of a task by inner steps."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from meta.algorithms.adapting import Adapting
from meta.algorithms.base import Metrics
from meta.context import FIXED, Context
from meta.episode import Episode, Examples
from meta.inner import Exact, FirstOrder
from meta.inputs import Inputs, Shape
from meta.models.base import Model
from meta.models.norm import BatchNormMode, NormalisedModel
from meta.objectives import Objective
from meta.params import Params


@dataclass(frozen=True, kw_only=True)
class MAML(Adapting):
    """Model-agnostic meta-learning (Finn, Abbeel, Levine 2017, Algorithms 1 and 2).

    The outer objective of a task is L(θ'; query) with θ' the parameters after ``inner.steps`` steps on the support
    loss. Its gradient with respect to θ is exact, second order included, unless ``inner.derivative`` says otherwise.

    Other methods are subclasses. They change where a task starts (:meth:`start`), what inner steps descend
    (:meth:`loss`), what adapted parameters give (:meth:`outputs`), or the outer objective (:meth:`meta_loss`).

    Attributes:
        model: the network.
        objective: loss and score, given by the task family.
        inner: how a task's parameters are adapted. With ``adapt=("head.*",)`` this is ANIL (Raghu et al. 2020), with
            ``("!head.*", "*")`` BOIL (Oh et al. 2021).
    """

    objective: Objective

    @classmethod
    def sizes(cls, inputs: Shape, outputs: int, description: int, **keys: Any) -> tuple[Shape, int]:
        """Returns ``inputs`` and ``outputs``, those of the family; see :meth:`meta.algorithms.Algorithm.sizes`."""
        del description, keys
        return inputs, outputs

    def start(self, params: Params, support: Examples) -> Params:
        """Returns the parameters of one task before its inner loop.

        Args:
            params: θ.
            support: the task's support examples, [S, ...].
        """
        del support
        return params

    def loss(self, params: Params, examples: Examples) -> Tensor:
        """Returns the objective's loss of the model on ``examples`` ([B, ...]), a scalar."""
        return self.objective.loss(self.model.apply(params, examples.inputs), examples.targets)

    def outputs(self, params: Params, inputs: Inputs, support: Examples) -> Tensor:
        """Returns the model's outputs [B, ...] for inputs of one task.

        Args:
            params: the parameters adapted to the task.
            inputs: [B, ...].
            support: the task's support examples, [S, ...]; their statistics are used if batch norm is ``inductive``.
        """
        if batch_norm_of(self.model) == "inductive":
            return cast(NormalisedModel, self.model).apply(params, inputs, support.inputs)
        return self.model.apply(params, inputs)

    def path(
        self, params: Params, support: Examples, steps: int | None = None, context: Context = FIXED
    ) -> Iterator[tuple[Params, Tensor | None]]:
        """Yields the task's parameters after 0, 1, … inner steps; see :meth:`meta.inner.Inner.path`.

        Args:
            params: θ.
            support: the task's support examples, [S, ...].
            steps: number of inner steps; None: those of training.
            context: the scheduled numbers.
        """
        return self.inner.path(self.loss, self.start(params, support), support, steps, context)

    def meta_loss(self, params: Params, episode: Episode, context: Context = FIXED) -> tuple[Tensor, Metrics]:
        """Returns L(θ'; query), a scalar, and the metrics: support loss before adaptation, query loss and query score.

        Args:
            params: θ.
            episode: one task's data.
            context: the scheduled numbers of the outer step.
        """
        walk = list(self.path(params, episode.support, None, context))
        adapted, _ = walk[-1]
        metrics: Metrics = {}
        if len(walk) > 1 and (support_loss := walk[1][1]) is not None:
            metrics["support_loss"] = support_loss
        loss, of_query = self.query_loss(adapted, episode)
        return loss, metrics | of_query

    def query_loss(self, adapted: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        """Returns the loss of adapted parameters on the query examples, a scalar, and loss and score as metrics.

        Args:
            adapted: the task's parameters.
            episode: the task's data.
        """
        outputs = self.outputs(adapted, episode.query.inputs, episode.support)
        loss = self.objective.loss(outputs, episode.query.targets)
        return loss, {"loss": loss, self.objective.metric: self.objective.score(outputs, episode.query.targets)}

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        """Returns the query score after each number of inner steps in ``steps``, [K], by one pass along the inner loop.

        Args:
            params: θ.
            episode: one task's data.
            steps: K increasing numbers of inner steps.
            context: the numbers after training.
        """
        scores = []
        for number, (adapted, _) in enumerate(self.path(params, episode.support, max(steps), context)):
            if number in steps:
                outputs = self.outputs(adapted, episode.query.inputs, episode.support)
                scores.append(self.objective.score(outputs, episode.query.targets))
        return torch.stack(scores)

    def predict(
        self, params: Params, support: Examples, inputs: Inputs, steps: int, context: Context = FIXED
    ) -> Tensor:
        """Returns outputs [B, ...] of the adapted model.

        Args:
            params: θ.
            support: the task's support examples, [S, ...].
            inputs: [B, ...].
            steps: number of inner steps on the support.
            context: the numbers after training.
        """
        *_, (adapted, _) = self.path(params, support, steps, context)
        return self.outputs(adapted, inputs, support)


@dataclass(frozen=True, kw_only=True)
class FirstOrderMAML(MAML):
    """MAML whose inner gradients are treated as constants (Finn et al. 2017, 5.2, «first-order approx.»).

    It is MAML with ``inner.derivative: first_order``, under a name of its own.
    """

    def __post_init__(self) -> None:
        """Set the derivative.

        Raises:
            ValueError: if the inner loop names another derivative.
        """
        if type(self.inner.derivative) not in (Exact, FirstOrder):
            raise ValueError(
                f"inner.derivative: expected none beside algorithm fomaml, which is first_order, received "
                f"{type(self.inner.derivative).__name__}"
            )
        object.__setattr__(self, "inner", replace(self.inner, derivative=FirstOrder()))


def batch_norm_of(model: Model) -> BatchNormMode | None:
    """Returns the model's batch-norm mode; None if the model has no batch norm or no attribute ``batch_norm``."""
    mode: BatchNormMode | None = getattr(model, "batch_norm", None)
    return mode

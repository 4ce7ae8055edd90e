"""The paper's baselines: one network for all tasks, fine-tuned; and one that is given the task's description."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from meta.algorithms.base import Metrics
from meta.algorithms.maml import MAML
from meta.context import FIXED, Context
from meta.episode import Episode, Examples, pooled
from meta.inputs import Inputs, Shape, one_shape
from meta.params import Params


@dataclass(frozen=True, kw_only=True)
class Pretrain(MAML):
    """One network trained on all tasks together, fine-tuned at evaluation.

    Training descends the loss on all examples of a task, without adaptation; evaluation takes inner steps of
    size ``inner.lr`` from there, as MAML does (Finn et al. 2017, 5.1).
    """

    def meta_loss(self, params: Params, episode: Episode, context: Context = FIXED) -> tuple[Tensor, Metrics]:
        """Returns L(θ; support and query), a scalar, and the metrics; the parameters are not adapted."""
        del context
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

    @classmethod
    def sizes(cls, inputs: Shape, outputs: int, description: int, **keys: Any) -> tuple[Shape, int]:
        """Returns the shape of a flat input with the description appended, [I + D], and the outputs as they are.

        Raises:
            ValueError: if the family's tasks have no description, or its inputs are not vectors.
        """
        del keys
        shape = one_shape(inputs, "algorithm oracle")
        if description < 1 or len(shape) != 1:
            raise ValueError(
                "algorithm oracle expects a family of vector inputs that describes its tasks "
                f"(spec.description above 0), received inputs of shape {shape} and a description of size "
                f"{description}"
            )
        return (shape[0] + description,), outputs

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        """Returns the query score without adaptation, repeated for every entry of ``steps``, [K]."""
        return super().scores(params, episode, (0,), context).expand(len(steps))

    def predict(
        self, params: Params, support: Examples, inputs: Inputs, steps: int, context: Context = FIXED
    ) -> Tensor:
        """Returns outputs [B, ...] for inputs [B, I + D]; ``steps`` is ignored."""
        del steps
        return super().predict(params, support, inputs, 0, context)

"""The interface of a meta-learning algorithm, and what the engine computes with one."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.func import grad

from meta.context import FIXED, Context, context
from meta.episode import Episode, Examples, NoisyEpisode
from meta.inputs import Inputs, Shape
from meta.models.base import Model
from meta.models.keyed import Keyed
from meta.objectives import Objective
from meta.params import Params

Metrics = dict[str, Tensor]
NO_NOISE = torch.zeros(0)


class Algorithm(Protocol):
    """The interface of a meta-learning algorithm that the engine, the evaluation, the figures and the registry use.

    The class is constructed as ``cls(model=…, objective=…, inner=…, …its own keys)``. Its methods compute one task; the
    engine maps them over the tasks of a shard. :class:`meta.algorithms.MAML` is a base that leaves little to write.

    Attributes:
        informed: whether every input has the task's description appended.
        model: the network.
        objective: loss and score of the task family.
    """

    informed: ClassVar[bool]
    model: Model
    objective: Objective

    @classmethod
    def sizes(cls, inputs: Shape, outputs: int, description: int, **keys: Any) -> tuple[Shape, int]:
        """Returns the shape of one input, and the number of outputs, of the model that the method needs.

        Args:
            inputs: the family's shape of one input, or one for each name.
            outputs: the family's number of outputs.
            description: size D of the family's task descriptions.
            **keys: the method's own keys.

        Raises:
            ValueError: if the method does not suit such a family.
        """
        ...

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns fresh meta-parameters θ.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        ...

    def numbers(self, step: int | None) -> Mapping[str, float | tuple[float, ...]]:
        """Returns the numbers of the context at an outer step, by name.

        Args:
            step: number of the outer step, from 0 on; None: after training.
        """
        ...

    def stage(self, step: int | None) -> str:
        """Returns the stage of the context at an outer step; see :class:`meta.context.Context`.

        Args:
            step: number of the outer step, from 0 on; None: after training.
        """
        ...

    def meta_loss(self, params: Params, episode: Episode, context: Context = FIXED) -> tuple[Tensor, Metrics]:
        """Returns the outer objective of one task, a scalar, and metrics to report, scalars by name.

        Args:
            params: θ.
            episode: one task's data.
            context: the scheduled numbers of the outer step.
        """
        ...

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        """Returns the query score of one task after each number of inner steps, [K].

        Args:
            params: θ.
            episode: one task's data.
            steps: K increasing numbers of inner steps.
            context: the numbers after training.
        """
        ...

    def predict(
        self, params: Params, support: Examples, inputs: Inputs, steps: int, context: Context = FIXED
    ) -> Tensor:
        """Returns outputs [B, ...] of the model adapted to one task.

        Args:
            params: θ.
            support: the task's support examples, [S, ...].
            inputs: [B, ...].
            steps: number of inner steps on the support.
            context: the numbers after training.
        """
        ...


def context_of(
    algorithm: Algorithm, step: int | None, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Context:
    """Returns the context of an algorithm at an outer step.

    Args:
        algorithm: gives the numbers.
        step: number of the outer step, from 0 on; None: after training.
        dtype: of θ.
        device: of θ.
    """
    return context(algorithm.numbers(step), dtype, device, algorithm.stage(step))


Gradient = Callable[..., tuple[Params, Metrics]]


def gradient_of(algorithm: Algorithm) -> Gradient:
    """Returns the function (θ, one task's episode, context) -> (meta-gradient, metrics) that training computes.

    While the function runs, models are in training mode: random layers draw from the episode's noise, see
    :mod:`meta.models.keyed`.
    """

    def gradient(params: Params, episode: Episode, context: Context = FIXED) -> tuple[Params, Metrics]:
        def meta_loss(params: Params, episode: Episode, noise: Tensor) -> tuple[Tensor, Metrics]:
            with Keyed(noise):
                return algorithm.meta_loss(params, episode, context)

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

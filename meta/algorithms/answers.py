"""The predictions of an algorithm in place of its scores, for an engine to compute."""

from typing import Any, cast

import torch
from torch import Tensor

from meta.algorithms.base import Algorithm
from meta.context import FIXED, Context
from meta.episode import Episode
from meta.params import Params


def answers_of(algorithm: Algorithm) -> Algorithm:
    """Returns the algorithm with its predictions for the query inputs as ``scores``: any strategy then computes them.

    Args:
        algorithm: predicts.
    """
    return cast(Algorithm, _Answers(algorithm))


class _Answers:
    def __init__(self, algorithm: Algorithm) -> None:
        """Keeps the algorithm."""
        self._algorithm = algorithm

    def __getattr__(self, name: str) -> Any:
        """Returns the algorithm's own member, for all but ``scores``."""
        return getattr(self._algorithm, name)

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        """Returns the outputs of one task after each number of inner steps, [K, Q, ...].

        Args:
            params: θ.
            episode: one task's data.
            steps: K increasing numbers of inner steps.
            context: the numbers after training.
        """
        predict, inputs = self._algorithm.predict, episode.query.inputs
        return torch.stack([predict(params, episode.support, inputs, number, context) for number in steps])

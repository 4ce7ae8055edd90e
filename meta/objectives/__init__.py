"""Objectives, the losses that are differentiated with the scores that select θ; and scores to report beside them.

Both are means over the examples of one task.
"""

from meta.objectives.base import DIVERGED, KINDS, RETURN, Measure, Objective, Score, Targets, is_diverged
from meta.objectives.classes import BinaryCrossEntropy, CrossEntropy, Focal, accuracy, cross_entropy
from meta.objectives.scores import TaskScore, measured
from meta.objectives.values import (
    GaussianNLL,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    PoissonNLL,
    Quantile,
    mean_squared_error,
)

MSE = MeanSquaredError()
CROSS_ENTROPY = CrossEntropy()
# Those that a family can name: without keys of their own.
OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        MSE,
        CROSS_ENTROPY,
        MeanAbsoluteError(),
        Huber(),
        GaussianNLL(),
        PoissonNLL(),
        BinaryCrossEntropy(),
        Focal(),
    )
}

__all__ = [
    "CROSS_ENTROPY",
    "DIVERGED",
    "KINDS",
    "MSE",
    "OBJECTIVES",
    "RETURN",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Focal",
    "GaussianNLL",
    "Huber",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Measure",
    "Objective",
    "PoissonNLL",
    "Quantile",
    "Score",
    "Targets",
    "TaskScore",
    "accuracy",
    "cross_entropy",
    "is_diverged",
    "mean_squared_error",
    "measured",
]

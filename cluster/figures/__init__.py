"""Figures of a run. Pure functions from numbers to matplotlib figures: no pyplot, no global state."""

from cluster.figures.curves import can_draw_regression, regression
from cluster.figures.images import can_draw_episode, episode
from cluster.figures.policies import of_policies
from cluster.figures.scores import adaptation, curve, learners, learning_curves
from cluster.figures.style import Learned, Policies, save

__all__ = [
    "Learned",
    "Policies",
    "adaptation",
    "can_draw_episode",
    "can_draw_regression",
    "curve",
    "episode",
    "learners",
    "learning_curves",
    "of_policies",
    "regression",
    "save",
]

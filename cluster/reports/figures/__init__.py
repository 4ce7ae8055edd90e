"""Figures of a run. Pure functions from numbers to matplotlib figures: no pyplot, no global state."""

from cluster.reports.figures.curves import can_draw_regression, regression
from cluster.reports.figures.images import can_draw_episode, episode
from cluster.reports.figures.policies import can_draw_rollouts, of_policies
from cluster.reports.figures.scores import adaptation, curve, learners, learning_curves
from cluster.reports.figures.style import Trained, save

__all__ = [
    "Trained",
    "adaptation",
    "can_draw_episode",
    "can_draw_regression",
    "can_draw_rollouts",
    "curve",
    "episode",
    "learners",
    "learning_curves",
    "of_policies",
    "regression",
    "save",
]

"""Figures of a run. Pure functions from numbers to matplotlib figures: no pyplot, no global state."""

from cluster.reports.figures.curves import can_draw_regression, regression
from cluster.reports.figures.images import can_draw_episode, episode
from cluster.reports.figures.policies import of_policies
from cluster.reports.figures.scores import adaptation, curve, learners, learning_curves
from cluster.reports.figures.style import Learned, Policies, save

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

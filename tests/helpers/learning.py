"""An outer step of one gradient."""

from cluster.training.learner import Learner
from cluster.workers.messages import Flat


def update(learner: Learner, gradient: Flat, tasks: int) -> float:
    """One step of the optimizer and the end of the outer step; the norm of the mean meta-gradient."""
    norm = learner.descend(gradient, tasks)
    learner.finish_step()
    return norm

"""An outer step of one gradient, and small trainings."""

from collections.abc import Callable, Mapping
from typing import Any

from cluster.config.schema import Config
from cluster.interrupts import StopFlag
from cluster.runs.folder import RunFolder
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.training.recorder import Recorder
from cluster.workers.messages import Flat
from cluster.workers.pool import InlinePool, Pool
from helpers.folders import new_run


class Untracked:
    """A training without MLflow."""

    def __init__(self, *arguments: Any) -> None:
        self.tracker, self.warnings = None, []

    def begin(self) -> None: ...

    def __enter__(self) -> "Untracked":
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Silent:
    """Progress that calls back at one step."""

    def __init__(self, at: int = -1, do: Callable[[], None] = lambda: None) -> None:
        self.at, self.do = at, do

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Call back if it is the step."""
        del metrics
        if step == self.at:
            self.do()


def trained(config: Config, pool: Pool, folder: RunFolder, progress: Silent | None = None) -> str:
    """The fingerprint of θ after a training on a pool."""
    setup = build(config)
    learner = Learner(config.outer, setup.layout, setup.initial_params())
    recorder = Recorder(config, setup, folder, pool, progress or Silent())
    meta_train(config, learner, pool, recorder, StopFlag())
    assert learner.step == config.outer.steps
    return learner.fingerprint


def trained_alone(config: Config) -> str:
    """The fingerprint of θ after the same training without workers."""
    alone = config.model_copy(update={"cluster": config.cluster.model_copy(update={"workers": 0})})
    return trained(alone, InlinePool(build(alone)), new_run(alone, "alone"))


def update(learner: Learner, gradient: Flat, tasks: int) -> float:
    """One step of the optimizer and the end of the outer step; the norm of the mean meta-gradient."""
    norm = learner.descend(gradient, tasks)
    learner.finish_step()
    return norm

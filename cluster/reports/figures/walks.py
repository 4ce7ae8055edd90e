"""Policies on held-out RL tasks, before and after inner steps: the data of their figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from cluster.reports.figures.replay import Replayed, Trajectory, gymnasium_tasks, trajectory
from cluster.setups.policies import PolicySetup
from cluster.workers.rollouts import RolloutWork
from meta.params import Params
from tasks.environments.contract import EnvironmentFamily
from tasks.environments.rollout import Rollouts
from tasks.family import TaskKey

CANDIDATES = 20  # test tasks among which those are chosen that are shown


@dataclass(frozen=True, kw_only=True)
class Walk:
    """One learner's rollouts of some test tasks, adapted as in an evaluation.

    Attributes:
        family: the environments.
        keys: the tasks.
        rollouts: number of inner steps -> rollouts after them.
    """

    family: EnvironmentFamily
    keys: tuple[TaskKey, ...]
    rollouts: Mapping[int, Rollouts]

    def trajectory(self, task: int, inner_step: int, number: int) -> Trajectory:
        """One trajectory of a family of gymnasium's environments, to be repeated.

        Args:
            task: row of the task.
            inner_step: number of inner steps.
            number: of the trajectory.
        """
        family = gymnasium_tasks(self.family)
        assert family is not None
        return trajectory(family, self.keys[task], inner_step, self.rollouts[inner_step], (task, number))

    def typical(self, task: int, inner_step: int) -> int:
        """Number of the trajectory with the median return.

        Args:
            task: row of the task.
            inner_step: number of inner steps.
        """
        returns = self.rollouts[inner_step].rewards[task].sum(axis=1)
        return int(np.argsort(returns, kind="stable")[len(returns) // 2])


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One trajectory in pictures.

    Attributes:
        task: the task in words.
        inner_steps: inner steps taken before it.
        steps: the environment steps that the pictures were taken after.
        replayed: the pictures, and positions where the environment tells them.
    """

    task: str
    inner_steps: int
    steps: tuple[int, ...]
    replayed: Replayed


def walk(setup: PolicySetup, params: Params, *, tasks: int, steps: Sequence[int]) -> Walk:
    """Rollouts of test tasks that are far from each other, after each of some numbers of inner steps.

    An algorithm without inner steps, such as an oracle, has those before adaptation only.

    Args:
        setup: of RL tasks.
        params: θ by name.
        tasks: number of tasks.
        steps: numbers of inner steps.
    """
    keys = apart(setup, tasks)
    here = replace(setup, device=next(iter(params.values())).device)
    walked = enumerate(RolloutWork(here).walk(keys, params, max(steps), evaluation=True))
    rollouts = {number: rollouts for number, (rollouts, _) in walked if number in steps}
    return Walk(family=setup.family, keys=tuple(keys), rollouts=rollouts)


def apart(setup: PolicySetup, count: int) -> list[TaskKey]:
    """The first test task, and of the next ones those whose descriptions lie farthest from those chosen before.

    Args:
        setup: of RL tasks.
        count: number of tasks.
    """
    keys = [TaskKey(setup.seed, "test", index) for index in range(CANDIDATES)]
    points = setup.family.describe(keys)
    chosen = [0]
    while len(chosen) < count:
        away = np.linalg.norm(points[:, None] - points[None, chosen], axis=-1).min(axis=1)
        away[chosen] = -1.0
        chosen.append(int(away.argmax()))
    return [keys[index] for index in sorted(chosen)]


def in_words(family: EnvironmentFamily, key: TaskKey) -> str:
    """The number of a task and, in words, its goal or its varied settings.

    Args:
        family: the environments.
        key: of the task.

    >>> from tasks.environments.gymnasium_tasks import GymnasiumTasks
    >>> in_words(GymnasiumTasks(id="Pendulum-v1", vary={"g": [8.0, 12.0]}), TaskKey(0, "test", 3))
    'Test task 3: g 10'
    """
    tasks = gymnasium_tasks(family)
    values = {} if tasks is None else tasks.draw(key)
    match values:
        case {"direction": 1.0 | -1.0 as direction} if len(values) == 1:
            said = "run forward" if direction > 0 else "run backward"
        case {"velocity": Real() as velocity} if len(values) == 1:
            said = f"run at {velocity:.2f} m/s"
        case _:
            said = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
    return f"Test task {key.index}: {said}" if said else f"Test task {key.index}"


def asked_velocity(family: EnvironmentFamily, key: TaskKey) -> float | None:
    """The velocity that is the goal of a task; None for tasks of other goals.

    Args:
        family: the environments.
        key: of the task.
    """
    tasks = gymnasium_tasks(family)
    match {} if tasks is None else tasks.draw(key):
        case {"velocity": Real() as velocity}:
            return float(velocity)
    return None


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def pictured(walk: Walk, task: int, inner_step: int, count: int) -> tuple[tuple[int, ...], Trajectory]:
    """A typical trajectory of a task, with the steps at which ``count`` pictures of it are to be taken.

    Args:
        walk: rollouts of the tasks.
        task: row of the task.
        inner_step: number of inner steps.
        count: number of pictures.
    """
    one = walk.trajectory(task, inner_step, walk.typical(task, inner_step))
    steps = tuple(sorted({int(step) for step in np.linspace(0, len(one.actions), count).round()}))
    return steps, replace(one, pictured=steps)

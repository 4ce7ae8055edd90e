"""Second evaluation of the best few trials, on validation tasks that have not chosen anything yet.

Some of these tasks choose the best of the few, others test the choice: the best of equals looks better than the others
on the tasks that chose it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.config.schema import Config
from cluster.evaluation.intervals import Kinds
from cluster.evaluation.scores import mean_score, start, table, task_kinds
from cluster.evaluation.summary import Scores
from cluster.runs import checkpoint as checkpoints
from cluster.runs.engine import with_engine_of
from cluster.search.folder import SearchFolder
from cluster.search.settings import Search
from cluster.setups.build import build
from cluster.workers.open import open_pool
from meta.engine.arithmetic import fix_arithmetic


def score_again(search: Search, folder: SearchFolder, number: int, first: int | None = None) -> Scores:
    """Scores [T] of a trial's best θ on ``search.confirm_tasks`` validation tasks from number ``first`` on.

    By default these are the tasks after those of its training.

    Args:
        search: the search.
        folder: its folder.
        number: of the trial.
        first: index of the first task.
    """
    fix_arithmetic(threads=1)
    run = folder.run(number)
    config = with_engine_of(run, run.config)
    setup = build(config)
    _, state = checkpoints.chosen(run.checkpoints)
    with open_pool(setup) as pool:
        ticket = start(
            pool,
            config,
            setup.layout.flatten(state.params).numpy(),
            step=0,
            split="val",
            tasks=search.settings.confirm_tasks,
            steps=[search.inner_steps],
            first=config.eval.val_tasks if first is None else first,
        )
        return table(pool.gather(ticket))[:, 0]


def fresh_tasks(search: Search, folder: SearchFolder, finalists: Sequence[int]) -> tuple[int, int]:
    """Numbers of the first validation task that chooses among the finalists, and of the first that tests the choice.

    No trial was trained or validated on them. A search that has been made longer and comes to other finalists is given
    other tasks than before: the folder remembers which finalists were looked at on which tasks.

    Args:
        search: the search.
        folder: its folder, where the tasks are noted.
        finalists: numbers of the trials that are scored again.
    """
    tasks = search.settings.confirm_tasks
    looks: list[dict[str, Any]] = folder.info.get("confirmed", [])
    request = {"trials": sorted(finalists), "tasks": tasks}
    for look in looks:
        if all(look[key] == value for key, value in request.items()):
            return look["first"], look["first"] + tasks
    used = [folder.run(number).config.eval.val_tasks for number in finalists]
    first = max(*used, *(look["first"] + 2 * look["tasks"] for look in looks), 0)
    folder.update_info(confirmed=[*looks, {**request, "first": first}])
    return first, first + tasks


def kinds_of_tasks(search: Search, folder: SearchFolder, number: int, first: int) -> Kinds | None:
    """The kinds of the tasks that a trial is scored on, None where its family has none.

    Args:
        search: the search.
        folder: its folder.
        number: of the trial.
        first: index of the first task.
    """
    return task_kinds(build(folder.run(number).config), "val", search.settings.confirm_tasks, first)


def same_tasks(one: Config, other: Config) -> bool:
    """Whether two configurations draw the same tasks, so that their scores may be compared task by task.

    Args:
        one: a trial's configuration.
        other: another trial's configuration.
    """
    return one.task == other.task and one.seed == other.seed


def ranked(
    scores: Mapping[int, Scores], *, higher_is_better: bool, kinds: Mapping[int, Kinds | None] | None = None
) -> Sequence[int]:
    """Trials by their mean score, the best first; those with a score that is not finite last.

    Args:
        scores: [T] by trial.
        higher_is_better: whether larger scores are better.
        kinds: of the T tasks, by trial.
    """

    def place(number: int) -> Any:
        mean = mean_score(scores[number][:, None], 0, (kinds or {}).get(number))
        return (not np.isfinite(mean), -mean if higher_is_better else mean, number)

    return sorted(scores, key=place)

"""How sure a ranking is: the best few trials again, on validation tasks that have not chosen anything yet."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster import checkpoint as checkpoints
from cluster.builder import build
from cluster.config import Config
from cluster.evaluation import Scores, start, table
from cluster.search.folder import SearchFolder
from cluster.search.settings import Search
from cluster.training import open_pool, with_engine_of
from cluster.worker import fix_arithmetic


def score_again(search: Search, folder: SearchFolder, number: int) -> Scores:
    """Scores [T] of a trial's best θ on ``search.confirm_tasks`` validation tasks after those of its training."""
    fix_arithmetic(threads=1)
    run = folder.run(number)
    config = with_engine_of(run, run.config)
    setup = build(config)
    _, state = checkpoints.chosen(run.checkpoints)
    with open_pool(config) as pool:
        ticket = start(
            pool,
            config,
            setup.layout.flatten(state.params).numpy(),
            step=0,
            split="val",
            tasks=search.settings.confirm_tasks,
            steps=[search.inner_steps],
            first=config.eval.val_tasks,
        )
        return table(pool.gather(ticket))[:, 0]


def same_tasks(one: Config, other: Config) -> bool:
    """Whether two configurations draw the same tasks, so that their scores may be compared task by task."""
    return one.task == other.task and one.seed == other.seed


def ranked(scores: Mapping[int, Scores], *, higher_is_better: bool) -> Sequence[int]:
    """Trials by their mean score, the best first; those with a score that is not finite last."""

    def place(number: int) -> Any:
        mean = scores[number].mean()
        return (not np.isfinite(mean), -mean if higher_is_better else mean, number)

    return sorted(scores, key=place)

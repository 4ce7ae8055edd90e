"""Checks before a comparison starts: every row can be built and tried, and all are scored on the same test tasks."""

import torch
from torch.utils._pytree import tree_leaves

from cluster.compare.settings import Comparison
from cluster.errors import ConfigError
from cluster.setups.build import Setup, build
from cluster.setups.episodes import EpisodeSetup
from cluster.training.preflight import require_path

DRAWN = range(2)  # test tasks that are compared where two rows' sections ``task`` differ


def require_comparable(comparison: Comparison) -> bool:
    """Build and try every row from the first seed; returns whether higher scores are better.

    Args:
        comparison: the comparison.

    Raises:
        ConfigError: naming the row that cannot run, or that would be scored by or on something else.
    """
    first: Setup | None = None
    for row in comparison.rows:
        try:
            setup = build(comparison.config({"row": row, "seed": comparison.seeds[0]}))
            require_path(setup)
            first = first or setup
            _require_same_score(first, setup)
        except ConfigError as error:
            text = str(error)
            where = f"compare.rows.{row}: "
            raise ConfigError(text if text.startswith(where) else where + text) from error
    assert first is not None
    higher: bool = first.algorithm.objective.higher_is_better
    return higher


def _require_same_score(first: Setup, setup: Setup) -> None:
    one, other = first.algorithm.objective, setup.algorithm.objective
    if one.metric != other.metric:
        raise ConfigError(f"expected the score of the first row, {one.metric}, received {other.metric}")
    if not _same_test_tasks(first, setup):
        raise ConfigError(
            "expected the test tasks of the first row, received others: scores are compared task by task; change only "
            "keys of task that leave test tasks alone, or name task.eval_shot and its like for all rows"
        )


def _same_test_tasks(one: Setup, other: Setup) -> bool:
    if one.config.task == other.config.task:
        return True
    if not (isinstance(one, EpisodeSetup) and isinstance(other, EpisodeSetup)) or one.data != other.data:
        return False
    drawn, others = (tree_leaves(setup.held_out_episodes("test", DRAWN)) for setup in (one, other))
    return len(drawn) == len(others) and all(map(torch.equal, drawn, others))

"""Evaluation on held-out tasks: scores after each number of inner steps, with intervals."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.builder import AnySetup, Setup
from cluster.config import Config
from cluster.messages import Flat, Result, score_orders
from cluster.policy_setup import PolicySetup
from cluster.pool import Pool, Ticket
from meta.algorithms import batch_norm_of
from meta.objectives import CROSS_ENTROPY, Score, is_diverged
from tasks.family import Split, TaskKey

Scores = NDArray[np.float64]


def start(
    pool: Pool,
    config: Config,
    theta: Flat,
    *,
    step: int,
    split: Split,
    tasks: int,
    steps: Sequence[int],
    first: int = 0,
) -> Ticket:
    """Hand ``tasks`` tasks of a split from number ``first`` on to the pool; they run when no gradient is waited for."""
    orders = score_orders(step, split, tasks, config.shard_size, tuple(steps), first)
    return pool.submit(orders, theta, background=True)


def table(results: Iterable[Result]) -> Scores:
    """The scores of all tasks in order of their index, [T, K], float64."""
    ordered = sorted(results, key=lambda result: result.order.shard)
    return np.concatenate([result.scores.astype(np.float64) for result in ordered])


def mean_score(scores: Scores, column: int) -> float:
    """The mean over tasks in one column; infinite or NaN if any task's score is."""
    return float(scores[:, column].mean())


def is_better(score: float, best: float | None, objective: Score) -> bool:
    """Whether a validation score beats the best so far; one that is not finite never does."""
    if not np.isfinite(score):
        return False
    return best is None or (score > best if objective.higher_is_better else score < best)


def interval(scores: Scores) -> dict[str, float | None]:
    """Mean over tasks and half-width of its 95 % interval; null where a score is not finite."""
    if not np.isfinite(scores).all():
        return {"mean": None, "ci95": None}
    return {"mean": float(scores.mean()), "ci95": 1.96 * float(scores.std(ddof=1)) / len(scores) ** 0.5}


def summary(scores: Scores, steps: Sequence[int], objective: Score) -> dict[str, dict[str, Any]]:
    """Mean, half-width of the 95 % interval (1.96·std/√n), median and diverged tasks for each number of steps.

    Mean and interval are over all tasks; where a task's score is not finite they are null and the count of
    diverged tasks says why.

    >>> from meta.objectives import MSE
    >>> summary(np.array([[1.0], [3.0]]), [5], MSE)["5"]["mean"]
    2.0
    """
    diverged = is_diverged(torch.from_numpy(scores), objective).sum(dim=0)
    rows = {}
    for column, number in enumerate(steps):
        values = scores[:, column]
        median = float(np.median(values)) if not np.isnan(values).any() else float("nan")
        rows[str(number)] = {
            **interval(values),
            "median": median if np.isfinite(median) else None,
            "diverged": int(diverged[column]),
        }
    return rows


def difference(better: Scores, worse: Scores, *, paired: bool, higher_is_better: bool) -> dict[str, float] | None:
    """Mean advantage of one set of scores over another and the half-width of its 95 % interval; positive is better.

    Paired scores are subtracted task by task, which takes the difficulty of the tasks out: 1.96·std(a − b)/√n.

    Returns:
        ``{"mean", "ci95"}``, or None if a score is not finite.

    >>> ones = np.ones(4)
    >>> difference(ones + 1, ones, paired=True, higher_is_better=True)
    {'mean': 1.0, 'ci95': 0.0}
    """
    if not (np.isfinite(better).all() and np.isfinite(worse).all()):
        return None
    sign = 1.0 if higher_is_better else -1.0
    variances = [(better - worse).var(ddof=1)] if paired else [better.var(ddof=1), worse.var(ddof=1)]
    spread = 1.96 * float(np.sqrt(sum(variances) / len(better)))
    return {"mean": sign * float(better.mean() - worse.mean()), "ci95": spread}


def evaluate(pool: Pool, config: Config, setup: AnySetup, theta: Flat, *, split: Split) -> dict[str, Any]:
    """Evaluate flat θ on the first ``eval.tasks`` tasks of a split at ``eval.steps``, and state the protocol.

    ``pool``'s workers and ``setup`` are built from ``config``.
    """
    steps, tasks = config.eval.steps, config.eval.tasks
    ticket = start(pool, config, theta, step=0, split=split, tasks=tasks, steps=steps)
    scores = table(pool.gather(ticket))
    objective = setup.algorithm.objective
    return {
        "algorithm": config.algorithm,
        "metric": objective.metric,
        "split": split,
        "tasks": tasks,
        **(_of_rollouts(setup) if isinstance(setup, PolicySetup) else _of_episodes(setup, split)),
        "inner_lr": config.inner.lr,
        "data": setup.family.spec.data or None,
        "steps": summary(scores, steps, objective),
    }


def _of_episodes(setup: Setup, split: Split) -> dict[str, Any]:
    """What an episode of the split holds."""
    episode = setup.family.draw(TaskKey(setup.seed, split, 0))
    classified = setup.algorithm.objective is CROSS_ENTROPY
    classes = setup.family.spec.outputs if classified else 1
    return {
        "way": classes if classified else None,
        "shot": len(episode.support.inputs) // classes,
        "query_per_class": len(episode.query.inputs) // classes,
        "batch_norm": batch_norm_of(setup.algorithm.model),
    }


def _of_rollouts(setup: PolicySetup) -> dict[str, Any]:
    """What is sampled of a task at each number of inner steps."""
    spec = setup.family.spec
    return {
        "way": None,
        "shot": spec.trajectories,
        "query_per_class": spec.trajectories,
        "batch_norm": None,
        "horizon": spec.horizon,
        "later_lr": setup.config.eval.later_lr,
    }

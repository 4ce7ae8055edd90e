"""Evaluation on held-out tasks: scores after each number of inner steps, with intervals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cluster.config.schema import Config
from cluster.evaluation.further import further_figures, further_table
from cluster.evaluation.intervals import Kinds, contrast, estimate
from cluster.evaluation.summary import Scores, diverged_tasks, summary
from cluster.runs import checkpoint as checkpoints
from cluster.setups.build import Setup
from cluster.workers.messages import Flat, Reply, ScoresReply, scores_requests
from cluster.workers.pool import Pool, Ticket
from meta.objectives import Score
from tasks.family import Split, kinds_of


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
    further: bool = False,
) -> Ticket:
    """Submit the scoring of ``tasks`` tasks of a split; it runs when no gradient is waited for.

    Args:
        pool: the workers.
        config: the run's configuration.
        theta: θ [P].
        step: version of θ.
        split: of the tasks.
        tasks: number of tasks.
        steps: the K numbers of inner steps to score after.
        first: index of the first task.
        further: whether the scores of ``eval.scores`` are asked for too.
    """
    requests = scores_requests(step, split, tasks, config.shard_size, tuple(steps), first, further=further)
    return pool.submit(requests, theta, background=True)


def table(replies: Iterable[Reply]) -> Scores:
    """The scores of all tasks in order of their index, [T, K], float64."""
    scores = {reply.request.shard: reply.scores for reply in replies if isinstance(reply, ScoresReply)}
    return np.concatenate([scores[shard].astype(np.float64) for shard in sorted(scores)])


def task_kinds(setup: Setup, split: Split, tasks: int, first: int = 0) -> Kinds | None:
    """The kinds of ``tasks`` tasks of a split from number ``first`` on, None where the family has none.

    Args:
        setup: holds family and seed.
        split: of the tasks.
        tasks: number of tasks.
        first: index of the first task.

    Raises:
        ValueError: if the family names a kind that it does not declare.
    """
    kinds = setup.family.spec.kinds
    if not kinds:
        return None
    return Kinds.among(kinds, kinds_of(setup.family, setup.seed, split, range(first, first + tasks)))


def mean_score(scores: Scores, column: int, kinds: Kinds | None = None) -> float:
    """The mean over tasks in one column, over kinds where there are some; infinite or NaN if any task's score is.

    Args:
        scores: [T, K].
        column: the column to average, below K.
        kinds: of the T tasks.
    """
    values = scores[:, column]
    return estimate(values, kinds).mean if np.isfinite(values).all() else float(values.mean())


def is_better(score: float, best: float | None, objective: Score) -> bool:
    """Whether a validation score beats the best so far; one that is not finite never does.

    Args:
        score: mean over the validation tasks.
        best: the best mean so far, None if there is none.
        objective: tells whether higher is better.
    """
    if not np.isfinite(score):
        return False
    return best is None or (score > best if objective.higher_is_better else score < best)


def difference(
    better: Scores,
    worse: Scores,
    *,
    paired: bool,
    higher_is_better: bool,
    kinds: tuple[Kinds | None, Kinds | None] = (None, None),
    comparisons: int = 1,
) -> dict[str, float | None] | None:
    """Mean advantage of one set of scores over another and the half-width of its 95 % interval; positive is better.

    Paired scores are subtracted task by task, which takes the difficulty of the tasks out.

    Args:
        better: scores [T].
        worse: scores [T].
        paired: whether both are of the same tasks.
        higher_is_better: whether a larger score is a better one.
        kinds: of the tasks of either.
        comparisons: number of differences among which this is one. Above 1 there is another half-width,
            ``corrected``: intervals that wide hold all at once in 95 % of cases.

    Returns:
        ``{"mean", "ci95"}``, or None if a score is not finite; ``ci95`` is None for one task.

    >>> ones = np.ones(4)
    >>> difference(ones + 1, ones, paired=True, higher_is_better=True)
    {'mean': 1.0, 'ci95': 0.0}
    """
    if not (np.isfinite(better).all() and np.isfinite(worse).all()):
        return None
    advantage = contrast(better, worse, paired=paired, kinds=kinds)
    corrected = {"corrected": advantage.half_width(comparisons)} if comparisons > 1 else {}
    return {"mean": (1.0 if higher_is_better else -1.0) * advantage.mean, "ci95": advantage.half_width(), **corrected}


def evaluate(pool: Pool, config: Config, setup: Setup, theta: Flat, *, split: Split) -> dict[str, Any]:
    """Evaluate flat θ on the first ``eval.tasks`` tasks of a split at ``eval.steps``, and state the protocol.

    Scores before adaptation are always computed: they tell which tasks have diverged.

    Args:
        pool: workers built from ``config``.
        config: the configuration, whose ``eval`` is the protocol.
        setup: what ``config`` builds.
        theta: θ [P].
        split: of the tasks.
    """
    tasks, steps, further = config.eval.tasks, scored_steps(config), bool(config.eval.scores)
    ticket = start(pool, config, theta, step=0, split=split, tasks=tasks, steps=steps, further=further)
    replies = list(pool.gather(ticket))
    figures = held_out_figures(config, setup, table(replies), split=split)
    if not further:
        return figures
    kinds, shown = task_kinds(setup, split, tasks), config.eval.steps
    return figures | {"scores": further_figures(setup, further_table(replies), steps, kinds=kinds, shown=shown)}


def scored_steps(config: Config) -> list[int]:
    """The K numbers of inner steps that an evaluation scores after: ``eval.steps``, and 0."""
    return sorted({0, *config.eval.steps})


def held_out_scores(pool: Pool, config: Config, theta: Flat, *, split: Split) -> Scores:
    """Scores of flat θ on the first ``eval.tasks`` tasks of a split after each of :func:`scored_steps`, [T, K].

    Args:
        pool: workers built from ``config``.
        config: the configuration, whose ``eval`` is the protocol.
        theta: θ [P].
        split: of the tasks.
    """
    tasks, steps = config.eval.tasks, scored_steps(config)
    return table(pool.gather(start(pool, config, theta, step=0, split=split, tasks=tasks, steps=steps)))


def held_out_figures(config: Config, setup: Setup, scores: Scores, *, split: Split) -> dict[str, Any]:
    """The evaluation that scores come to, under the protocol of ``config``.

    Args:
        config: the configuration, whose ``eval`` is the protocol.
        setup: what ``config`` builds.
        scores: of :func:`held_out_scores`, [T, K].
        split: of the tasks.
    """
    steps, tasks = scored_steps(config), config.eval.tasks
    objective = setup.algorithm.objective
    kinds = task_kinds(setup, split, tasks)
    return {
        "algorithm": config.algorithm.name,
        "metric": objective.metric,
        "split": split,
        "tasks": tasks,
        **setup.describe(split),
        "inner_lr": config.inner.lr,
        "data": setup.family.spec.data or None,
        "steps": summary(scores, steps, objective, kinds=kinds, shown=config.eval.steps),
        **({} if kinds is None else _of_kinds(scores, steps, objective, kinds, config.eval.steps)),
    }


def evaluate_params(
    pool: Pool, config: Config, setup: Setup, state: checkpoints.Checkpoint, split: Split = "test"
) -> dict[str, Any]:
    """Held-out figures of a checkpoint's θ under ``config``, with the outer step of that θ.

    Of a run with a moving average of θ they are of what ``eval.select_params`` says, and those of the other are in
    ``beside`` by name, ``theta`` or ``ema``.

    Args:
        pool: workers built from ``config``.
        config: the configuration, whose ``eval`` is the protocol.
        setup: what ``config`` builds.
        state: the checkpoint.
        split: of the tasks.
    """
    own, _ = state.selected(config.eval.select_params)
    results = {
        name: evaluate(pool, config, setup, setup.layout.flatten(params).numpy(), split=split)
        for name, params in state.sets.items()
    }
    result = _with_rows("beside", results.pop(own), results)
    best_step = None if state.best is None else state.best[1]
    return result | {"params": own, "checkpoint_step": state.step, "best_step": best_step}


def with_baselines(evaluation: dict[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """An evaluation with the scores of baselines added under ``baselines`` and, by kind of task, ``baseline_kinds``.

    Args:
        evaluation: of the run.
        baselines: evaluations by the baseline's name.
    """
    return _with_rows("baselines", evaluation, baselines)


def _with_rows(key: str, evaluation: dict[str, Any], others: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """An evaluation with the rows of others under ``key``, and ``KEY_kinds`` and ``KEY_scores`` if there are any."""
    if not others:
        return evaluation
    rows = {key: {name: one["steps"] for name, one in others.items()}}
    for part in ("kinds", "scores"):
        if by_name := {name: one[part] for name, one in others.items() if part in one}:
            rows[f"{key.removesuffix('s')}_{part}"] = by_name
    return evaluation | rows


def _of_kinds(
    scores: Scores, steps: Sequence[int], objective: Score, kinds: Kinds, shown: Sequence[int]
) -> dict[str, Any]:
    """The rows of each kind of task, and how many tasks are of it. A kind without a task has no row."""
    masks = {name: kinds.rows(name) for name in kinds.names}
    diverged = diverged_tasks(scores, steps, objective)
    rows_by_kind = {}
    for name, mask in masks.items():
        if mask.any():
            rows = summary(scores[mask], steps, objective, shown=shown)
            # Divergence is judged among the tasks of all kinds.
            counts = {str(number): int(diverged[mask, list(steps).index(number)].sum()) for number in shown}
            rows_by_kind[name] = {number: row | {"diverged": counts[number]} for number, row in rows.items()}
    return {"kinds": rows_by_kind, "kind_tasks": {name: int(mask.sum()) for name, mask in masks.items()}}

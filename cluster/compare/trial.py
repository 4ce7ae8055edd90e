"""One trial of a comparison: a row trained from one seed, then scored on the test tasks that all trials share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.compare.clock import Clock, seconds_at
from cluster.compare.memory import peak_memory_mb
from cluster.compare.settings import Comparison
from cluster.config.schema import Config
from cluster.evaluation.scores import held_out_figures, held_out_scores
from cluster.evaluation.summary import Scores
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint
from cluster.runs.engine import with_engine_of
from cluster.runs.folder import RunFolder, write_json
from cluster.runs.metrics import record_evaluation, records
from cluster.search.study import Report
from cluster.search.trial import Quiet, ended, opened
from cluster.search.trials import Status
from cluster.setups.build import build
from cluster.training.recorder import Recorder, Validated
from cluster.training.run import learn
from cluster.workers.open import open_pool
from cluster.workers.pool import InlinePool, Pool

OUTCOME = "outcome.json"


def train_row(
    comparison: Comparison,
    values: Mapping[str, Any],
    name: str,
    path: Path,
    taken_over: Checkpoint | None,
    report: Report,
) -> tuple[Status, str | None]:
    """Train in a trial's folder to the end of the budget, from its newest checkpoint if it has one, and score it.

    Args:
        comparison: the comparison.
        values: row and seed.
        name: of its run.
        path: its folder, which all machines of the cluster have to see.
        taken_over: None: no trial of a comparison takes over another's state.
        report: called with outer steps, validation score and the state that was validated, but not of the last one.

    Returns:
        ``finished``, ``diverged`` (a meta-gradient is not finite) or ``failed`` (a configuration that cannot run), and
        why.
    """
    assert taken_over is None

    def work() -> None:
        config, folder = opened(comparison, values, name, path)
        usage = _train(config, folder, comparison.settings.budget.seconds, report)
        scores, evaluation = score(config, folder, comparison.base.seed)
        write_json(folder.path / "evaluation.json", evaluation)
        record_evaluation(folder, evaluation)
        write_json(folder.path / OUTCOME, {**usage, "scores": plain_scores(scores)})  # the last: the trial is over

    return ended(work)


def _train(config: Config, folder: RunFolder, budget: float | None, report: Report) -> dict[str, Any]:
    """Train, and say what that took."""
    setup, saved = build(config), checkpoints.newest(folder.checkpoints)
    spent = seconds_at(records(folder.metrics_path), [saved.step])[0] if saved is not None else 0.0

    def on_validation(validated: Validated) -> None:
        if validated.state.step < config.outer.steps:  # the last one is reported when all is saved
            report(validated.state.step, validated.means[config.select_steps], validated.state)

    with open_pool(setup) as pool:
        recorder = Recorder(config, setup, folder, pool, Quiet(), on_validation)
        learner = learn(pool, config, setup, recorder, saved, Clock(budget, spent))
        peak = peak_memory_mb(_worker_pids(pool))
    return {
        "steps": learner.step,
        "seconds": seconds_at(records(folder.metrics_path), [learner.step])[0],
        "peak_memory_mb": peak,
        "parameters": setup.layout.size,
    }


def score(config: Config, folder: RunFolder, seed: int) -> tuple[Scores, dict[str, Any]]:
    """Scores [T, K] of the run's best θ on the test tasks of ``seed``, and the evaluation that they come to.

    Args:
        config: the run's configuration, whose ``task`` and ``eval`` are the protocol.
        folder: of the run.
        seed: of the test tasks.
    """
    config = with_engine_of(folder, config.model_copy(update={"seed": seed}))
    setup = build(config)
    _, state = checkpoints.chosen(folder.checkpoints)
    theta = setup.layout.flatten(state.params).numpy()
    with open_pool(setup) as pool:
        scores = held_out_scores(pool, config, theta, split="test")
    evaluation = held_out_figures(config, setup, scores, split="test")
    best = None if state.best is None else state.best[1]
    return scores, evaluation | {"checkpoint_step": state.step, "best_step": best}


def _worker_pids(pool: Pool) -> Sequence[int]:
    if isinstance(pool, InlinePool):
        return []
    from cluster.workers.ray_pool import RayPool

    return pool.pids if isinstance(pool, RayPool) else []


def plain_scores(scores: Scores) -> list[list[float | None]]:
    """Scores [T, K] as JSON takes them: null where one is not finite.

    Args:
        scores: [T, K].
    """
    return [[value if np.isfinite(value) else None for value in row] for row in scores.tolist()]


def scores_of(plain: Sequence[Sequence[float | None]]) -> Scores:
    """Scores [T, K] of what :func:`plain_scores` made, NaN where one was not finite.

    Args:
        plain: rows of numbers and nulls.
    """
    return np.array([[np.nan if value is None else value for value in row] for row in plain], dtype=np.float64)

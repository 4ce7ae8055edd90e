"""A comparison from its file to its table: runs or resumes trials, gathers scores, draws, sends to MLflow."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from cluster.compare.check import require_comparable
from cluster.compare.folder import SETTINGS, CompareFolder
from cluster.compare.picture import draw
from cluster.compare.result import Result, gather
from cluster.compare.settings import Comparison
from cluster.compare.trial import OUTCOME, train_row
from cluster.errors import Interrupted
from cluster.interrupts import SignalFlag
from cluster.runs.folder import write_json
from cluster.runs.metrics import recorded
from cluster.search.board import board
from cluster.search.track import Tracked
from cluster.search.trials import RESULT, Trial
from cluster.workers.session import ray_session

Changed = Callable[[Trial], None]


def run(comparison: Comparison, folder: CompareFolder, stop: SignalFlag) -> Result:
    """Run the trials of a comparison that are not over, and gather the result.

    Args:
        comparison: the comparison.
        folder: its folder.
        stop: set by a signal.

    Raises:
        ConfigError: if a row cannot run, or is not comparable with the first; nothing has changed then.
        Interrupted: if ``stop`` was set; what is done is kept.
        MetarayError: if no row came to a score.
    """
    higher = require_comparable(comparison)
    past = recovered(comparison, folder, higher=higher)
    recorded(folder.metrics_path)
    with ExitStack() as ending, ray_session(comparison.base.cluster, comparison.at_once or 1):
        # All that can be refused has been: from here on the folder changes.
        folder.settle(SETTINGS, comparison.to_yaml())
        for trial in past:
            folder.write(trial)
        tracked = ending.enter_context(Tracked(comparison, folder, higher=higher))
        stop.listen()
        steps, metric = comparison.base.outer.steps, f"validation {comparison.score_name}"
        with board(metric, ["row", "seed"], len(past), steps, higher=higher, noun=folder.noun) as shown:
            for trial in past:
                shown.update(trial)
                tracked.recall(trial)
            if not all(trial.over for trial in past):
                _run_trials(comparison, folder, past, [shown.update, tracked.update], stop, higher=higher)
        if stop:
            raise Interrupted(
                f"the comparison was stopped by {stop.reason}, what is done is kept; go on with: metaray compare "
                f"--resume {folder.path}"
            )
        result = gather(comparison, folder)
        tracked.log(len(result.trials), result.metrics())
        write_json(folder.path / RESULT, result.as_json())
        draw(result)
    result.warnings.extend(tracked.warnings)
    return result


def recovered(comparison: Comparison, folder: CompareFolder, *, higher: bool) -> list[Trial]:
    """All trials by number, as the folder has those that were begun; those under way and failed ones go on.

    Args:
        comparison: the comparison.
        folder: its folder, there or planned.
        higher: whether larger scores are better.
    """
    begun = {trial.number: trial for trial in folder.trials()}
    trials = []
    for number, values in enumerate(comparison.points()):
        trial = begun.get(number, Trial(number=number, values=values))
        if not trial.over or trial.status == "failed":  # rows were tried before: what failed was the machine
            # The outcome is the last that a trial writes; its process may have ended before it could report it.
            done = (folder.run(number).path / OUTCOME).is_file()
            trial = dataclasses.replace(trial, status="finished" if done else "waiting", error=None)
            trial = folder.refreshed(trial, comparison.metric(values), higher=higher)
        trials.append(trial)
    return trials


def _run_trials(
    comparison: Comparison,
    folder: CompareFolder,
    past: Sequence[Trial],
    changed: Sequence[Changed],
    stop: SignalFlag,
    *,
    higher: bool,
) -> None:
    """Run the trials that are not over, each in a new process, so that its peak of memory is its own."""
    from cluster.search.tuner import run_trials  # Ray Tune takes seconds to load
    from cluster.search.watch import Watch

    waiting = {trial.number: dict(trial.values) for trial in past if not trial.over}
    watch = Watch(comparison, folder, stop, changed, higher=higher)
    run_trials(comparison, train_row, folder, watch, waiting, stop, higher_is_better=higher, reuse=False)

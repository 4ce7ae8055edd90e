"""A search from its file to its best trial: runs or resumes trials, scores the best again, draws, sends to MLflow."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from cluster.errors import Interrupted
from cluster.interrupts import SignalFlag
from cluster.runs.checkpoint import newest
from cluster.runs.folder import write_json
from cluster.runs.metrics import recorded
from cluster.search.board import board
from cluster.search.folder import SearchFolder
from cluster.search.picture import draw
from cluster.search.points import Point, points, total
from cluster.search.ranking import Result, rank
from cluster.search.settings import Search
from cluster.search.track import Tracked
from cluster.search.trials import RESULT, Trial
from cluster.setups.build import build
from cluster.workers.session import ray_session

Changed = Callable[[Trial], None]
Suggest = Callable[[int], Point]


def run(search: Search, folder: SearchFolder, stop: SignalFlag) -> Result:
    """Run the trials of a search that are not over, and rank them.

    Args:
        search: the search.
        folder: its folder.
        stop: set by a signal.

    Raises:
        Interrupted: if ``stop`` was set; what is done is kept.
        MetarayError: if no trial came to a score.
    """
    higher = build(search.base).algorithm.objective.higher_is_better
    past = _recovered(search, folder, higher=higher)
    recorded(folder.metrics_path)
    with ExitStack() as ending, ray_session(search.base.cluster, search.settings.at_once):
        # All that can be refused has been: from here on the folder changes.
        if not folder.exists:
            folder.settle("search.yaml", search.to_yaml())
        for trial in past:
            if trial != folder.read(trial.number):
                folder.write(trial)
        tracked = ending.enter_context(Tracked(search, folder, higher=higher))
        stop.listen()
        keys, steps = list(search.space.domains), search.base.outer.steps
        with board(search.settings.metric, keys, total(search), steps, higher=higher) as shown:
            for trial in past:
                shown.update(trial)
                tracked.recall(trial)
            _run_trials(search, folder, past, [shown.update, tracked.update], stop, higher=higher)
        if stop:
            raise Interrupted(
                f"the search was stopped by {stop.reason}, what is done is kept; go on with: metaray tune --resume "
                f"{folder.path}"
            )
        result = rank(search, folder, higher=higher)
        best = folder.run(result.best.number).info
        result.warnings.extend(f"trial {result.best.number}: {warning}" for warning in best.get("warnings", ()))
        write_json(folder.path / RESULT, result.as_json())
        draw(result)
    result.warnings.extend(tracked.warnings)
    return result


def _recovered(search: Search, folder: SearchFolder, *, higher: bool) -> list[Trial]:
    """The trials of the search before it was interrupted, as their own folders have them."""
    recovered = []
    for trial in folder.trials():
        if not trial.over:
            run = folder.run(trial.number)
            trial = folder.refreshed(
                dataclasses.replace(trial, status="waiting"), search.settings.metric, higher=higher
            )
            state = newest(run.checkpoints) if (run.path / "run.json").exists() else None
            if state is not None:
                # The members of a population take over values with the state.
                trial = dataclasses.replace(trial, values=search.values_of(state.config))
                if state.step == search.base.outer.steps:
                    trial = dataclasses.replace(trial, status="finished")
        recovered.append(trial)
    return recovered


def _run_trials(
    search: Search,
    folder: SearchFolder,
    past: list[Trial],
    changed: Sequence[Changed],
    stop: SignalFlag,
    *,
    higher: bool,
) -> None:
    """Run the trials that are not over."""
    from cluster.search.schedulers import scheduler  # Ray Tune and Optuna take seconds to load
    from cluster.search.trial import train_trial
    from cluster.search.tuner import Suggested, oriented, run_trials
    from cluster.search.watch import Watch

    over = {trial.number for trial in past if trial.over}
    if len(over) == total(search):
        return
    waiting = {trial.number: dict(trial.values) for trial in past if not trial.over}
    searcher = None
    if search.settings.searcher == "tpe":
        known = max((trial.number for trial in past), default=-1) + 1
        suggest = _suggesting(search, folder, higher=higher)
        searcher = Suggested(waiting, suggest, range(known, search.settings.trials or 0))
    else:
        for number, point in enumerate(points(search)):
            if number not in over and number not in waiting:
                folder.write(Trial(number=number, values=point))
                waiting[number] = point
    watch = Watch(search, folder, stop, changed, higher=higher)
    stopping = scheduler(search, past, partial(oriented, higher_is_better=higher))
    run_trials(
        search,
        train_trial,
        folder,
        watch,
        waiting,
        stop,
        higher_is_better=higher,
        searcher=searcher,
        scheduler=stopping,
    )


def _suggesting(search: Search, folder: SearchFolder, *, higher: bool) -> Suggest:
    """Points that depend on the results so far; each is on disk before it is tried."""
    from cluster.search.tpe import Suggestions

    suggestions = Suggestions(search, higher_is_better=higher)

    def suggest(number: int) -> Point:
        values = suggestions.suggest(number, folder.trials())
        folder.write(Trial(number=number, values=values))
        return values

    return suggest

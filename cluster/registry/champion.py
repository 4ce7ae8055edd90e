"""Whether a run's model beats the registered champion: both on the same held-out tasks, task by task."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cluster.config.schema import differences
from cluster.errors import ConfigError
from cluster.evaluation.intervals import Kinds
from cluster.evaluation.scores import difference, start, table, task_kinds
from cluster.evaluation.summary import Scores
from cluster.registry.attempts import Attempt
from cluster.registry.contender import Contender
from cluster.runs import checkpoint as checkpoints
from cluster.runs.engine import with_engine_of
from cluster.runs.folder import RunFolder
from cluster.setups.build import Setup, build
from cluster.workers.auto import settled
from cluster.workers.messages import scores_requests
from cluster.workers.open import open_pool, shared_session
from meta.objectives import Score

Reserve = Callable[[int], Attempt]  # counts an attempt on so many tasks, which no other attempt has or will have


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Advantage of one model over another on the same tasks; positive if it is better.

    Attributes:
        mean: mean over tasks of the difference of scores, None if a score is not finite.
        ci95: half-width of its 95 % interval, None for one task or if a score is not finite.
        metric: what was scored.
        tasks: number of tasks.
        lost: tasks in which a score was not finite.
        attempt: number of the comparison among those of the registered model, from 1 on.
        first: number of the first test task.
    """

    mean: float | None
    ci95: float | None
    metric: str
    tasks: int
    lost: int
    attempt: int = 1
    first: int = 0

    @property
    def is_gain(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.mean is not None and self.ci95 is not None and self.mean - self.ci95 > 0

    def __str__(self) -> str:
        """As in messages: ``accuracy better by 0.0120 ± 0.0040 on 600 test tasks``."""
        where = f"on {self.tasks} test tasks"
        if self.mean is None:
            return f"{self.metric} not comparable {where}, {self.lost} of which were not finite"
        how = "worse" if self.mean < 0 else "better" if self.mean > 0 else "different"
        half = "" if self.ci95 is None else f" ± {self.ci95:.2g}"
        return f"{self.metric} {how} by {abs(self.mean):.4g}{half} {where}"


def paired(challenger: Scores, champion: Scores, objective: Score, kinds: Kinds | None = None) -> Difference:
    """The difference of two rows of scores [T] of the same tasks, averaged over kinds where there are some.

    Args:
        challenger: scores [T].
        champion: scores of the same tasks, [T].
        objective: names the metric, and tells whether higher is better.
        kinds: of the T tasks.

    >>> from meta.objectives import MSE
    >>> gain = paired(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 3.0]), MSE)
    >>> gain.mean, round(gain.ci95, 3), gain.is_gain
    (1.0, 2.484, False)
    """
    lost = int((~(np.isfinite(challenger) & np.isfinite(champion))).sum())
    higher = objective.higher_is_better
    advantage = difference(challenger, champion, paired=True, higher_is_better=higher, kinds=(kinds, kinds))
    mean, half = (None, None) if advantage is None else (advantage["mean"], advantage["ci95"])
    return Difference(mean=mean, ci95=half, metric=objective.metric, tasks=len(challenger), lost=lost)


def compare(challenger: Contender, folder: RunFolder, tasks: int, reserve: Reserve) -> Difference:
    """Score a run's model and the champion's on ``tasks`` test tasks of the run's seed that no attempt has used.

    Either adapts as it would when it is served: with its own number of inner steps and its own α.

    Args:
        challenger: the run's model.
        folder: the champion's package.
        tasks: number of tasks.
        reserve: counts the attempt and gives its tasks; called once the two are known to be comparable, and before
            either is scored.

    Raises:
        ConfigError: if the champion was trained on, or is tested by, something else.
    """
    champion = _under_protocol_of(challenger, folder)
    attempt = reserve(tasks)
    with shared_session(challenger.config):
        scores = [_scores(one, tasks, attempt.first) for one in (challenger, champion)]
    kinds = task_kinds(challenger.setup, "test", tasks, attempt.first)
    comparison = paired(scores[0], scores[1], challenger.setup.algorithm.objective, kinds)
    return dataclasses.replace(comparison, attempt=attempt.number, first=attempt.first)


def _under_protocol_of(challenger: Contender, folder: RunFolder) -> Contender:
    """The champion, to be tested on the challenger's tasks."""
    own, state = folder.config, checkpoints.chosen(folder.checkpoints)[1]
    changes = differences(own.task.model_dump(mode="json"), challenger.config.task.model_dump(mode="json"), "task.")
    if state.data:
        changes = [line for line in changes if not line.startswith("task.root:")]  # the fingerprint tells
    if state.data != challenger.state.data:
        changes.append(f"data: {state.data or 'none'} there, {challenger.state.data or 'none'} here")
    _require_same(changes)
    update = {"task": challenger.config.task, "seed": challenger.config.seed, "cluster": challenger.config.cluster}
    config = with_engine_of(folder, own.model_copy(update=update))
    setup = build(config)
    _require_same(_sampling(setup, challenger.setup))
    return Contender(config, setup, state)


def _sampling(setup: Setup, challenger: Setup) -> list[str]:
    """Settings of ``sampling()`` that differ between a champion and a challenger, one line each."""
    mine, other = setup.sampling(), challenger.sampling()
    return [
        f"{name}: {value} there, {other.get(name)} here" for name, value in mine.items() if value != other.get(name)
    ]


def _require_same(changes: list[str]) -> None:
    if changes:
        raise ConfigError(
            f"expected a champion of the same tasks and protocol, received another ({'; '.join(changes)}); nothing was "
            "registered: choose another name or alias, or leave --if-better out"
        )


def _scores(one: Contender, tasks: int, first: int) -> Scores:
    """Scores [T] of the test tasks from number ``first`` on after the model's own number of inner steps."""
    theta = one.setup.layout.flatten(one.state.params).numpy()
    steps = (one.config.select_steps,)
    setup, _ = settled(one.setup, scores_requests(0, "test", tasks, one.config.shard_size, steps, first))
    with open_pool(setup) as pool:
        ticket = start(pool, one.config, theta, step=0, split="test", tasks=tasks, steps=steps, first=first)
        column: Scores = table(pool.gather(ticket))[:, 0]
    return column

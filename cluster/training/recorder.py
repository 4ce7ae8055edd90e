"""Records a training, meaning metrics, validation and checkpoints, while the workers compute."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from cluster.config.schema import Config
from cluster.evaluation.scores import is_better, mean_score, start, table, task_kinds
from cluster.evaluation.summary import Scores, diverged_tasks
from cluster.progress import Beside, Progress
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint
from cluster.runs.events import LOSSES, EventLog
from cluster.runs.folder import RunFolder
from cluster.runs.metrics import MetricsLog
from cluster.setups.build import Setup
from cluster.training.learner import Learner
from cluster.training.standstill import Standstill
from cluster.workers.pool import Pool, Ticket


@dataclasses.dataclass(eq=False)
class _Validation:
    tickets: Mapping[str, Ticket]  # of θ and, where there is one, of its moving average
    state: Checkpoint  # what becomes the best checkpoint if the score says so

    @property
    def complete(self) -> bool:
        return all(ticket.complete for ticket in self.tickets.values())


@dataclasses.dataclass(frozen=True)
class Validated:
    """A validation whose scores have all arrived.

    Attributes:
        state: what was validated, with the best score until then.
        means: mean score by number of inner steps.
        diverged: share of diverged tasks after the inner steps which pick the best θ.
    """

    state: Checkpoint
    means: Mapping[int, float]
    diverged: float


OUTSIDE = (
    "observations left their declared space (metric outside_share) and were treated as task.outside says: "
    "correct the environment's observation_space, or set task.outside=clip"
)


class Recorder:
    """Records one training.

    A checkpoint waits for the validation that was started at or before its step, so that a run resumed from it
    knows every score that the undisturbed run knew; best θ and metrics come out the same.
    """

    def __init__(
        self,
        config: Config,
        setup: Setup,
        folder: RunFolder,
        pool: Pool,
        progress: Progress,
        on_validation: Callable[[Validated], None] | None = None,
    ) -> None:
        """Open the metrics file of ``folder``; ``on_validation`` is called with every validation that was recorded."""
        self.best: tuple[float, int] | None = None
        self._config = config
        self._setup = setup
        self._folder = folder
        before = folder.info.get("warnings", ())
        self._standstill = Standstill([warning for warning in before if warning != OUTSIDE])
        self._outside = OUTSIDE in before
        self._kinds = task_kinds(setup, "val", config.eval.val_tasks)
        self._store = folder.checkpoints
        self._pool = pool
        self._progress = progress
        self._on_validation = on_validation
        self._log = MetricsLog(folder.metrics_path)
        self._events = EventLog(folder.events_path)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[str] | None = None
        self._validation: _Validation | None = None
        self._validated = ""  # the last validation in words
        self._deferred: Checkpoint | None = None
        self._written = -1  # step of the last checkpoint
        self._sums: dict[str, float] = {}
        self._window = (0, time.monotonic())

    def beside(self) -> Beside:
        """Validation, workers and failures, shown beside the steps."""
        lost = [event.text for event in self._pool.events if event.kind in LOSSES]
        text = self._validated
        if self.best is not None:
            text += f", best {self.best[0]:.4g} at step {self.best[1]}"
        return Beside(text, self._pool.activity, len(lost), lost[-1] if lost else "")

    @property
    def warnings(self) -> list[str]:
        """Warnings about the training, each a sentence."""
        return self._standstill.warnings + ([OUTSIDE] if self._outside else [])

    def after_step(self, learner: Learner, metrics: Mapping[str, float]) -> None:
        """Record a step, and start validation and checkpoint if they are due; never waits for workers.

        Args:
            learner: after the step.
            metrics: means over the meta-batch by name.
        """
        self._record(learner.step, metrics)
        self._note_events(learner.step)
        self._progress.update(learner.step, metrics)
        share = learner.lr_share(learner.step - 1)
        if self._standstill.update(learner.step, metrics, moved=learner.moved, lr_share=share):
            self._note_warnings()
        if metrics.get("outside_share", 0.0) > 0 and not self._outside:
            self._outside = True
            print(f"warning: {OUTSIDE}", file=sys.stderr, flush=True)
            self._note_warnings()
        if self._validation is not None:
            self._pool.poll()
            self._settle_validation(wait=False)
        if self._due(learner.step, self._config.eval.every):
            self.start_validation(learner)
        if self._due(learner.step, self._config.checkpoint.every):
            self.checkpoint(learner)

    def _note_events(self, step: int) -> None:
        """Write what happened to workers and nodes since the last call, and what it has cost so far."""
        if self._events.follow(self._pool.events):
            self._log.write(
                step, {"cluster/failures": self._events.count, "cluster/seconds_lost": self._events.seconds}
            )

    def note_late_events(self) -> None:
        """Write what happened to workers and nodes after the training, in the evaluation for one."""
        self._events.follow(self._pool.events)

    def _due(self, step: int, every: int) -> bool:
        return every > 0 and (step % every == 0 or step == self._config.outer.steps)

    def start_validation(self, learner: Learner) -> None:
        """Score the current θ, and its moving average if there is one, on the validation tasks, beside the training."""
        self._settle_validation(wait=True)
        evaluation = self._config.eval
        tickets = {
            name: start(
                self._pool,
                self._config,
                theta,
                step=learner.step,
                split="val",
                tasks=evaluation.val_tasks,
                steps=self._validation_steps,
            )
            for name, theta in learner.sets.items()
        }
        self._validation = _Validation(tickets, self._snapshot(learner))

    @property
    def _validation_steps(self) -> list[int]:
        """Numbers of inner steps; 0 is always among them, as scores before adaptation tell which tasks diverge."""
        return sorted({0, *self._recorded_steps})

    @property
    def _recorded_steps(self) -> set[int]:
        return {*self._config.eval.steps, self._config.select_steps}

    def _note_warnings(self) -> None:
        """Write the warnings to ``run.json``."""
        if self.warnings != self._folder.info.get("warnings", []):
            self._folder.update_info(warnings=self.warnings)

    def checkpoint(self, learner: Learner) -> None:
        """Save the current state, after the validation under way has finished."""
        if self._deferred is not None:
            self._settle_validation(wait=True)
        state = self._snapshot(learner)
        if self._validation is None:
            self._write(state)
        else:
            self._deferred = state

    def finish(self, learner: Learner) -> None:
        """Wait for what is under way and save the last state."""
        self._note_events(learner.step)
        self._standstill.finish()
        self._note_warnings()
        self._settle_validation(wait=True)
        self._record_window(learner.step)
        if self._written != learner.step:
            self._write(self._snapshot(learner))
        self.close()

    def give_up(self, learner: Learner) -> str:
        """Save the last state although there are no workers to wait for, so that no step has to be computed again.

        Args:
            learner: after its last whole step.

        Returns:
            What is saved, for a message.
        """
        self._note_events(learner.step)
        validation, self._validation, self._deferred = self._validation, None, None
        self._record_window(learner.step)
        if self._written != learner.step:
            self._write(self._snapshot(learner))
        self.close()
        saved = f"the state after step {learner.step} of {self._config.outer.steps} is saved"
        if validation is not None:
            saved += f", without the validation of step {validation.state.step}, which was under way"
        return f"{saved}; go on with: metaray train --resume {self._folder.path}"

    def close(self) -> None:
        """Wait until the checkpoint under way is written, and close the files."""
        try:
            self._wait_for_writer()
        finally:
            self._writer.shutdown()
            self._log.close()

    def _snapshot(self, learner: Learner) -> Checkpoint:
        return Checkpoint(
            step=learner.step,
            skipped=learner.skipped,
            engine=self._setup.choice.name,
            data=self._setup.family.spec.data,
            config=self._config.model_dump(mode="json"),
            best=self.best,
            tensors=learner.state(),
            frozen=self._setup.frozen,
        )

    def _settle_validation(self, *, wait: bool) -> None:
        """Record a finished validation: its metrics, the best θ, the checkpoint that waited for it."""
        if self._validation is None or not (wait or self._validation.complete):
            return
        validation, self._validation = self._validation, None
        tables = {name: table(self._pool.gather(ticket)) for name, ticket in validation.tickets.items()}
        steps, objective = self._validation_steps, self._setup.algorithm.objective
        step, own = validation.state.step, self._config.eval.select_params
        all_means = {name: self._means(scores) for name, scores in tables.items()}
        recorded = {
            f"{'val' if name == own else f'val_{name}'}/{objective.metric}_{number}": means[number]
            for name, means in all_means.items()
            for number in sorted(self._recorded_steps)
        }
        self._log.write(step, recorded)
        scores, means = tables[own], all_means[own]
        score = means[self._config.select_steps]
        self._validated = f"{objective.metric} {score:.4g} after {self._config.select_steps} at step {step}"
        if is_better(score, self.best[0] if self.best else None, objective):
            self.best = (score, step)
            best = dataclasses.replace(validation.state, best=self.best)
            self._submit(lambda: self._write_best(best))
        if self._deferred is not None:
            deferred, self._deferred = self._deferred, None
            self._write(dataclasses.replace(deferred, best=self.best))
        if self._on_validation is not None:
            diverged = diverged_tasks(scores, steps, objective)[:, steps.index(self._config.select_steps)]
            state = dataclasses.replace(validation.state, best=self.best)
            self._on_validation(Validated(state, means, float(diverged.mean())))

    def _means(self, scores: Scores) -> dict[int, float]:
        """The mean score by number of inner steps."""
        return {number: mean_score(scores, column, self._kinds) for column, number in enumerate(self._validation_steps)}

    def _write_best(self, state: Checkpoint) -> str:
        self._store.write(checkpoints.BEST, checkpoints.encode(state))
        return checkpoints.BEST

    def _write(self, state: Checkpoint) -> None:
        self._written = state.step
        self._submit(lambda: checkpoints.save(self._store, state, self._config.checkpoint.keep))

    def _submit(self, job: Callable[[], str]) -> None:
        """Give a write to the writer's thread; one at a time, so that memory holds two states at most."""
        self._wait_for_writer()
        self._writing = self._writer.submit(job)

    def _wait_for_writer(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()  # raises what the writer met, a full disk for one

    def _record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a step to the running means and write them every ``tracking.every`` steps."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        count, since = self._window
        count += 1
        self._window = (count, since)
        if step % self._config.tracking.every == 0:
            self._record_window(step)

    def _record_window(self, step: int) -> None:
        """Write the means over the steps since they were last written, if there are any."""
        count, since = self._window
        if count:
            now = time.monotonic()
            means = {f"train/{name}": total / count for name, total in self._sums.items()}
            self._log.write(step, means | {"train/steps_per_second": count / max(now - since, 1e-9)})
            self._sums, self._window = {}, (0, now)

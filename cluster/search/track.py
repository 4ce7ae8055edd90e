"""MLflow: a search or a comparison is a run, its trials are the runs below it, each fed from its own folder."""

from collections.abc import Mapping

from cluster.config import strict_yaml
from cluster.errors import Interrupted
from cluster.runs.metrics import MetricsLog
from cluster.search.study import Study
from cluster.search.trials import Trial, TrialsFolder
from cluster.tracking import Tracker, original_of

ENDED = {"finished": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}
SHORT = 1.0  # seconds without an answer after which a trial's run is left to a replay, once the search's own was sent


class Tracked:
    """Tracks trials in MLflow while a block runs; they do not wait for a server that is down."""

    def __init__(self, study: Study, folder: TrialsFolder, *, higher: bool) -> None:
        """Follow nothing yet."""
        self.warnings: list[str] = []
        self._study, self._folder, self._higher = study, folder, higher
        self._trials: dict[int, Tracker] = {}
        self._over: dict[int, Trial] = {}

    def __enter__(self) -> "Tracked":
        """Begin the run of the whole, or go on with it."""
        plain = strict_yaml.read(self._study.to_yaml())
        self._log = MetricsLog(self._folder.metrics_path)
        self._own = Tracker(self._folder, self._study.base.tracking, plain)
        return self

    def update(self, trial: Trial) -> None:
        """Begin a trial's MLflow run as soon as it has a folder, and end it when the trial is over."""
        run = self._folder.run(trial.number)
        if trial.number not in self._trials and trial.number not in self._over and (run.path / "run.json").exists():
            params = self._study.plain(trial.values)
            self._trials[trial.number] = Tracker(run, self._study.base.tracking, params, parent=self._own)
        if trial.over and trial.number not in self._over:
            self._over[trial.number] = trial
            self.log(len(self._over), self._study.overview(list(self._over.values()), higher=self._higher))
            if trial.number in self._trials:
                self._trials[trial.number].end(ENDED[trial.status], [*run.artifacts, run.path / "trial.json"])

    def recall(self, trial: Trial) -> None:
        """Add a trial from before an interruption; its MLflow run is ended unless that was done before."""
        copied = original_of(self._folder.run(trial.number).path) is not None  # of a search that was copied whole
        if trial.over and self._folder.sent_to_mlflow(trial.number) and not copied:
            self._over[trial.number] = trial
        else:
            self.update(trial)

    def log(self, over: int, values: Mapping[str, float]) -> None:
        """Record metrics of the whole.

        Args:
            over: number of trials that are over, in the place of a step.
            values: numbers by the metric's name.
        """
        self._log.write(over, values)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """End the runs by how the block ended, and warn of what could not be sent."""
        del error, trace
        status = "FINISHED" if kind is None else "FAILED"
        if kind is not None and issubclass(kind, Interrupted | KeyboardInterrupt):
            status = "KILLED"
        self._log.close()
        for number, tracker in self._trials.items():
            if number not in self._over:
                tracker.end("KILLED", self._folder.run(number).artifacts)
        warning = self._own.close(status, self._folder.artifacts)
        waited = [tracker.wait(SHORT if warning is not None else 60.0) for tracker in self._trials.values()]
        unsent = [one for one in (warning, *waited) if one is not None]
        if unsent:
            self.warnings.append(unsent[0] if len(unsent) == 1 else f"{unsent[0]} (and {len(unsent) - 1} more runs)")

"""The record of a trial, and the folder of a search or a comparison, which holds a run's folder for each trial."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from cluster.runs.folder import DescribedFolder, RunFolder, read_json, write_json
from cluster.runs.metrics import records

Status = Literal["waiting", "running", "finished", "stopped", "diverged", "failed"]
RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """State of one trial.

    Attributes:
        number: its number, from 0 on.
        values: what it was given, by configuration key.
        status: ``waiting``, ``running``, ``finished`` all outer steps, ``stopped`` early by the scheduler,
            ``diverged``, or ``failed``.
        steps: outer steps done.
        value: best validation score, None if there is none that is finite.
        history: outer steps and scores, in order; None where one is not finite.
        error: why it failed or diverged.
    """

    number: int
    values: Mapping[str, Any]
    status: Status = "waiting"
    steps: int = 0
    value: float | None = None
    history: tuple[tuple[int, float | None], ...] = ()
    error: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.status not in ("waiting", "running")


class TrialsFolder(DescribedFolder):
    """A folder with a run's folder for each trial, in ``trials/NNN/``.

    Attributes:
        noun: what the trials are of, in messages.
        settings_file: name of the file of settings.
        page_file: name of the page.
    """

    noun: ClassVar[str]
    settings_file: ClassVar[str]
    page_file: ClassVar[str]

    @property
    def state(self) -> Path:
        """Folder of Ray Tune's own state while trials run; nothing in it outlives them."""
        return self.path / "tune"

    @property
    def artifacts(self) -> list[Path]:
        """Files and folders that belong in MLflow beside the metrics; some may not be there."""
        return [self.path / name for name in (self.settings_file, self.description, RESULT, self.page_file, "figures")]

    def run(self, number: int) -> RunFolder:
        """The run's folder of a trial."""
        return RunFolder(self.path / "trials" / f"{number:03d}")

    def trials(self) -> list[Trial]:
        """All trials so far, by number."""
        trials = [self.read(int(path.parent.name)) for path in self.path.glob("trials/*/trial.json")]
        return sorted(trials, key=lambda trial: trial.number)

    def read(self, number: int) -> Trial:
        """One trial."""
        plain = read_json(self.run(number).path / "trial.json")
        return Trial(**plain | {"history": tuple((step, score) for step, score in plain["history"])})

    def sent_to_mlflow(self, number: int) -> bool:
        """Whether the end of a trial was given to its tracker."""
        run = self.run(number)
        return (run.path / "run.json").exists() and run.info.get("ended") is not None

    def refreshed(self, trial: Trial, metric: str, *, higher: bool) -> Trial:
        """A trial with the scores that its run has recorded by now.

        Args:
            trial: as it is recorded.
            metric: key of the score in the run's metrics.
            higher: whether larger scores are better.
        """
        history = scores(self.run(trial.number), metric)
        finite = [score for _, score in history if score is not None]
        best = (max(finite) if higher else min(finite)) if finite else None
        return dataclasses.replace(trial, history=tuple(history), steps=history[-1][0] if history else 0, value=best)

    def write(self, trial: Trial) -> None:
        """Record a trial."""
        write_json(self.run(trial.number).path / "trial.json", dataclasses.asdict(trial))


def by_value(trials: Iterable[Trial], *, higher: bool) -> list[Trial]:
    """Trials that have a score, the best first.

    Args:
        trials: in any order.
        higher: whether larger scores are better.
    """
    scored = [trial for trial in trials if trial.value is not None]
    return sorted(scored, key=lambda trial: (-1 if higher else 1) * (trial.value or 0.0))


def scores(run: RunFolder, metric: str) -> list[tuple[int, float | None]]:
    """Outer steps and validation scores in a run's own record, None where one is not finite.

    Args:
        run: the trial's folder.
        metric: key of the score in the run's metrics.
    """
    lines = records(run.metrics_path)
    return [(record["step"], record["values"][metric]) for record in lines if metric in record["values"]]

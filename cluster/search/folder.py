"""A search's folder: where its files lie, and the record of every trial."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.errors import ConfigError
from cluster.runs.folder import DescribedFolder, RunFolder, beginning, place, read_json, require_name, write_json
from cluster.runs.lasting import in_job
from cluster.search.settings import Search, reload, require_same

Status = Literal["waiting", "running", "finished", "stopped", "diverged", "failed"]
INFO = "search.json"
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


class SearchFolder(DescribedFolder):
    """``search.yaml``, ``search.json``, ``metrics.jsonl``, ``trials/NNN/`` (a run's folder each), ``figures/``."""

    description = INFO

    @property
    def state(self) -> Path:
        """Folder of Ray Tune's own state while a search runs; nothing in it outlives the search."""
        return self.path / "tune"

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
    scored: list[tuple[int, float | None]] = []
    for line in run.metrics_path.read_bytes().splitlines() if run.metrics_path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            break  # the last line, cut short by a crash or being written
        if metric in record["values"]:
            scored.append((record["step"], record["values"][metric]))
    return scored


def plan(search: Search, name: str) -> SearchFolder:
    """A search's folder that is not made yet, under ``checkpoint.root`` where that is a folder.

    Args:
        search: the search.
        name: of the folder.
    """
    return SearchFolder(_place(search, name), beginning(name))


def plan_named(search: Search, name: str) -> SearchFolder:
    """The folder of the search of a name, begun before under the same settings, or planned.

    Args:
        search: the search.
        name: of the folder.

    Raises:
        ConfigError: if the name is none for a folder, or the search there is of other settings.
    """
    require_name(name)
    folder = SearchFolder(_place(search, name))
    if not (folder.path / INFO).is_file():
        return plan(search, name)
    require_same(reload(folder.path / "search.yaml"), search)
    return folder


def _place(search: Search, name: str) -> Path:
    path = place(search.base, name)
    if in_job() and not path.is_absolute():
        raise ConfigError(
            "checkpoint.root: expected a folder that all nodes share, such as /shared/runs, received "
            f"'{search.base.checkpoint.root}': a search's own files are in no URI, and the job's folder goes with it"
        )
    return path.absolute()


def find(search: str, root: str = "runs") -> SearchFolder:
    """The folder of a search given by its path or its name under ``root``.

    Args:
        search: path or name.
        root: folder in which names are looked up.

    Raises:
        ConfigError: if there is no such search.
    """
    for path in (Path(search), Path(root) / search):
        if (path / INFO).is_file():
            return SearchFolder(path.absolute())
    raise ConfigError(f"expected a search's folder, received '{search}'; searches are in the folder '{root}/'")

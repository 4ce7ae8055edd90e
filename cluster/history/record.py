"""Description of one run, search or comparison, read from the files in its folder; nothing is built or imported."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

from cluster.config.schema import read_yaml
from cluster.errors import ConfigError, MetarayError
from cluster.runs.folder import read_json, with_mlflow_run
from cluster.tracking.spool import is_live

KINDS = {"run.json": "run", "search.json": "search", "compare.json": "comparison"}
SETTINGS = {"run": "config.yaml", "search": "search.yaml", "comparison": "compare.yaml"}
STATUSES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}
ALL_STATUSES = ("running", *STATUSES.values(), "damaged")
TAIL = 2**16  # bytes at the end of a file of metrics in which the last step stands
_CONDITION = re.compile(r"\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*")
_COMPARED: dict[str, Callable[[float, float], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run, search or comparison.

    Attributes:
        name: of the folder.
        path: of the folder.
        kind: ``run``, ``search`` or ``comparison``.
        status: ``running``, ``finished``, ``failed``, ``interrupted``, or ``damaged`` where its files cannot be read.
        created: when, in UTC, as ISO 8601.
        family: of tasks.
        algorithm: of the run, or of the base configuration.
        steps: outer steps done.
        of_steps: outer steps asked for.
        metric: of the score.
        score: held-out mean and half-width of its 95 % interval after ``inner_steps`` inner steps; None before there
            is one.
        inner_steps: number of inner steps at which the score is taken: the one that picks the best θ.
        mlflow_run_id: of the run in MLflow.
        mlflow_uri: of that MLflow.
        error: why it is damaged.
    """

    name: str
    path: Path
    kind: str
    status: str
    created: str = ""
    family: str = ""
    algorithm: str = ""
    steps: int | None = None
    of_steps: int | None = None
    metric: str | None = None
    score: Mapping[str, float | None] | None = None
    inner_steps: int | None = None
    mlflow_run_id: str | None = None
    mlflow_uri: str | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self) | {"path": str(self.path)}


def description_of(path: Path) -> Path | None:
    """The description in a folder, None if it is the folder of no run, search or comparison."""
    return next((path / name for name in KINDS if (path / name).is_file()), None)


def record_of(path: Path) -> Record:
    """The record of a folder that has a description; a damaged one has its reason.

    Args:
        path: the folder.
    """
    description = description_of(path)
    if description is None:
        raise ConfigError(f"expected the folder of a run, a search or a comparison, received '{path}'")
    kind = KINDS[description.name]
    try:
        return _record(path, kind, read_json(description))
    except (MetarayError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Record(name=path.name, path=path, kind=kind, status="damaged", error=f"{type(error).__name__}: {error}")


def _record(path: Path, kind: str, info: Mapping[str, Any]) -> Record:
    settings = read_yaml(path / SETTINGS[kind])
    algorithm = settings.get("algorithm", "maml")
    known: dict[str, Any] = {}
    if kind == "run":
        known = {"steps": _last_step(path / "metrics.jsonl"), "of_steps": settings["outer"]["steps"]}
        known |= _score(path / "evaluation.json", settings)
    return Record(
        name=path.name,
        path=path,
        kind=kind,
        status=_status(path, info),
        created=info["created"],
        family=settings["task"]["family"],
        algorithm=algorithm if isinstance(algorithm, str) else algorithm["name"],
        mlflow_run_id=info["mlflow_run_id"],
        mlflow_uri=info["mlflow_uri"],
        **known,
    )


def _status(path: Path, info: Mapping[str, Any]) -> str:
    """The status: one that has no end and in which nothing runs was interrupted."""
    if info.get("ended") is not None:
        return STATUSES[info["status"]]
    return "running" if is_live(path) else "interrupted"


def _last_step(path: Path) -> int:
    """The last outer step that a file of metrics records, 0 without one."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read().splitlines()
    steps = [0]
    for line in lines:
        try:
            steps.append(int(json.loads(line)["step"]))
        except (ValueError, KeyError, TypeError):
            continue  # the first line, cut by the seek, or the last, which is being written
    return max(steps)


def _score(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    evaluation = read_json(path)
    asked = settings["eval"].get("select_steps")
    number = str(settings["inner"]["steps"] if asked is None else asked)
    if number not in evaluation["steps"]:
        number = max(evaluation["steps"], key=int)
    row = evaluation["steps"][number]
    score = {"mean": row["mean"], "ci95": row["ci95"]}
    return {"metric": evaluation["metric"], "score": score, "inner_steps": int(number)}


def records(root: Path) -> list[Record]:
    """Records of the runs, searches and comparisons in a folder, the newest first.

    Args:
        root: the folder; one that is not there holds none.
    """
    paths = root.iterdir() if root.is_dir() else ()
    folders = [path for path in paths if not path.name.startswith(".") and description_of(path)]
    return sorted(map(record_of, folders), key=lambda record: (record.created, record.name), reverse=True)


def chosen(
    every: list[Record], *, family: str | None, algorithm: str | None, status: str | None, score: str | None
) -> Iterator[Record]:
    """The records that fit all conditions.

    Args:
        every: the records.
        family: of tasks.
        algorithm: of the run.
        status: one of ``ALL_STATUSES``.
        score: a condition such as ``<0.5`` or ``>=0.9``; records without a score do not fit.

    Raises:
        ConfigError: for a status or a condition that is none.
    """
    if status is not None and status not in ALL_STATUSES:
        raise ConfigError(f"--status: expected one of {', '.join(ALL_STATUSES)}, received '{status}'")
    fits = _condition(score) if score is not None else lambda _: True
    for record in every:
        if (
            family in (None, record.family)
            and algorithm in (None, record.algorithm)
            and status in (None, record.status)
        ):
            mean = record.score["mean"] if record.score else None
            if score is None or (mean is not None and fits(mean)):
                yield record


def _condition(text: str) -> Callable[[float], bool]:
    match = _CONDITION.fullmatch(text)
    try:
        bound = float(match[2]) if match else None
    except ValueError:
        bound = None
    if match is None or bound is None:
        raise ConfigError(f"--score: expected a condition such as '<0.5' or '>=0.9', received '{text}'")
    return lambda mean: _COMPARED[match[1]](mean, bound)


def locate(run: str, root: Path) -> Path:
    """The folder of a run, a search or a comparison.

    Args:
        run: its path, its name under ``root``, or, of a run, its MLflow run id.
        root: the folder of the runs.

    Raises:
        ConfigError: if there is none.
    """
    for path in (root / run, Path(run)):
        if description_of(path) is not None:
            return path
    if (folder := with_mlflow_run(run, root, KINDS)) is not None:
        return folder
    raise ConfigError(
        f"expected a run, a search or a comparison in '{root}/' or its path, received '{run}'; list them: metaray runs"
    )

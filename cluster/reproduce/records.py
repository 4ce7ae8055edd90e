"""Records of reproductions, ``docs/results/NAME.json``: what was measured, how and where, beside what is published."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.compare.clock import seconds_at
from cluster.compare.result import Result
from cluster.compare.settings import Comparison
from cluster.config.schema import Config
from cluster.errors import ConfigError
from cluster.reproduce.rows import Row
from cluster.reproduce.run import BACKGROUND, Reproduction
from cluster.runs.folder import RunFolder, read_json, write_json
from cluster.runs.metrics import records as metrics
from cluster.search.trials import scores as validation_scores

RECORDS = Path("docs/results")
SCHEMA = 1
OF_A_ROW = ("name", "changes", "inner_steps", "steps", "seconds", "peak_memory_mb", "parameters", "evaluation")
OF_A_RUN = ("seed", "status", "mean", "ci95", "steps", "seconds")
KEPT_VERSIONS = ("metaray", "torch", "ray", "numpy")
DIGITS = 6


def path_of(name: str, folder: Path = RECORDS) -> Path:
    """The file of a row's record.

    Args:
        name: of the row.
        folder: of the records.
    """
    return folder / f"{name}.json"


def read_all(folder: Path = RECORDS) -> dict[str, dict[str, Any]]:
    """The records by the row's name.

    Args:
        folder: of the records.
    """
    return {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}


def keep(reproduction: Reproduction, overrides: Sequence[str], folder: Path = RECORDS) -> Path:
    """Write the record of a row, in the place of an earlier one.

    Args:
        reproduction: the row's result.
        overrides: the words that it was called with.
        folder: of the records.

    Returns:
        The file.

    Raises:
        ConfigError: if a run has failed; one that diverged is a result too.
    """
    for one in reproduction.result.rows:
        if failed := [str(run["seed"]) for run in one["runs"] if run["status"] not in ("finished", "diverged")]:
            raise ConfigError(
                f"{reproduction.row.name}, {one['name']}: expected every run to be over, received {', '.join(failed)} "
                f"(seeds) that failed; call metaray reproduce {reproduction.row.name} again, which tries them anew"
            )
    if (metric := reproduction.result.objective.metric) != reproduction.row.settings.metric:
        raise ConfigError(
            f"{reproduction.row.name}.metric: expected {metric}, which the row is scored by, received "
            f"'{reproduction.row.settings.metric}'; correct {reproduction.row.path}"
        )
    path = path_of(reproduction.row.name, folder)
    earlier = read_json(path) if path.is_file() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    configuration = plain_configuration(reproduction.row.comparison())
    write_json(path, _rounded(_record(reproduction, overrides, earlier)) | {"configuration": configuration})
    return path


def _record(reproduction: Reproduction, overrides: Sequence[str], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything that a record says, as plain values."""
    row, result = reproduction.row, reproduction.result
    comparison, info = result.comparison, result.folder.info
    rows = [_row(one, result, row.settings.target) for one in result.rows]
    return {
        "schema": SCHEMA,
        "row": row.name,
        "title": row.settings.title,
        "published": None if row.settings.published is None else row.settings.published.model_dump(mode="json"),
        "metric": result.objective.metric,
        "higher_is_better": result.objective.higher_is_better,
        "seeds": comparison.seeds,
        "budget": str(comparison.settings.budget),
        "target": row.settings.target,
        "rows": rows,
        "also": reproduction.also,
        "selection": selection(comparison.base),
        "looks_at_test_tasks": looks(earlier, info["created"]),
        "begun": info["created"],
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "commits": sorted({_commit(run["run_dir"]) for one in result.rows for run in one["runs"]}),
        "machine": info["hardware"],
        "niceness": BACKGROUND,
        "hours": sum(run["seconds"] or 0 for one in result.rows for run in one["runs"]) / 3600,
        "workers": comparison.base.cluster.workers,
        "versions": {name: info["versions"][name] for name in KEPT_VERSIONS},
        "command": command(row, overrides),
        "warnings": result.warnings,
    }


def looks(earlier: Mapping[str, Any] | None, begun: str) -> int:
    """How often the test tasks have been looked at, this record's measurement included.

    A record that takes the place of one of another measurement had a look at the same tasks before it.

    Args:
        earlier: the record whose place this one takes.
        begun: when this measurement was begun.

    >>> earlier = {"begun": "noon", "looks_at_test_tasks": 2}
    >>> looks(None, "noon"), looks(earlier, "noon"), looks(earlier, "evening")
    (1, 2, 3)
    """
    if earlier is None:
        return 1
    return int(earlier["looks_at_test_tasks"]) + int(earlier["begun"] != begun)


def selection(config: Config) -> str:
    """The rule by which θ is picked, in words.

    Args:
        config: the configuration of a run.
    """
    if config.eval.every == 0:
        return "the last θ"
    steps = "1 inner step" if config.select_steps == 1 else f"{config.select_steps} inner steps"
    return (
        f"the θ that is best on {config.eval.val_tasks} validation tasks after {steps}, of those of every "
        f"{config.eval.every:,} outer steps"
    )


def command(row: Row, overrides: Sequence[str]) -> str:
    """The command without the folders of the machine that it ran on.

    Args:
        row: the row.
        overrides: the words that it was called with.
    """
    places = ("task.root=", "checkpoint.", "tracking.", "cluster.address=")
    return " ".join(["metaray reproduce", row.name, *(word for word in overrides if not word.startswith(places))])


def _row(plain: Mapping[str, Any], result: Result, target: float | None) -> dict[str, Any]:
    """A row of the comparison's result, without places of this machine, with each run's validation scores."""
    comparison, runs = result.comparison, []
    batch = comparison.config({"row": plain["name"], "seed": comparison.seeds[0]}).meta_batch
    for run in plain["runs"]:
        folder = RunFolder(Path(run["run_dir"]))
        curve = _curve(folder, comparison.metric({"row": plain["name"], "seed": run["seed"]}))
        higher = result.objective.higher_is_better
        first = {} if target is None else {"reached": reached(curve, target, batch, higher_is_better=higher)}
        runs.append({name: run[name] for name in OF_A_RUN} | first | {"validation": curve})
    return {key: plain[key] for key in OF_A_ROW} | {"difference": plain["difference"], "runs": runs}


def _curve(folder: RunFolder, key: str) -> list[list[float]]:
    """Outer step, seconds of training and validation score, in order."""
    history = [(step, score) for step, score in validation_scores(folder, key) if score is not None]
    seconds = seconds_at(metrics(folder.metrics_path), [step for step, _ in history])
    return [[step, round(float(at), 1), score] for (step, score), at in zip(history, seconds, strict=True)]


def reached(
    curve: Iterable[Sequence[float]], target: float, meta_batch: int, *, higher_is_better: bool
) -> dict[str, float] | None:
    """The first validation whose score is as good as the target; None if there is none.

    Args:
        curve: outer step, seconds of training and score of each validation, in order.
        target: the score.
        meta_batch: tasks of an outer step.
        higher_is_better: whether a larger score is a better one.

    >>> reached([[10, 1.5, 0.9], [20, 3.0, 0.99]], 0.98, 4, higher_is_better=True)
    {'step': 20, 'tasks': 80, 'seconds': 3.0, 'score': 0.99}
    """
    for step, seconds, score in curve:
        if score >= target if higher_is_better else score <= target:
            return {"step": step, "tasks": step * meta_batch, "seconds": seconds, "score": score}
    return None


def plain_configuration(comparison: Comparison) -> dict[str, Any]:
    """A comparison with its defaults spelled out, without the sections that say where it runs.

    Args:
        comparison: of a row as it is declared.
    """
    base = comparison.base.model_dump(mode="json", exclude={"tracking", "checkpoint", "cluster"})
    return {"compare": {"rows": comparison.settings.rows}, **base}


def _commit(run: str) -> str:
    return RunFolder(Path(run)).info["git_commit"] or "unknown"


def _rounded(value: Any) -> Any:
    """Plain values with numbers of six significant digits, so that records can be read."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value

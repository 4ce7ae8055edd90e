"""A run's page: one HTML file that holds its figures and numbers and loads nothing."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from cluster.config import strict_yaml
from cluster.config.credentials import without_credentials
from cluster.config.schema import Config
from cluster.errors import MetarayError
from cluster.evaluation.intervals import INTERVAL
from cluster.evaluation.protocol import further_rows, protocol, rows
from cluster.reports import figures as drawing
from cluster.reports.figures import Trained, curve, learners
from cluster.reports.html import NOT_FINITE, embedded, interval, rounded, template
from cluster.runs.events import read_events, summary
from cluster.runs.folder import RunFolder
from cluster.runs.storage import write_file
from meta.objectives import DIVERGED

ABSENT = "not recorded"
WITHOUT_INNER_LOOP = ("pretrain", "oracle", "ridge")  # in training
SHOWN_EVENTS = 100  # of a run, the last ones
CURVE = re.compile(r"train/(loss|return)|val/.+_\d+")  # metrics that have a place in the learning curves


class Drawn(NamedTuple):
    """The files of a run's figures, in their order, and in sentences why others are missing."""

    paths: list[Path]
    notes: list[str]


def draw_figures(run_dir: Path, trained: Trained) -> Drawn:
    """Draw what the run's data permit into its folder ``figures``.

    Args:
        run_dir: the run's folder.
        trained: label -> set-up and θ of the run and its baselines; may be empty.

    Returns:
        Of ``learning_curves.png``, ``adaptation.png``, ``regression.png``, ``episode.png``, ``paths.png``,
        ``positions.png`` and ``film.png`` those that were drawn.

    Raises:
        MetarayError: if the folder is not a run's, or a file in it is damaged.
    """
    folder = RunFolder(run_dir)
    evaluation = _read_evaluation(folder)
    series = _series(folder, evaluation)
    curves = {name: (setup, theta) for name, (setup, theta) in trained.items() if drawing.can_draw_regression(setup)}
    made: dict[str, Any] = {}
    notes: list[str] = []
    if any(CURVE.fullmatch(key) for records in series.values() for record in records for key in record["values"]):
        made["learning_curves"] = drawing.learning_curves(series, _best(folder))
    if evaluation is not None:
        made["adaptation"] = drawing.adaptation(evaluation, _label(folder))
    if curves:
        made["regression"] = drawing.regression(curves)
    for setup, theta in trained.values():
        if "episode" not in made and drawing.can_draw_episode(setup):
            made["episode"] = drawing.episode(setup, theta, steps=_most_steps(evaluation, setup.config))
    policies = {name: (setup, theta) for name, (setup, theta) in trained.items() if drawing.can_draw_rollouts(setup)}
    for setup, _ in islice(policies.values(), 1):
        of_rollouts, notes = drawing.of_policies(policies, _most_steps(evaluation, setup.config))
        made |= of_rollouts
    for name, figure in made.items():
        drawing.save(figure, folder.figures / f"{name}.png")
    return Drawn([folder.figures / f"{name}.png" for name in made], notes)


def write_report(run_dir: Path, figures: Sequence[Path], notes: Sequence[str] = ()) -> Path:
    """Write ``report.html`` into a run's folder.

    Args:
        run_dir: the run's folder.
        figures: PNG files to embed, in their order.
        notes: sentences to stand beside them.

    Returns:
        The page's path.

    Raises:
        MetarayError: if a file is missing or damaged.
    """
    folder = RunFolder(run_dir)
    info, evaluation, label = _read_info(folder), _read_evaluation(folder), _label(folder)
    config = _read(run_dir / "config.yaml", "the run's configuration")
    family, inner_steps = _settings(config)
    if info["algorithm"] in WITHOUT_INNER_LOOP:
        inner_steps = None
    page = template("report").render(
        name=info["name"],
        lead=_lead(f"{info['algorithm']} on {family}", evaluation, label),
        tables=[] if evaluation is None else _tables(evaluation, label),
        protocol=None if evaluation is None else protocol(evaluation, inner_steps),
        undefined=evaluation is not None and bool(evaluation.get("scores")),
        interval=INTERVAL,
        diverged=f"{DIVERGED:g}",
        warnings=_warnings(info, evaluation),
        events=_events(folder),
        figures=[embedded(path) for path in figures],
        notes=notes,
        metric=(evaluation or {}).get("metric"),
        curves=[(name, _curve_rows(records)) for name, records in _series(folder, evaluation).items() if records],
        facts=_facts(info | {"data": (evaluation or {}).get("data")}),
        versions=info.get("versions") or {},
        config=without_credentials(config),
    )
    write_file(run_dir / "report.html", page.encode())
    return run_dir / "report.html"


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The records of ``metrics.jsonl``; none if there is no such file.

    A last line that a crash cut short is passed over.

    Raises:
        MetarayError: naming a line before it that is damaged.
    """
    path = RunFolder(run_dir).metrics_path
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is None:
            raise MetarayError(
                f"{path}, line {number}: expected a JSON object with a whole number 'step' and numbers under "
                f"'values', received {line[:80].decode(errors='replace')!r}; restore the file or remove the line"
            )
        records.append(record)
    cut_or_whole = _record(last)
    return records if cut_or_whole is None else [*records, cut_or_whole]


def _most_steps(evaluation: Mapping[str, Any] | None, config: Config) -> int:
    """The most inner steps that the run was evaluated after, or those in training."""
    return max(map(int, evaluation["steps"])) if evaluation else config.inner.steps


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line, or None if it holds none."""
    try:
        record: Any = json.loads(line)
    except ValueError:
        return None
    match record:
        case {"step": int(), "values": dict(values)}:
            return record if all(isinstance(value, int | float | None) for value in values.values()) else None
    return None


def _label(folder: RunFolder) -> str:
    """Name of this run beside its baselines."""
    algorithm = str(_read_info(folder)["algorithm"])
    return f"{algorithm} (this run)" if algorithm in folder.baselines else algorithm


def _series(folder: RunFolder, evaluation: Mapping[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """Records of this run and its baselines, in the order of the evaluation, so that colours agree."""
    baselines = folder.baselines
    order = [name for name in (evaluation or {}).get("baselines", {}) if name in baselines]
    order += [name for name in baselines if name not in order]
    return {_label(folder): read_metrics(folder.path)} | {name: read_metrics(baselines[name].path) for name in order}


def _best(folder: RunFolder) -> dict[str, int]:
    """The outer steps whose parameters validation chose, of this run and of its baselines."""
    evaluations = {_label(folder): _read_evaluation(folder)}
    evaluations |= {name: _read_evaluation(baseline) for name, baseline in folder.baselines.items()}
    steps = {name: (evaluation or {}).get("best_step") for name, evaluation in evaluations.items()}
    return {name: step for name, step in steps.items() if step is not None}


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MetarayError(
            f"expected {what} in '{path}', received: {error}; give the folder of a run, as 'metaray train' names it"
        ) from error


def _read_json(path: Path, what: str, keys: Sequence[str]) -> dict[str, Any]:
    try:
        content: Any = json.loads(_read(path, what))
    except ValueError as error:
        raise MetarayError(f"{path}: expected JSON, received: {error}; restore the file") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise MetarayError(f"{path}: expected {', '.join(keys)}, received no {', '.join(missing)}; restore the file")
    read: dict[str, Any] = content
    return read


def _read_info(folder: RunFolder) -> dict[str, Any]:
    return _read_json(folder.path / "run.json", "a run's description", ("name", "algorithm"))


def _read_evaluation(folder: RunFolder) -> dict[str, Any] | None:
    path = folder.path / "evaluation.json"
    keys = ("metric", "split", "tasks", "steps")
    return _read_json(path, "an evaluation", keys) if path.exists() else None


def _warnings(info: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> list[str]:
    """Warnings about the training, each sentence once."""
    warnings = [*(info.get("warnings") or []), *((evaluation or {}).get("warnings") or [])]
    return [without_credentials(warning) for warning in dict.fromkeys(warnings)]


def _events(folder: RunFolder) -> dict[str, Any] | None:
    """Events of workers and nodes for the template: totals by kind, and the last events."""
    events = read_events(folder.events_path)
    if not events:
        return None
    totals = [(kind, str(count), f"{seconds:.1f}") for kind, (count, seconds) in summary(events).items()]
    rows = [
        (
            datetime.fromtimestamp(event.time, UTC).isoformat(sep=" ", timespec="seconds"),
            event.kind,
            "" if event.step is None else str(event.step),
            event.node or "",
            f"{event.seconds:.1f}",
            event.text,
        )
        for event in events[-SHOWN_EVENTS:]
    ]
    return {"totals": totals, "rows": rows, "left_out": len(events) - len(rows)}


def _settings(config: str) -> tuple[str, int | None]:
    """The family's name, and the inner steps in training if they are given."""
    try:
        plain = strict_yaml.read(config)
        inner = plain.get("inner")
        return str(plain["task"]["family"]), inner.get("steps") if isinstance(inner, dict) else None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise MetarayError(f"config.yaml: expected YAML with task.family, received: {error}; restore it") from error


def _lead(subject: str, evaluation: Mapping[str, Any] | None, label: str) -> str:
    """The run in one sentence."""
    if evaluation is None:
        return f"{subject}, not evaluated yet."
    last, metric = max(evaluation["steps"], key=int), evaluation["metric"]
    own, *others = [(name, scores[last]) for name, scores in learners(evaluation, label) if last in scores]
    steps = "1 inner step" if last == "1" else f"{last} inner steps"
    beside = ", ".join(f"{name} {interval(score, metric)}" for name, score in others)
    tasks = f"{evaluation['tasks']} {evaluation['split']} tasks"
    scored = f"{metric} {interval(own[1], metric)} after {steps} on {tasks}"
    return f"{subject}: {scored} ({beside})." if beside else f"{subject}: {scored}."


def _tables(evaluation: Mapping[str, Any], label: str) -> list[dict[str, Any]]:
    """The tables of an evaluation: of the score that selects, then of those of ``eval.scores``."""
    further = further_rows(evaluation, label)
    return [
        _table(evaluation["metric"], rows(evaluation, label)),
        *(_table(score, learners) for score, learners in further.items()),
    ]


def _table(metric: str, learners: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """One score as the template wants it: three rows per learner and kind of task, one column per number."""
    steps = sorted(learners[0][1], key=int)
    groups = []
    for name, scores in learners:
        scores_at = [scores.get(number) for number in steps]
        cells = {
            "mean": ["" if score is None else interval(score, metric) for score in scores_at],
            "median": ["" if score is None else rounded(score["median"], metric) for score in scores_at],
            "diverged": ["" if score is None else str(score["diverged"]) for score in scores_at],
        }
        if any(score is not None and score.get("undefined") for score in scores_at):
            cells["undefined"] = ["" if score is None else str(score["undefined"]) for score in scores_at]
        groups.append((name, cells))
    return {"metric": metric, "steps": steps, "groups": groups}


def _curve_rows(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Per metric: name, records, first, last, lowest and highest value with their steps."""
    rows = []
    for key in sorted({key for record in records for key in record["values"]}, key=_natural):
        steps, values = curve(records, key)
        known = np.flatnonzero(np.isfinite(values))
        places = [0, len(values) - 1]
        if len(known):
            places += [int(known[values[known].argmin()]), int(known[values[known].argmax()])]
        cells = [f"{rounded(float(values[place]))} (step {int(steps[place])})" for place in places]
        rows.append((key, [str(len(values)), *cells, *[NOT_FINITE] * (4 - len(cells))]))
    return rows


def _natural(key: str) -> tuple[str, int]:
    """Sorts ``val/mse_5`` before ``val/mse_10``."""
    stem, _, number = key.rpartition("_")
    return (stem, int(number)) if number.isdecimal() else (key, -1)


def _facts(info: Mapping[str, Any]) -> dict[str, str]:
    keys = {
        "Algorithm": "algorithm",
        "Started": "created",
        "Hardware": "hardware",
        "Engine": "engine",
        "Data": "data",
        "Git commit": "git_commit",
        "MLflow run": "mlflow_run_id",
        "MLflow store": "mlflow_uri",
    }
    facts = {name: without_credentials(str(info.get(key) or ABSENT)) for name, key in keys.items()}
    if not info.get("data"):  # many families need none
        del facts["Data"]
    return facts

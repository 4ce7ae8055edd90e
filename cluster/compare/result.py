"""A comparison's result: what the trials' folders hold, row by row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.compare.folder import CompareFolder
from cluster.compare.settings import Comparison
from cluster.compare.table import advantage, row_figures, row_usage
from cluster.compare.trial import OUTCOME, scores_of
from cluster.errors import MetarayError
from cluster.evaluation.intervals import Kinds
from cluster.evaluation.scores import scored_steps, task_kinds
from cluster.evaluation.summary import Scores, interval
from cluster.runs.folder import read_json
from cluster.search.trials import Trial
from cluster.setups.build import build
from meta.objectives import Score

DESCRIPTIVE = (
    "metric",
    "split",
    "tasks",
    "way",
    "shot",
    "horizon",
    "query_per_class",
    "batch_norm",
    "inner_lr",
    "data",
)
USAGE: dict[str, Any] = {"steps": None, "seconds": None, "peak_memory_mb": None, "parameters": None}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a comparison.

    Attributes:
        folder: the comparison's folder.
        comparison: what was compared.
        rows: one for each row, as ``--json`` prints it.
        trials: all of them, by number.
        objective: what was scored.
        figures: the picture.
        warnings: sentences about what could not be done, and about runs that are not what the file asks for.
    """

    folder: CompareFolder
    comparison: Comparison
    rows: list[dict[str, Any]]
    trials: list[Trial]
    objective: Score
    figures: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray compare --json`` prints, but for the figures."""
        return {
            "metric": self.objective.metric,
            "higher_is_better": self.objective.higher_is_better,
            "budget": self.comparison.settings.budget.model_dump(mode="json", exclude_none=True),
            "seeds": self.comparison.seeds,
            "rows": self.rows,
            "run_id": self.folder.info["mlflow_run_id"],
            "compare_dir": str(self.folder.path),
            "page": str(self.folder.path / self.folder.page_file),
            "warnings": self.warnings,
        }

    def metrics(self) -> dict[str, float]:
        """Scores, intervals and differences of the rows, as metrics of the whole."""
        values: dict[str, float] = {}
        for number, row in enumerate(self.rows):
            if row["evaluation"] is None:
                continue
            name = f"row_{number}/{self.objective.metric}"  # MLflow's names are narrower than a row's
            score = row["evaluation"]["steps"][str(row["inner_steps"])]
            figures = {name: score["mean"], f"{name}_ci95": score["ci95"], f"{name}_ci95_seeds": score["ci95_seeds"]}
            if row["difference"] is not None:
                figures[f"row_{number}/difference"] = row["difference"]["mean"]
            values |= {key: value for key, value in figures.items() if value is not None}
        return values


@dataclass(frozen=True, kw_only=True)
class _Row:
    """The trials of a row in the order of the seeds, and what each of them that is finished recorded."""

    name: str
    trials: Sequence[Trial]
    outcomes: Sequence[Mapping[str, Any] | None]

    @property
    def scores(self) -> list[Scores] | None:
        """Scores [T, K] of each seed; None if a run has none."""
        present = [scores_of(outcome["scores"]) for outcome in self.outcomes if outcome is not None]
        return present if len(present) == len(self.trials) else None


def gather(comparison: Comparison, folder: CompareFolder) -> Result:
    """The result of trials that are over.

    Args:
        comparison: the comparison.
        folder: its folder.

    Raises:
        MetarayError: if no row has a score.
    """
    trials = folder.trials()
    rows = [_row(comparison, folder, name, trials) for name in comparison.rows]
    setup = build(comparison.base.model_copy(update={"engine": "loop"}))
    kinds = task_kinds(setup, "test", comparison.base.eval.tasks)
    objective = setup.algorithm.objective
    plain = [_plain(comparison, folder, row, rows[0], objective, kinds) for row in rows]
    if all(row["evaluation"] is None for row in plain):
        reasons = ", ".join(f"trial {trial.number} {trial.status}: {trial.error}" for trial in trials[:3])
        raise MetarayError(f"none of the {len(rows)} rows has a score ({reasons})")
    warnings = [line for row in rows for line in _warnings(comparison, folder, row)]
    return Result(
        folder=folder, comparison=comparison, rows=plain, trials=trials, objective=objective, warnings=warnings
    )


def _row(comparison: Comparison, folder: CompareFolder, name: str, trials: Sequence[Trial]) -> _Row:
    by_seed = {trial.values["seed"]: trial for trial in trials if trial.values["row"] == name}
    own = [by_seed[seed] for seed in comparison.seeds]
    paths = [folder.run(trial.number).path / OUTCOME for trial in own]
    outcomes = [read_json(path) if trial.status == "finished" else None for trial, path in zip(own, paths, strict=True)]
    return _Row(name=name, trials=own, outcomes=outcomes)


def _plain(
    comparison: Comparison, folder: CompareFolder, row: _Row, first: _Row, objective: Score, kinds: Kinds | None
) -> dict[str, Any]:
    """A row as ``--json`` prints it."""
    config = comparison.config({"row": row.name, "seed": comparison.seeds[0]})
    present = [outcome for outcome in row.outcomes if outcome is not None]
    steps, scores = scored_steps(config), row.scores
    column = steps.index(config.select_steps)
    evaluation = difference = None
    if scores is not None:
        recorded = read_json(folder.run(row.trials[0].number).path / "evaluation.json")
        figures = row_figures(scores, steps, objective, kinds, config.eval.steps)
        evaluation = {key: recorded[key] for key in DESCRIPTIVE if key in recorded} | {"steps": figures}
        if row is not first and (first_scores := first.scores) is not None:
            first_config = comparison.config({"row": first.name, "seed": comparison.seeds[0]})
            first_column = scored_steps(first_config).index(first_config.select_steps)
            difference = advantage(
                [one[:, column] for one in scores],
                [one[:, first_column] for one in first_scores],
                higher_is_better=objective.higher_is_better,
                kinds=kinds,
                comparisons=len(comparison.rows) - 1,
            )
    return {
        "name": row.name,
        "changes": comparison.changes(row.name),
        "inner_steps": config.select_steps,
        **(row_usage(present) if present else USAGE),
        "evaluation": evaluation,
        "difference": difference,
        "runs": [_run(folder, *one, column, kinds) for one in zip(row.trials, row.outcomes, strict=True)],
    }


def _run(
    folder: CompareFolder, trial: Trial, outcome: Mapping[str, Any] | None, column: int, kinds: Kinds | None
) -> dict[str, Any]:
    """One run of a row: how it ended, what it took, and its own score with the interval over tasks."""
    usage = USAGE | {"steps": trial.steps}
    score: dict[str, float | None] = {"mean": None, "ci95": None}
    if outcome is not None:
        usage = {key: outcome[key] for key in USAGE}
        score = interval(scores_of(outcome["scores"])[:, column], kinds)
    return {
        "seed": trial.values["seed"],
        "status": trial.status,
        "error": trial.error,
        **usage,
        **score,
        "run_dir": str(folder.run(trial.number).path),
    }


def _warnings(comparison: Comparison, folder: CompareFolder, row: _Row) -> list[str]:
    """Remarks on a row's runs, beside their numbers."""
    lines = []
    for trial, outcome in zip(row.trials, row.outcomes, strict=True):
        run = f"{row.name}, seed {trial.values['seed']}"
        if outcome is None:
            lines.append(f"{run}: {trial.status} ({trial.error}), so that the row has no score")
            continue
        lines += [f"{run}: {warning}" for warning in folder.run(trial.number).info.get("warnings", ())]
        seconds, most = comparison.settings.budget.seconds, comparison.base.outer.steps
        if seconds is not None and outcome["steps"] == most:
            lines.append(
                f"{run}: took outer.steps ({most}) before the {seconds:g} seconds of the budget were over; raise it"
            )
    return lines

"""A reproduction from its row to its result: a comparison, begun or gone on with, and scores by further protocols."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.compare.folder import CompareFolder, plan_named
from cluster.compare.result import DESCRIPTIVE, Result
from cluster.compare.run import run as run_comparison
from cluster.compare.settings import Comparison
from cluster.compare.table import row_figures
from cluster.compare.trial import plain_scores, score, scores_of
from cluster.config.overrides import with_changes
from cluster.config.schema import Config, parse
from cluster.errors import ConfigError, Interrupted
from cluster.evaluation.scores import scored_steps, task_kinds
from cluster.interrupts import SignalFlag, StopFlag
from cluster.reproduce.rows import Row
from cluster.runs.folder import RunFolder, read_json, write_json
from cluster.setups.build import build
from meta.engine.arithmetic import fix_arithmetic
from tasks.data.cache import GLYPHS
from tasks.data.catalogue import SOURCES
from tasks.data.manifest import MANIFEST
from tasks.data.remote import is_remote

BACKGROUND = 15  # niceness: other work on the machine goes first
WORKER_NICENESS = "RAY_worker_niceness"  # read by Ray when it starts


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Result of a row.

    Attributes:
        row: what was reproduced.
        result: of its comparison.
        also: by name of a further protocol and row of the comparison, the evaluation over all seeds.
    """

    row: Row
    result: Result
    also: dict[str, dict[str, dict[str, Any]]]

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray reproduce NAME --json`` prints."""
        figures = [str(path) for path in self.result.figures]
        return {"name": self.row.name, **self.result.as_json(), "also": self.also, "figures": figures}


def reproduce(row: Row, overrides: Sequence[str], stop: SignalFlag) -> Reproduction:
    """Run what is left of a row in the background, at a low priority.

    Args:
        row: the row.
        overrides: words ``section.key=value`` about machine, folders and seeds.
        stop: set by a signal.

    Raises:
        ConfigError: if data are missing, the row cannot run, or was begun under other settings; nothing has changed.
        Interrupted: if ``stop`` was set; what is done is kept.
        MetarayError: if no run came to a score.
    """
    comparison = row.comparison(overrides)
    require_data(row, comparison.base)
    folder = folder_of(row, comparison)
    # Trials alone are set back: Ray's own processes have to answer in time on a busy machine.
    os.environ.setdefault(WORKER_NICENESS, str(BACKGROUND))
    try:
        result = run_comparison(comparison, folder, stop)
        fix_arithmetic(threads=1)
        os.nice(max(0, BACKGROUND - os.nice(0)))
        also = {name: also_scored(result, changes, name, stop) for name, changes in row.settings.also.items()}
    except Interrupted as stopped:
        again = " ".join(["metaray reproduce", row.name, *overrides])
        raise Interrupted(f"row {row.name} was stopped, what is done is kept; go on with: {again}") from stopped
    return Reproduction(row=row, result=result, also=also)


def folder_of(row: Row, comparison: Comparison) -> CompareFolder:
    """The folder of a row's comparison, which a second call goes on in.

    Args:
        row: the row.
        comparison: what it stands for.

    Raises:
        ConfigError: if the row was begun under other settings.
    """
    name = f"reproduce-{row.name}"
    try:
        return plan_named(comparison, name)
    except ConfigError as error:
        where = f"{comparison.base.checkpoint.root.rstrip('/')}/{name}"
        raise ConfigError(f"{where}: {error}; to measure the row anew, move the folder away") from error


def require_data(row: Row, config: Config) -> None:
    """Raise an error that says how to prepare the row's data, if they are not on this machine.

    Args:
        row: the row.
        config: of its comparison.

    Raises:
        ConfigError: with the command.
    """
    root = config.task.params.get("root")
    if root in (None, GLYPHS) or is_remote(root) or (Path(root) / MANIFEST).is_file():
        return
    name = Path(row.comparison().base.task.params["root"]).name
    raise ConfigError(
        f"row {row.name}: expected a data store in '{root}', found none; prepare it with: metaray data prepare "
        f"{name if name in SOURCES else 'NAME'} --source FOLDER --root {root}; or name one that is there: "
        f"metaray reproduce {row.name} task.root=ROOT"
    )


def also_scored(result: Result, changes: Mapping[str, Any], name: str, stop: StopFlag) -> dict[str, dict[str, Any]]:
    """Scores of the rows of a comparison, whose runs are all finished, under another protocol, over all seeds.

    Args:
        result: of the comparison.
        changes: of the configuration, by dotted key.
        name: of the protocol.
        stop: ends the scoring after the run under way once set.

    Raises:
        Interrupted: if ``stop`` was set; what is scored is kept.
    """
    evaluations = {}
    for row in result.rows:
        if row["evaluation"] is None:
            continue
        config = _under(result.comparison, row["name"], changes)
        tables, described = [], {}
        for run in row["runs"]:
            if stop:
                raise Interrupted(f"stopped by {stop.reason}")
            path = Path(run["run_dir"]) / "also" / f"{name.replace('/', ' ')}.json"
            figures: dict[str, Any] = read_json(path) if path.is_file() else {"changes": None}
            if figures["changes"] != changes:
                figures = _scored(config, RunFolder(Path(run["run_dir"])), result.comparison.base.seed)
                write_json(path, figures | {"changes": changes})
            described = {key: figures[key] for key in DESCRIPTIVE if key in figures}
            tables.append(scores_of(figures["scores"]))
        kinds = task_kinds(build(config.model_copy(update={"engine": "loop"})), "test", config.eval.tasks)
        steps = row_figures(tables, scored_steps(config), result.objective, kinds, config.eval.steps)
        evaluations[row["name"]] = described | {"steps": steps}
    return evaluations


def _under(comparison: Comparison, row: str, changes: Mapping[str, Any]) -> Config:
    """The configuration of a row from the comparison's own seed, with the changes of a further protocol."""
    plain = comparison.config({"row": row, "seed": comparison.base.seed}).model_dump(mode="json")
    return parse(with_changes(plain, changes))


def _scored(config: Config, folder: RunFolder, seed: int) -> dict[str, Any]:
    """Evaluation of a run under a further protocol, with the scores of all tasks."""
    scores, evaluation = score(config, folder, seed)
    return evaluation | {"scores": plain_scores(scores)}

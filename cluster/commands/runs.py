"""``metaray runs``: list the runs that a folder holds, show one, compare several, remove some."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.commands.console import AsJson, Debug, print_json, print_lines, print_table, reports_errors
from cluster.commands.tables import evaluation_table, further_tables
from cluster.errors import ConfigError

if TYPE_CHECKING:
    from cluster.history.compared import Compared
    from cluster.history.record import Record

runs = typer.Typer(help="List runs, searches and comparisons, the newest first; show, compare, remove them.")
Root = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of the runs, checkpoint.root.")]
Name = Annotated[str, typer.Argument(metavar="RUN", help="A folder, its name under runs/, or its MLflow run id.")]
LOOKS = {"running": "cyan", "finished": "green", "interrupted": "yellow", "failed": "red", "damaged": "red"}
RUNS = Path("runs")


@runs.callback(invoke_without_command=True)
@reports_errors
def listing(
    ctx: typer.Context,
    family: Annotated[str | None, typer.Option(help="Only of this family of tasks.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="Only of this algorithm.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only running, finished, failed, interrupted or damaged ones.")
    ] = None,
    score: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Of the held-out score, such as '<0.5'.")
    ] = None,
    root: Root = RUNS,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List runs, searches and comparisons, the newest first."""
    del debug
    if ctx.invoked_subcommand is not None:
        if any((family, algorithm, status, score, as_json)) or root != RUNS:
            raise ConfigError(f"expected options after the word '{ctx.invoked_subcommand}', received some before it")
        return
    from cluster.history.record import chosen, records

    rows = list(chosen(records(root), family=family, algorithm=algorithm, status=status, score=score))
    if as_json:
        print_json({"runs": [record.as_json() for record in rows]})
        return
    table = Table("run", "", "created", "family", "algorithm", "outer steps", "score", "status")
    for record in rows:
        table.add_row(*_cells(record))
    print_table(table)


def _cells(record: "Record") -> list[str]:
    steps = "" if record.steps is None else f"{record.steps:,} of {record.of_steps:,}"
    texts = [record.name, record.kind, record.created.replace("T", " ").removesuffix("+00:00"), record.family]
    look = LOOKS[record.status]
    return [*map(escape, [*texts, record.algorithm, steps, _score(record)]), f"[{look}]{record.status}[/]"]


def _score(record: "Record") -> str:
    if record.score is None or record.score["mean"] is None:
        return ""
    half = "" if record.score["ci95"] is None else f" ± {record.score['ci95']:.2g}"
    return f"{record.metric} {record.score['mean']:.4g}{half} after {record.inner_steps}"


@runs.command()
@reports_errors
def show(run: Name, root: Root = RUNS, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show one run: status, steps, scores, events, where MLflow has it."""
    del debug
    from cluster.history.record import SETTINGS, locate, record_of
    from cluster.runs.events import EVENTS, read_events, summary
    from cluster.runs.folder import read_json

    record = record_of(locate(run, root))
    path = record.path / "evaluation.json"
    evaluation = read_json(path) if path.is_file() and record.status != "damaged" else None
    events = {kind: count for kind, (count, _) in summary(read_events(record.path / EVENTS)).items()}
    if as_json:
        print_json({**record.as_json(), "evaluation": evaluation, "events": events})
        return
    if evaluation is not None:
        for table in (evaluation_table(evaluation), *further_tables(evaluation)):
            print_table(table)
    pages = [record.path / name for name in ("report.html", "search.html", "compare.html")]
    facts = {
        record.kind: record.path,
        "status": record.status if record.error is None else f"{record.status}: {record.error}",
        "created": record.created,
        "tasks": record.family,
        "algorithm": record.algorithm,
        "outer steps": "" if record.steps is None else f"{record.steps:,} of {record.of_steps:,}",
        "configuration": record.path / SETTINGS[record.kind],
        "page": next((page for page in pages if page.is_file()), ""),
        "MLflow": f"run {record.mlflow_run_id} in {record.mlflow_uri}" if record.mlflow_run_id else "",
        "events": ", ".join(f"{kind}: {count}" for kind, count in events.items()),
    }
    print_lines({name: fact for name, fact in facts.items() if fact != ""})


@runs.command()
@reports_errors
def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Folders, names, or MLflow run ids.")],
    root: Root = RUNS,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare runs: where their configurations differ, and their scores."""
    del debug
    from cluster.history.compared import compared
    from cluster.history.record import locate, record_of

    result = compared([record_of(locate(name, root)) for name in names])
    if as_json:
        print_json(result.as_json())
    else:
        _print_compared(result)


def _print_compared(result: "Compared") -> None:
    names = [escape(record.name) for record in result.records]
    table = Table(
        "key", *names, title="where the configurations differ" if result.differences else "same configuration"
    )
    for key, values in result.differences.items():
        table.add_row(escape(key), *("" if value is None else escape(value) for value in values))
    print_table(table)
    scores = Table("held-out score", *names)
    tables = [
        {} if one is None else {(one["metric"], n): row for n, row in one["steps"].items()}
        for one in result.evaluations
    ]
    for metric, number in dict.fromkeys(key for rows in tables for key in rows):
        scores.add_row(f"{metric} after {number}", *(_mean(rows.get((metric, number))) for rows in tables))
    print_table(scores)


def _mean(row: "dict[str, float | None] | None") -> str:
    from cluster.evaluation.protocol import mean_in_words

    return "" if row is None or row["mean"] is None else mean_in_words(row, mean=".4g", half=".2g")


@runs.command()
@reports_errors
def remove(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders, names, or MLflow run ids.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    root: Root = RUNS,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Remove the folders of runs, searches or comparisons in which nothing runs; MLflow keeps what it has of them."""
    del debug
    from cluster.history.record import locate, record_of
    from cluster.history.remove import remaining, remove, require_removable, size

    records = [record_of(path) for path in dict.fromkeys(locate(name, root) for name in names)]
    for record in records:
        require_removable(record)
    stays = {str(record.path): remaining(record) for record in records}
    total = sum(size(record.path) for record in records)
    for record in records:
        print(f"{record.kind} {record.path}, {record.status}", *stays[str(record.path)], sep="; ", file=sys.stderr)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("expected --yes, since nobody can be asked here: standard input is no terminal")
        if not typer.confirm(f"remove {len(records)} folders of {total / 2**20:.1f} MiB?", err=True):
            raise typer.Exit(1)
    remove(records)
    if as_json:
        print_json({"removed": list(stays), "bytes": total, "stays": stays})

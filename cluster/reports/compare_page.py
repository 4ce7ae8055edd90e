"""A comparison's page: one HTML file that holds its table, its picture, and how sure the differences are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.credentials import without_credentials
from cluster.evaluation.intervals import INTERVAL
from cluster.reports.figures import save
from cluster.reports.figures.compared import Compared, Row, comparison
from cluster.reports.html import embedded, interval, template
from cluster.runs.storage import write_file


def draw_comparison(compared: Compared, folder: Path) -> Path:
    """Draw ``comparison.png`` into a folder.

    Args:
        compared: the comparison.
        folder: where to write; made if it is not there.
    """
    path = folder / "comparison.png"
    save(comparison(compared), path)
    return path


def write_compare_page(
    compared: Compared,
    folder: Path,
    figure: Path,
    *,
    name: str,
    usage: Sequence[Mapping[str, Any]],
    runs: Sequence[Sequence[str]],
    facts: Mapping[str, str],
    warnings: Sequence[str],
) -> Path:
    """Write ``compare.html`` into a folder.

    Args:
        compared: the comparison.
        folder: where to write; made if it is not there.
        figure: its picture.
        name: what the comparison is called.
        usage: of each row ``changes`` in words, ``inner_steps``, ``steps``, ``seconds``, ``peak_memory_mb`` and
            ``parameters``; null where no run of it is finished.
        runs: of each run its row, seed, status, score, outer steps, seconds and folder, as they are shown.
        facts: what was compared, such as the budget and the protocol, in their order.
        warnings: sentences about runs that are not what the file asks for.

    Returns:
        The page's path.

    Raises:
        MetarayError: if the picture is missing or damaged.
    """
    page = template("compare").render(
        name=name,
        lead=f"{len(compared.rows)} rows, {compared.seeds} seed{'' if compared.seeds == 1 else 's'} each; "
        f"{compared.metric} on {compared.tasks} test tasks, the same for all.",
        sureness=how_sure(compared),
        rows=[_cells(row, one, compared.metric) for row, one in zip(compared.rows, usage, strict=True)],
        first=compared.rows[0].name,
        figure=embedded(figure),
        axis=compared.axis,
        formula=INTERVAL,
        runs=runs,
        warnings=warnings,
        facts={term: without_credentials(fact) for term, fact in facts.items()},
    )
    write_file(folder / "compare.html", page.encode())
    return folder / "compare.html"


def how_sure(compared: Compared) -> list[str]:
    """In sentences, which rows differ from the first by more than tasks and seeds explain."""
    first, *others = compared.rows
    groups: dict[str, list[str]] = {"better": [], "worse": [], "open": [], "none": []}
    for row in others:
        mean = None if row.advantage is None else row.advantage.mean
        kind = "none" if mean is None else "open" if not row.sure else "better" if mean > 0 else "worse"
        groups[kind].append(row.name)
    lines = [
        f"{_listed(groups[kind])} {_are(groups[kind])} {kind} than {first.name}, by more than the choice of tasks and "
        "that of seeds explain (95 %, for all such statements at once)."
        for kind in ("better", "worse")
        if groups[kind]
    ]
    if groups["open"]:
        more = "more tasks or seeds would be needed" if compared.seeds > 1 else "one seed says nothing of other seeds"
        lines.append(f"{_listed(groups['open'])} {_are(groups['open'])} not told apart from {first.name}: {more}.")
    if groups["none"]:
        lines.append(f"{_listed(groups['none'])} cannot be compared with {first.name}: a score is missing.")
    return lines


def _cells(row: Row, usage: Mapping[str, Any], metric: str) -> list[str]:
    """A row of the page's table."""
    mean, tasks, seeds = row.score
    score = "no score" if mean is None else interval({"mean": mean, "ci95": tasks}, metric)
    difference = over_seeds = "–"
    if row.advantage is not None:
        difference = interval({"mean": row.advantage.mean, "ci95": row.advantage.tasks}, metric)
        over_seeds = _half(row.advantage.seeds, metric)
    used = [usage["inner_steps"], usage["steps"], usage["seconds"], usage["peak_memory_mb"], usage["parameters"]]
    forms = ("d", ",d", ",.1f", ",.0f", ",d")
    return [
        row.name,
        usage["changes"],
        score,
        _half(seeds, metric),
        difference,
        over_seeds,
        *("–" if value is None else format(value, form) for value, form in zip(used, forms, strict=True)),
    ]


def _half(value: float | None, metric: str) -> str:
    """A half-width by itself, in the unit of the score."""
    if value is None:
        return "–"
    return f"± {100 * value:.2f} %" if metric == "accuracy" else f"± {value:.2g}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last

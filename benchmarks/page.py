"""Results as text: a table for a terminal, and the tables of docs/benchmarks.md from the records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.process import QUIET
from benchmarks.record import machine
from benchmarks.suites import SUITES

BEGIN, END = "<!-- records: begin -->", "<!-- records: end -->"
NONE = "No record yet. `metaray bench --record` makes one.\n"
COLUMNS = ("", "tasks/s", "ms", "min to max", "× loop", "% of peak", "peak MB", "threads", "first s")


def cells(row: Mapping[str, Any]) -> list[str]:
    """One result as the table shows it."""
    name = str(row["name"])
    if row["strategy"] and f"({row['strategy']})" not in name:
        name += f" ({row['strategy']})"
    memory, first = row["peak_memory_mb"], row.get("first_call_seconds")  # which older records lack
    return [
        name,
        _number(row["tasks_per_second"]),
        _number(row["milliseconds"]),
        f"{_number(row['milliseconds_min'])} to {_number(row['milliseconds_max'])}",
        "–" if row["ratio_to_loop"] is None else f"{row['ratio_to_loop']:.2f}",
        f"{100 * row['peak_fraction']:.1f}",
        "–" if memory is None else f"{memory:.0f}",
        str(row["threads"]),
        "–" if first is None else _number(first),
    ]


def _number(value: float) -> str:
    """Three digits or all before the point.

    >>> _number(0.5312), _number(53.12), _number(5312.4)
    ('0.531', '53.1', '5312')
    """
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def plain_table(result: Mapping[str, Any]) -> str:
    """A suite's results in columns."""
    rows = [list(COLUMNS), *(cells(row) for row in result["results"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [heading(result), *("  ".join(map(_padded, row, widths, [0, *[1] * len(row)])).rstrip() for row in rows)]
    return "\n".join([*lines, *remarks(result)])


def _padded(cell: str, width: int, right: int) -> str:
    return cell.rjust(width) if right else cell.ljust(width)


def heading(result: Mapping[str, Any]) -> str:
    """Suite, measured work and the machine's peak, in one line."""
    peak = ", ".join(f"{name}: {value:.0f}" for name, value in result["peaks"].items())
    return f"{result['suite']}: {result['says']} (peak in GFLOP/s, {peak})"


def remarks(result: Mapping[str, Any]) -> list[str]:
    """Sentences about competitors that were left out, and about other processes that kept the machine busy."""
    lines = [f"left out: {one['name']}, {one['reason']}" for one in result["left_out"]]
    others = result.get("other_cores", 0)
    return (
        [*lines, f"other processes used {others:.1f} cores meanwhile: not to be trusted"] if others > QUIET else lines
    )


def ray_tables(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of the newest measurements through Ray, by machine, suite and number of workers."""
    by_machine: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: str(record["date"])):
        for one in record["suites"]:
            by_machine.setdefault(machine(one["hardware"]), {})[one["suite"], one["workers"]] = one
    parts = []
    for name, rows in sorted(by_machine.items()):
        head = ("", "workers", "tasks/s", "engine alone", "ratio", "ms a step more")
        lines = [f"### Through Ray: {name}", "", _line(head), _line(["---", *["---:"] * (len(head) - 1)])]
        for (suite, workers), one in rows.items():
            more = one["ray"]["milliseconds"] - one["alone"]["milliseconds"]
            rates = [_number(one[way]["tasks_per_second"]) for way in ("ray", "alone")]
            lines.append(_line([suite, str(workers), *rates, f"{one['ratio']:.3f}", f"{more:.2f}"]))
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def tables(records: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Markdown of the newest results by machine and suite."""
    if not records:
        return NONE
    parts = []
    for name, suites in sorted(records.items()):
        parts.append(f"### {name}\n")
        ordered = [*(suite for suite in SUITES if suite in suites), *sorted(set(suites) - set(SUITES))]
        parts += [_suite(suites[suite]) for suite in ordered]
    return "\n".join(parts)


def _suite(result: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items()))
    lines = [f"**{heading(result)}**", "", _line(COLUMNS), _line(["---", *["---:"] * (len(COLUMNS) - 1)])]
    lines += [_line(cells(row)) for row in result["results"]]
    notes = [f"{result['date'][:10]}; {versions}; memory: {result['allocation']}.", *remarks(result)]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes), ""])


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"


def renew(page: Path, text: str) -> None:
    """Replace the text between the page's two marks.

    Args:
        page: the Markdown file.
        text: the new text.

    Raises:
        ValueError: if the page lacks them.
    """
    old = page.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the marks {BEGIN} and {END} in {page}, found none; put them where tables belong")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")

"""The tables of docs/results.md, made from the rows and their records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.compare.picture import changes_in_words
from cluster.errors import ConfigError
from cluster.evaluation.protocol import conditions
from cluster.reproduce.rows import Published, Row

PAGE = Path("docs/results.md")
BEGIN, END = "<!-- records: begin -->", "<!-- records: end -->"
NONE = "–"
NOT_YET = "not recorded yet"
PER_CENT = 100  # an accuracy is shown in per cent
OVERVIEW = ("row", "", "published", "ours", "± tasks", "± seeds", "seeds", "outer steps", "hours")
SCORES = ("", "inner steps", "published", "ours", "± tasks", "± seeds", "median", "diverged")


def number(value: float | None, metric: str) -> str:
    """A score, or a half-width, as pages show it: accuracies in per cent with one decimal.

    Args:
        value: in the metric's own unit; None: there is none.
        metric: name of the score.

    >>> number(0.98713, "accuracy"), number(-39.31, "return"), number(0.3851, "mse"), number(None, "mse")
    ('98.7', '-39.3', '0.385', '–')
    """
    if value is None:
        return NONE
    if metric == "accuracy":
        return f"{PER_CENT * value:.1f}"
    return f"{value:.1f}" if metric == "return" else f"{value:.3f}"


def published(value: Published | None, metric: str) -> str:
    """A published number with its half-width, where it has one.

    Args:
        value: the number, or number and half-width, in the metric's own unit; None: there is none.
        metric: name of the score.

    >>> published((0.987, 0.004), "accuracy"), published(0.67, "mse")
    ('98.7 ± 0.4', '0.670')
    """
    if isinstance(value, Sequence):
        return " ± ".join(number(one, metric) for one in value)
    return number(value, metric)


def tables(rows: Mapping[str, Row], records: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: an overview of all rows by group, then each recorded row with its protocol and all its numbers.

    Args:
        rows: all, by name.
        records: those there are, by the row's name.
    """
    parts = []
    for group in dict.fromkeys(row.settings.group for row in rows.values()):
        lines = [_overview(row, records.get(name)) for name, row in rows.items() if row.settings.group == group]
        parts.append(f"### {group[0].upper()}{group[1:]}\n\n{_table(OVERVIEW, lines)}")
    parts += [_details(row, records[name]) for name, row in rows.items() if name in records]
    return "\n".join(parts)


def brief(rows: Mapping[str, Row], records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """A line for each row: name, title, published number, ours, hours of training and machine, as texts.

    Args:
        rows: all, by name.
        records: those there are, by the row's name.
    """
    lines = []
    for name, row in rows.items():
        cells, record = _overview(row, records.get(name)), records.get(name)
        ours = f"{cells[3]} ± {cells[4]}" if cells[4] else cells[3]
        place = {"hours": "", "machine": ""} if record is None else {"hours": cells[-1], "machine": record["machine"]}
        lines.append({"name": name, "title": cells[1], "published": cells[2], "ours": ours, **place})
    return lines


def _overview(row: Row, record: Mapping[str, Any] | None) -> list[str]:
    """A row's line: the first row of its comparison, after the inner steps that pick θ."""
    comparison, metric = row.comparison(), row.settings.metric
    first = comparison.rows[0]
    steps = comparison.config({"row": first, "seed": comparison.seeds[0]}).select_steps
    words = [f"`{row.name}`", row.settings.title, published(row.published(first).get(steps), metric)]
    if record is None:
        return [*words, NOT_YET, *[""] * (len(OVERVIEW) - len(words) - 1)]
    one = record["rows"][0]
    return [
        *words,
        *_ours(_score(one, steps), metric),
        str(len(record["seeds"])),
        NONE if one["steps"] is None else f"{one['steps']:,}",
        f"{record['hours']:.2g}",
    ]


def _score(row: Mapping[str, Any], steps: int) -> Mapping[str, Any] | None:
    """Scores of a recorded row after a number of inner steps; None for a row of which a run diverged."""
    evaluation = row["evaluation"]
    score: Mapping[str, Any] | None = None if evaluation is None else evaluation["steps"][str(steps)]
    return score


def _ours(score: Mapping[str, Any] | None, metric: str) -> list[str]:
    """Our mean with both half-widths; a row of which a run diverged has none."""
    if score is None:
        return ["diverged", "", ""]
    if score["mean"] is None:
        return ["not finite", "", ""]
    return [number(score[key], metric) for key in ("mean", "ci95", "ci95_seeds")]


def _details(row: Row, record: Mapping[str, Any]) -> str:
    """A recorded row: what was measured and how, and all its numbers."""
    evaluation = next((one["evaluation"] for one in record["rows"] if one["evaluation"] is not None), None)
    looks, commits = record["looks_at_test_tasks"], ", ".join(one[:10] for one in record["commits"])
    seeds = f"seed{'' if len(record['seeds']) == 1 else 's'} {', '.join(map(str, record['seeds']))}"
    protocol = [*([] if evaluation is None else conditions(evaluation)), record["selection"]]
    parts = [
        f"### `{row.name}`: {row.settings.title}",
        "",
        f"- {record['metric']}{', in per cent' if record['metric'] == 'accuracy' else ''}: {', '.join(protocol)}; "
        f"test tasks looked at {'once' if looks == 1 else f'{looks} times'}.",
        f"- {record['budget']}, {seeds}: `{record['command']}`, "
        f"{record['hours']:.2g} hours of training on {record['machine']}, beside other work.",
        f"- Begun {record['begun'][:10]}, commit {commits}, torch {record['versions']['torch']}.",
        *([] if row.settings.published is None else [f"- Published: {row.settings.published.source}."]),
        *_seeds(record),
        "",
        _scores(row, record, record["rows"], beside=True),
    ]
    for name, evaluations in record["also"].items():
        of_protocol = [one | {"evaluation": evaluations.get(one["name"])} for one in record["rows"]]
        parts += [f"The same θ, {name}:", "", _scores(row, record, of_protocol, beside=False)]
    return "\n".join(parts)


def _scores(row: Row, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, beside: bool) -> str:
    """Scores of a comparison's rows after the inner steps that scores are published for, and those that pick θ.

    Args:
        row: holds what is published.
        record: of the row.
        rows: of the comparison, as recorded, under some protocol.
        beside: whether the published scores are of the same protocol.
    """
    metric, lines = record["metric"], []
    for one in rows:
        theirs = row.published(one["name"])
        name = f"{one['name']} ({changes_in_words(one['changes'])})" if one["changes"] else one["name"]
        for steps in sorted({*theirs, one["inner_steps"]}):
            score = _score(one, steps)
            further = ["", ""] if score is None else [number(score["median"], metric), str(score["diverged"])]
            reported = published(theirs.get(steps) if beside else None, metric)
            lines.append([name, str(steps), reported, *_ours(score, metric), *further])
    return _table(SCORES, lines)


def _seeds(record: Mapping[str, Any]) -> list[str]:
    """Scores of each seed with the interval over tasks, and when a target was reached."""
    metric, lines = record["metric"], []
    for one in record["rows"]:
        scores = [f"{number(run['mean'], metric)} ± {number(run['ci95'], metric)}" for run in one["runs"]]
        steps = "1 inner step" if one["inner_steps"] == 1 else f"{one['inner_steps']} inner steps"
        lines.append(f"- {one['name']} after {steps}, by seed: {', '.join(scores)}.")
        if record["target"] is not None:
            times = ", ".join(_time(run["reached"]) for run in one["runs"])
            lines.append(f"- {one['name']}, time to {number(record['target'], metric)} on validation tasks: {times}.")
    return lines


def _time(reached: Mapping[str, Any] | None) -> str:
    """Minutes of training until a target was reached.

    >>> _time({"seconds": 90.0, "tasks": 96000}), _time(None)
    ('1.5 min (96,000 tasks)', 'not reached')
    """
    return "not reached" if reached is None else f"{reached['seconds'] / 60:.1f} min ({reached['tasks']:,} tasks)"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines)) + "\n"


def between_marks(page: str, where: Path = PAGE) -> str:
    """The generated part of the page.

    Args:
        page: its text.
        where: its path, for the message.

    Raises:
        ConfigError: if the page lacks the marks.
    """
    _, begin, rest = page.partition(BEGIN)
    middle, end, _ = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"expected the marks {BEGIN} and {END} in {where}, found none; put them where tables belong")
    return middle.strip("\n")


def renew(rows: Mapping[str, Row], records: Mapping[str, Mapping[str, Any]], page: Path = PAGE) -> None:
    """Replace the tables of the page.

    Args:
        rows: all, by name.
        records: those there are, by the row's name.
        page: the Markdown file.

    Raises:
        ConfigError: if the page lacks the marks.
    """
    text = page.read_text(encoding="utf-8")
    between_marks(text, page)
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{tables(rows, records).strip()}\n\n{END}{after}", encoding="utf-8")

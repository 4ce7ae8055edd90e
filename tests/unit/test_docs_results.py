"""docs/results.md is made from the records, and the scores in README and guide stand in records, or are marked."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cluster.config.schema import parse
from cluster.reproduce.page import PAGE, PER_CENT, between_marks, tables
from cluster.reproduce.records import RECORDS, command, plain_configuration, read_all
from cluster.reproduce.rows import ROWS, Row, load_rows

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
RECORDED = read_all(ROOT / RECORDS)
SCORED = ("README.md", *(f"docs/{name}.md" for name in ("quickstart", "images", "reinforcement", "data")), PAGE)
MARKED = "## Measured without a record"
SCORE = re.compile(r"(?<![\w.])(-?\d*\.?\d+) ± (\d*\.?\d+)(?![\w.]*\d)")


@cache
def rows() -> dict[str, Row]:
    return load_rows(ROOT / ROWS)


def digits(text: str) -> int:
    return len(text.partition(".")[2])


def same(text: str, value: float) -> bool:
    """Whether a number as it is written is a value rounded to as many digits."""
    return abs(float(text) - value) <= 0.5000001 * 10 ** -digits(text)


def text_of(name: str) -> str:
    """A page, up to the section of scores without records."""
    return (ROOT / name).read_text(encoding="utf-8").partition(MARKED)[0]


def pairs(value: Any) -> Iterator[tuple[float, float]]:
    """All means with half-widths in nested plain values."""
    if isinstance(value, dict):
        if isinstance(value.get("mean"), float) and isinstance(value.get("ci95"), float):
            yield value["mean"], value["ci95"]
        for one in value.values():
            yield from pairs(one)
    elif isinstance(value, list):
        for one in value:
            yield from pairs(one)


def texts(value: Any) -> Iterator[str]:
    """All texts in nested plain values, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts(one)


def known() -> list[tuple[float, float]]:
    """Scores with half-widths of all records, and of what is published, in the units of pages."""
    found = []
    for name, row in rows().items():
        unit = PER_CENT if row.settings.metric == "accuracy" else 1
        published = [] if row.settings.published is None else row.settings.published.scores.values()
        values = [value for scores in published for value in scores.values() if isinstance(value, tuple)]
        found += [(unit * mean, unit * half) for mean, half in [*values, *pairs(RECORDED.get(name, {}))]]
    return found


def stray(text: str, scores: list[tuple[float, float]], marked: str) -> list[str]:
    """Scores of a text that stand neither among scores nor in a marked text."""
    earlier = set(SCORE.findall(marked))
    return [
        " ± ".join(pair)
        for pair in SCORE.findall(text)
        if pair not in earlier and not any(same(pair[0], mean) and same(pair[1], half) for mean, half in scores)
    ]


def test_the_tables_are_those_of_the_records():
    assert between_marks(TEXT) == tables(rows(), RECORDED).strip(), "write it anew with: metaray reproduce --renew"


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_record_is_of_a_row_as_it_is_declared(name):
    record, row = RECORDED[name], rows()[name]
    assert record["row"] == name
    base = {key: value for key, value in record["configuration"].items() if key != "compare"}
    # Keys that are newer than the record have their defaults.
    then = parse(base).model_dump(mode="json", exclude={"tracking", "checkpoint", "cluster"})
    recorded = {"compare": record["configuration"]["compare"], **then}
    assert recorded == plain_configuration(row.comparison()), "measure it anew, or undo the change"
    assert record["metric"] == row.settings.metric
    assert record["command"].startswith(command(row, []))
    assert record["looks_at_test_tasks"] >= 1
    assert all(len(commit) == 40 for commit in record["commits"])
    assert {run["status"] for one in record["rows"] for run in one["runs"]} <= {"finished", "diverged"}
    assert [text for text in texts(record) if text.startswith(("/", "file:"))] == []  # no place of a machine


@pytest.mark.parametrize("name", SCORED)
def test_every_score_in_readme_and_guide_is_recorded_published_or_marked(name):
    _, _, marked = TEXT.partition(MARKED)
    assert stray(text_of(name), known(), marked) == []


def test_stray_scores_are_recognised():
    scores = [(98.712, 0.4149), (-39.31, 4.4)]
    assert stray("98.7 ± 0.4, -39 ± 4, 39.3 ± 4.4, .64 ± .06 and ± 3", scores, "| .64 ± .06 |") == ["39.3 ± 4.4"]
    assert stray("98.7 ± 0.5 and 98.8 ± 0.4", scores, "") == ["98.7 ± 0.5", "98.8 ± 0.4"]


def test_marked_scores_that_no_page_has_any_more_are_gone():
    _, _, marked = TEXT.partition(MARKED)
    assert set(SCORE.findall(marked)) - set(SCORE.findall("".join(map(text_of, SCORED)))) == set()

"""A comparison's picture and page: every row with its intervals, how sure differences are, and nothing loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import MetarayError
from cluster.reports.compare_page import draw_comparison, how_sure, write_compare_page
from cluster.reports.figures.compared import Compared, Curve, Mean, Row, comparison, mean_curve, row_look
from helpers.pages import Page

STEPS = np.array([100.0, 200.0])


def curves(*ends: float) -> list[Curve]:
    return [Curve(STEPS, np.array([0.2, end])) for end in ends]


ROWS = [
    Row(name="maml", curves=curves(0.5, 0.7), score=Mean(0.6, 0.01, 0.2)),
    Row(name="anil", curves=curves(0.6, 0.8), score=Mean(0.7, 0.02, 0.1), advantage=Mean(0.1, 0.01, 0.03), sure=True),
    Row(name="boil", curves=curves(0.5, 0.5), score=Mean(0.5, 0.02, 0.1), advantage=Mean(-0.1, 0.01, 0.2)),
    Row(name="wild", curves=[], score=Mean(None, None, None)),
]
USAGE = {
    "changes": "none",
    "inner_steps": 5,
    "steps": 2000,
    "seconds": 12.34,
    "peak_memory_mb": 612.3,
    "parameters": 1761,
}


def compared(**changed: Any) -> Compared:
    values: dict[str, Any] = {"rows": ROWS, "metric": "accuracy", "higher_is_better": True, "axis": "outer step"}
    return Compared(**values | {"seeds": 2, "tasks": 600} | changed)


def written(folder: Path, picture: Compared, **changed: Any) -> Page:
    figure = draw_comparison(picture, folder / "figures")
    usage = [USAGE if row.score.mean is not None else dict.fromkeys(USAGE) | {"changes": "inner.lr 9"} for row in ROWS]
    values: dict[str, Any] = {
        "name": "one",
        "usage": usage[: len(picture.rows)],
        "runs": [],
        "facts": {},
        "warnings": [],
    }
    path = write_compare_page(picture, folder, figure, **{"name": "one"} | values | changed)
    assert path == folder / "compare.html"
    return Page(path.read_text(encoding="utf-8"))


def test_rows_are_in_one_table_in_the_order_of_the_file(tmp_path):
    page = written(
        tmp_path, compared(), runs=[["maml", "0", "finished", "60 %", "2,000", "12.3", "runs/one/trials/000"]]
    )
    _, maml, anil, boil, wild = page.tables[0]
    assert maml == ["maml", "none", "60.00 ± 1.00 %", "± 20.00 %", "–", "–", "5", "2,000", "12.3", "612", "1,761"]
    assert anil[4:6] == ["10.00 ± 1.00 %", "± 3.00 %"]
    assert boil[4:6] == ["-10.00 ± 1.00 %", "± 20.00 %"]
    assert wild == ["wild", "inner.lr 9", "no score", *["–"] * 8]
    assert page.tables[1][1][0] == "maml"
    assert len(page.attributes("img")) == 1


def test_differences_are_told_apart_only_where_they_are_sure():
    assert how_sure(compared()) == [
        "anil is better than maml, by more than the choice of tasks and that of seeds explain (95 %, for all such "
        "statements at once).",
        "boil is not told apart from maml: more tasks or seeds would be needed.",
        "wild cannot be compared with maml: a score is missing.",
    ]
    (line,) = how_sure(compared(rows=[ROWS[0], ROWS[2]], seeds=1))
    assert line == "boil is not told apart from maml: one seed says nothing of other seeds."
    assert how_sure(compared(rows=ROWS[:1])) == []


def test_the_mean_of_runs_validated_at_the_same_steps():
    at, mean, lowest, highest = mean_curve(curves(0.5, 0.7))
    assert at.tolist() == [100.0, 200.0]
    np.testing.assert_allclose(mean, [0.2, 0.6])
    np.testing.assert_allclose([lowest, highest], [[0.2, 0.5], [0.2, 0.7]])


def test_the_mean_of_runs_validated_at_different_times_is_where_all_have_scores():
    one = Curve(np.array([0.0, 10.0]), np.array([0.0, 10.0]))
    other = Curve(np.array([4.0, 8.0]), np.array([8.0, 16.0]))
    at, mean, lowest, highest = mean_curve([one, other])
    assert (at[0], at[-1]) == (4.0, 8.0)
    np.testing.assert_allclose(mean, 1.5 * at)
    np.testing.assert_allclose([lowest, highest], [at, 2 * at])


def test_rows_look_different():
    assert len({tuple(map(str, row_look(position).values())) for position in range(36)}) == 36


def test_the_picture_has_a_line_and_a_mark_for_each_row_with_a_score():
    training, final = comparison(compared()).axes
    assert len(training.lines) == len(training.collections) == 3
    assert [text.get_text() for text in final.get_yticklabels()] == ["maml", "anil", "boil", "wild"]
    assert len(final.containers) == 2 * 3  # an interval over tasks and one over seeds
    assert "no score" in [text.get_text() for text in final.texts]
    low, high = final.get_xlim()
    assert low < 0.48
    assert high > 0.72


def test_the_picture_of_a_comparison_without_validation_or_with_wide_errors():
    rows = [
        Row(name="oracle", curves=[], score=Mean(0.01, 0.002, None)),
        Row(name="maml", curves=[], score=Mean(1.0, 0.1, None)),
    ]
    (final,) = comparison(compared(rows=rows, metric="mse", higher_is_better=False, seeds=1)).axes
    assert final.get_xscale() == "log"
    assert len(final.containers) == 2
    lost = [Row(name="wild", curves=[], score=Mean(None, None, None))]
    (final,) = comparison(compared(rows=lost)).axes
    assert final.containers == []


def test_foreign_text_is_shown_as_text_and_secrets_are_not_shown(tmp_path):
    rows = [Row(name="<b>x</b> $1", curves=[], score=Mean(0.5, 0.1, 0.1))]
    facts = {"store": "postgresql://me:secret@host/db"}
    page = written(tmp_path, compared(rows=rows), name="<i>x</i>", facts=facts, warnings=["<u>slow</u>"])
    assert "<b>x</b> $1" in page.text
    assert "<u>slow</u>" in page.text
    assert "postgresql://***@host/db" in page.text
    assert not {"script", "i", "b", "u"} & {tag for tag, _ in page.tags}


def test_equal_comparisons_have_equal_pages_that_load_nothing(tmp_path):
    for name in ("a", "b"):
        written(tmp_path / name, compared())
    first = (tmp_path / "a" / "compare.html").read_text()
    assert first == (tmp_path / "b" / "compare.html").read_text()
    assert "default-src 'none'" in first
    assert "http://" not in first
    assert "https://" not in first


def test_a_damaged_picture_leaves_no_page(tmp_path):
    (tmp_path / "comparison.png").write_bytes(b"no picture")
    with pytest.raises(MetarayError, match=r"expected a PNG in .*comparison\.png"):
        write_compare_page(
            compared(rows=ROWS[:1]),
            tmp_path,
            tmp_path / "comparison.png",
            name="one",
            usage=[USAGE],
            runs=[],
            facts={},
            warnings=[],
        )
    assert not (tmp_path / "compare.html").exists()

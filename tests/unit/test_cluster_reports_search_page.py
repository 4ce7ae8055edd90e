"""A search's page holds its trials, what they were compared by and how sure that is, and loads nothing."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from cluster.config.overrides import with_overrides
from cluster.errors import MetarayError
from cluster.reports.figures.searches import Axis, Searched, Trial
from cluster.reports.run_page import Drawn
from cluster.reports.search_page import draw_search, how_sure, write_search_page
from helpers.pages import Page

AXES = [
    Axis(key="inner.lr", kind="log", low=1e-5, high=1.0),
    Axis(key="model.hidden", kind="categories", choices=([40, 40], [64])),
]


def trial(number: int, lr: float, hidden: list[int], score: float | None, status: Any = "finished") -> Trial:
    values = {"inner.lr": lr, "model.hidden": hidden}
    return Trial(number=number, values=values, score=score, status=status, steps=100 + number)


TRIALS = [
    trial(0, 0.01, [40, 40], 0.5),
    trial(1, 1e-5, [64], 0.25),
    trial(2, 0.02, [64], 0.125, "stopped"),
    trial(3, 1.0, [64], None, "diverged"),
]


def search(**changed: Any) -> Searched:
    values: dict[str, Any] = {
        "axes": AXES,
        "trials": TRIALS,
        "metric": "val/mse_5",
        "higher_is_better": False,
        "best": 1,
        "base": 0,
        "confirmed": {},
    }
    return Searched(**values | changed)


def written(folder: Path, searched: Searched, drawn: Drawn | None = None, **changed: Any) -> Page:
    values: dict[str, Any] = {"name": "a search", "base": "base.yaml", "facts": {}}
    found = write_search_page(searched, folder, drawn or Drawn([], []), **values | changed)
    assert found == folder / "search.html"
    return Page(found.read_text(encoding="utf-8"))


def test_trials_are_in_one_table_from_best_to_worst(tmp_path: Path) -> None:
    page = written(tmp_path, search())
    assert page.tables[-1] == [
        ["trial", "inner.lr (α)", "model.hidden", "score", "outer steps", "status"],
        ["#2", "0.02", "[64]", "0.1250", "102", "stopped early"],
        ["best #1", "1e-05", "[64]", "0.2500", "101", "finished"],
        ["present setting #0", "0.01", "[40, 40]", "0.5000", "100", "finished"],
        ["#3", "1", "[64]", "–", "103", "diverged"],
    ]
    assert sum(attributes.get("class") == "stands-out" for tag, attributes in page.tags if tag == "tr") == 2


def test_the_best_setting_stands_beside_the_present_one_and_can_be_trained(tmp_path: Path) -> None:
    page = written(tmp_path, search(), base="my configs/base.yaml")
    assert page.tables[0] == [
        ["key", "best", "present", "searched"],
        ["inner.lr (α)", "1.0e-05", "0.01", "1e-05 to 1, logarithmic"],
        ["model.hidden", "[64]", "[40, 40]", "[40, 40], [64]"],
    ]
    (command,) = [line for line in page.pieces if line.startswith("metaray train")]
    program, verb, base, *overrides = shlex.split(command)
    assert (program, verb, base) == ("metaray", "train", "my configs/base.yaml")
    assert with_overrides({}, overrides) == {"inner": {"lr": 1e-5}, "model": {"hidden": [64]}}


@pytest.mark.parametrize(
    ("changed", "lead"),
    [
        ({}, "4 trials; best validation mse after 5 inner steps: 0.2500 (#1), with the present setting 0.5000 (#0)."),
        ({"base": 3}, "0.2500 (#1), with the present setting diverged (#3)."),
        ({"base": 1}, "4 trials; best validation mse after 5 inner steps: 0.2500 (#1), the present setting."),
        ({"base": None}, "0.2500 (#1). The present setting was not among them."),
        ({"best": None, "trials": TRIALS[3:], "base": None}, "1 trial, none with a score."),
    ],
)  # fmt: skip
def test_the_lead_states_the_result(tmp_path: Path, changed: dict[str, Any], lead: str) -> None:
    page = written(tmp_path, search(**changed))
    assert lead in page.text
    assert ("To train with it" in page.text) == ("best" not in changed)


def test_fresh_tasks_have_a_table_with_differences(tmp_path: Path) -> None:
    fresh = {1: {"mean": 0.3, "ci95": 0.03}, 2: {"mean": 0.31, "ci95": 0.04}, 0: {"mean": 0.6, "ci95": 0.06}}
    page = written(tmp_path, search(confirmed=fresh))
    assert page.tables[1] == [
        ["trial", "in the search", "on fresh tasks", "behind the first"],
        ["best #1", "0.2500", "0.300 ± 0.030", "–"],
        ["#2", "0.1250", "0.310 ± 0.040", "0.010 ± 0.050"],
        ["present setting #0", "0.5000", "0.600 ± 0.060", "0.300 ± 0.067"],
    ]
    assert "#2 is not told apart from best #1: more tasks would be needed to rank them." in page.text
    assert "Present setting #0 is worse than best #1 by more than chance explains (95 %)." in page.text


def test_another_that_leads_on_fresh_tasks_is_said_so() -> None:
    fresh = {1: {"mean": 0.3, "ci95": 0.01}, 2: {"mean": 0.2, "ci95": 0.01}}
    assert how_sure(search(confirmed=fresh))[0] == (
        "On fresh tasks #2 leads; the best of the search, #1, is worse by more than chance explains."
    )
    close = how_sure(search(confirmed={1: {"mean": 0.3, "ci95": 0.1}, 2: {"mean": 0.2, "ci95": 0.1}}))
    assert close[0] == "On fresh tasks #2 leads; the best of the search, #1, is not told apart from it."
    alone = how_sure(search(confirmed={1: {"mean": None, "ci95": None}, 2: {"mean": 0.2, "ci95": 0.1}}))
    assert alone == [
        "#1 had no finite score on fresh tasks.",
        "On fresh tasks #2 leads; the best of the search, #1, was not evaluated on them.",
        "Only #2 was evaluated on fresh tasks, so that it is not compared with others.",
    ]


def test_differences_from_the_best_are_those_that_are_given(tmp_path: Path) -> None:
    """As on tasks that did not choose it, with half-widths that are corrected for their number."""
    fresh = {
        2: {"mean": 0.2, "ci95": 0.01, "behind": -0.1, "error": 0.2},
        1: {"mean": 0.3, "ci95": 0.01},
        0: {"mean": 0.5, "ci95": 0.01, "behind": 0.2, "error": 0.05},
    }
    page = written(tmp_path, search(confirmed=fresh))
    assert page.tables[1][1:] == [
        ["best #1", "0.2500", "0.300 ± 0.010", "–"],
        ["#2", "0.1250", "0.200 ± 0.010", "-0.10 ± 0.20"],
        ["present setting #0", "0.5000", "0.500 ± 0.010", "0.200 ± 0.050"],
    ]
    assert how_sure(search(confirmed=fresh)) == [
        "#2 is not told apart from best #1: more tasks would be needed to rank them.",
        "Present setting #0 is worse than best #1 by more than chance explains (95 %).",
    ]


def test_higher_returns_lead() -> None:
    fresh = {1: {"mean": -30.0, "ci95": 1.0}, 0: {"mean": -60.0, "ci95": 1.0}}
    assert how_sure(search(confirmed=fresh, higher_is_better=True, metric="val/return_3")) == [
        "Present setting #0 is worse than best #1 by more than chance explains (95 %)."
    ]


def test_a_ranking_that_was_not_confirmed_or_is_none_is_said_so() -> None:
    (sentence,) = how_sure(search())
    assert "rests on the validation tasks of the search alone" in sentence
    (sentence,) = how_sure(search(trials=TRIALS[3:], best=None))
    assert "nothing to rank" in sentence


def test_figures_are_embedded_with_captions_and_what_is_missing_has_its_reason(tmp_path: Path) -> None:
    searched = search()
    drawn = draw_search(searched, tmp_path / "figures")
    assert [path.name for path in drawn.paths] == ["landscape.png", "parallel_coordinates.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in drawn.paths)
    page = written(tmp_path, searched, drawn)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2
    assert all((image["src"] or "").startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert "interpolated linearly over the triangles between neighbours" in page.text
    for note in drawn.notes:
        assert note in page.text
    assert len(drawn.notes) == 2


def test_a_damaged_figure_leaves_no_page(tmp_path: Path) -> None:
    (tmp_path / "landscape.png").write_bytes(b"no picture")
    with pytest.raises(MetarayError, match=r"expected a PNG in .*landscape\.png"):
        written(tmp_path, search(), Drawn([tmp_path / "landscape.png"], []))
    assert not (tmp_path / "search.html").exists()


def test_foreign_text_is_shown_as_text_and_secrets_are_not_shown(tmp_path: Path) -> None:
    axes = [Axis(key="task.root", kind="categories", choices=("s3://me:secret@there/a", "<b>"))]
    values = {"task.root": "s3://me:secret@there/a"}
    trials = [Trial(number=1, values=values, score=1.0, status="finished", steps=1)]
    facts = {"Store": "postgresql://me:secret@host/db", "<script>": "alert(1)"}
    page = written(tmp_path, search(axes=axes, trials=trials, base=None), name="<i>x</i>", facts=facts)
    assert "<i>x</i>" in page.text
    assert "postgresql://***@host/db" in page.text
    assert "secret" not in (tmp_path / "search.html").read_text()
    assert not {"script", "i", "b"} & {tag for tag, _ in page.tags}


def test_equal_searches_have_equal_pages_that_load_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / name, search(), draw_search(search(), tmp_path / name))
    first = (tmp_path / "a" / "search.html").read_text()
    assert first == (tmp_path / "b" / "search.html").read_text()
    assert "default-src 'none'" in first
    assert "http://" not in first
    assert "https://" not in first

"""Rows of docs/results.md without Ray: their file, their data, records of small runs, and the tables made of them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.compare.folder import SETTINGS
from cluster.compare.result import gather
from cluster.compare.trial import train_row
from cluster.errors import ConfigError, Interrupted
from cluster.interrupts import StopFlag
from cluster.reproduce import page
from cluster.reproduce.records import keep, read_all, selection
from cluster.reproduce.rows import ROWS, Row, load_rows, row_of
from cluster.reproduce.run import Reproduction, also_scored, folder_of, require_data
from cluster.search.trials import Trial

ROOT = Path(__file__).parents[2]
BASE = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 20},
    "meta_batch": 4,
    "eval": {"steps": [0, 1, 5], "every": 10, "tasks": 20, "val_tasks": 10},
    "engine": "loop",
}
ENTRY = {
    "title": "Small",
    "group": "regression",
    "metric": "mse",
    "published": {"source": "Nobody (2017)", "scores": {"maml": {"1": [0.5, 0.1], "5": 0.25}}},
    "target": 100.0,
    "compare": {"base": "base.yaml", "seeds": 2, "rows": {"maml": {}, "first order": {"algorithm": "fomaml"}}},
    "eval": {"select_steps": 5},
    "also": {"tested on 3 points": {"task.eval_shot": 3}},
}


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Row]:
    """Write a file of one row, ``small``, and read it; keywords change its entry."""

    def write(**changes: Any) -> Row:
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
        path = tmp_path / "reproduce.yaml"
        path.write_text(yaml.safe_dump({"small": ENTRY | changes}, sort_keys=False))
        return row_of(load_rows(path), "small")

    return write


@pytest.fixture
def reproduced(tmp_path: Path) -> Callable[[Row], Reproduction]:
    """Run a row's trials one after another in this process, and score them."""

    def run(row: Row) -> Reproduction:
        comparison = row.comparison([f"checkpoint.root={tmp_path}/runs"])
        folder = folder_of(row, comparison)
        folder.settle(SETTINGS, comparison.to_yaml())
        for number, values in enumerate(comparison.points()):
            status, error = train_row(comparison, values, "run", folder.run(number).path, None, lambda *_: None)
            folder.write(Trial(number=number, values=values, status=status, error=error))
        result = gather(comparison, folder)
        also = {name: also_scored(result, changes, name, StopFlag()) for name, changes in row.settings.also.items()}
        return Reproduction(row=row, result=result, also=also)

    return run


def test_every_row_of_the_repository_is_a_comparison():
    rows = load_rows(ROOT / ROWS)
    assert len(rows) > 20
    for row in rows.values():
        comparison = row.comparison()
        assert comparison.seeds[0] == 0
        assert row.settings.published is None or row.settings.published.scores.keys() <= set(comparison.rows)


def test_a_row_leaves_out_what_its_configuration_says(small):
    comparison = small(compare={"base": "base.yaml"}, published=None, outer={"lr": 0.5}).comparison()
    assert comparison.rows == ["maml"]
    assert (comparison.settings.budget.steps, comparison.base.outer.lr) == (20, 0.5)
    assert comparison.seeds == [0, 1, 2]
    assert small(outer={"steps": 30}).comparison().settings.budget.steps == 30


def test_a_row_may_be_a_comparison_file_with_changes(small, tmp_path):
    section = {"base": "base.yaml", "budget": {"steps": 7}, "seeds": 1, "rows": {"maml": {}}}
    (tmp_path / "file.yaml").write_text(yaml.safe_dump({"compare": section, "meta_batch": 2}))
    comparison = small(compare="file.yaml", outer={"lr": 0.5}).comparison()
    assert (comparison.base.outer.steps, comparison.base.meta_batch, comparison.base.outer.lr) == (7, 2, 0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group": "pictures"}, r"small\.group: expected 'regression'"),
        ({"metric": None}, r"small\.metric: expected"),
        ({"published": {"source": "x", "scores": {"mamll": {"1": 1.0}}}}, "received 'mamll'; did you mean 'maml'"),
        (
            {"published": {"source": "x", "scores": {"maml": {"2": 1.0}}}},
            r"eval\.steps \(\[0, 1, 5\]\), received \[2\]",
        ),
        ({"iner": {"lr": 1}}, r"small: iner: unknown key; did you mean 'inner'"),
        ({"compare": {"base": "bsae.yaml"}}, r"small: expected a configuration file .*did you mean"),
    ],
)
def test_wrong_entries(small, changes, said):
    with pytest.raises(ConfigError, match=said):
        small(**changes).comparison()


def test_a_name_that_is_none_and_a_folder_without_rows(small, tmp_path):
    small()
    with pytest.raises(ConfigError, match="received 'smal'; did you mean 'small'"):
        row_of(load_rows(tmp_path / "reproduce.yaml"), "smal")
    with pytest.raises(ConfigError, match="call metaray reproduce in a checkout"):
        load_rows(tmp_path / "none.yaml")


def test_overrides_leave_what_is_measured_as_it_is(small):
    assert small().comparison(["compare.seeds=3", "cluster.workers=2"]).base.cluster.workers == 2
    with pytest.raises(ConfigError, match=r"received 'inner\.lr=0\.5'; for other settings use metaray compare"):
        small().comparison(["inner.lr=0.5"])


def test_missing_data_are_named_with_the_command_that_prepares_them(small, tmp_path, make_store):
    images = {"task": {"family": "images", "root": "data/omniglot", "way": 5, "shot": 1, "query": 1}}
    row = small(published=None, also={}, compare={"base": "images.yaml"})
    (tmp_path / "images.yaml").write_text(yaml.safe_dump(BASE | images | {"model": {"name": "conv4"}}))
    root = tmp_path / "none"
    with pytest.raises(ConfigError, match=f"metaray data prepare omniglot --source FOLDER --root {root}"):
        require_data(row, row.comparison([f"task.root={root}"]).base)
    require_data(row, row.comparison([f"task.root={make_store()}"]).base)


def test_a_row_is_begun_once_and_not_under_other_settings(small, tmp_path):
    root = f"checkpoint.root={tmp_path}/runs"
    row = small()
    folder = folder_of(row, row.comparison([root]))
    assert (folder.path, folder.exists) == (tmp_path / "runs" / "reproduce-small", False)
    folder.settle(SETTINGS, row.comparison([root]).to_yaml())
    assert folder_of(row, row.comparison([root, "compare.seeds=3"])).exists
    other = small(meta_batch=2)
    with pytest.raises(ConfigError, match=r"meta_batch: 4 there, 2 here.*move the folder away"):
        folder_of(other, other.comparison([root]))


def test_a_record_says_what_was_measured_and_names_no_place(small, reproduced, tmp_path):
    row = small()
    reproduction = reproduced(row)
    words = ["compare.at_once=1", f"checkpoint.root={tmp_path}/runs"]
    path = keep(reproduction, words, tmp_path / "docs")
    record = json.loads(path.read_text())
    assert str(tmp_path) not in path.read_text()
    assert record["command"] == "metaray reproduce small compare.at_once=1"
    assert (record["seeds"], record["looks_at_test_tasks"], len(record["commits"])) == ([0, 1], 1, 1)
    assert record["published"]["scores"]["maml"] == {"1": [0.5, 0.1], "5": 0.25}
    for one, measured in zip(record["rows"], reproduction.result.rows, strict=True):
        score, expected = (row["evaluation"]["steps"]["5"] for row in (one, measured))
        assert score == {key: pytest.approx(value, rel=1e-5) for key, value in expected.items()}
        assert score["ci95_seeds"] is not None
        assert [run["reached"]["step"] for run in one["runs"]] == [10, 10]
        assert [point[0] for point in one["runs"][0]["validation"]] == [10, 20]
    also = record["also"]["tested on 3 points"]["maml"]
    assert also["shot"] == 3
    assert also["steps"]["5"]["mean"] != record["rows"][0]["evaluation"]["steps"]["5"]["mean"]
    assert record["hours"] > 0

    keep(reproduction, words, tmp_path / "docs")
    assert read_all(tmp_path / "docs")["small"]["looks_at_test_tasks"] == 1  # the same look
    reproduction.result.folder.update_info(created="later")
    keep(reproduction, words, tmp_path / "docs")
    assert read_all(tmp_path / "docs")["small"]["looks_at_test_tasks"] == 2

    text = page.tables({"small": row}, read_all(tmp_path / "docs"))
    steps = record["rows"][0]["evaluation"]["steps"]
    cells = [page.number(steps["1"][key], "mse") for key in ("mean", "ci95", "ci95_seeds", "median")]
    assert f"| maml | 1 | 0.500 ± 0.100 | {' | '.join(cells)} | {steps['1']['diverged']} |" in text
    assert "test tasks looked at 2 times" in text
    assert "The same θ, tested on 3 points" in text
    (line,) = page.brief({"small": row}, read_all(tmp_path / "docs"))
    assert (line["published"], line["machine"]) == ("0.250", record["machine"])


def test_failed_runs_and_other_scores_are_not_recorded(small, reproduced, tmp_path):
    row = small(also={}, compare={"base": "base.yaml", "seeds": 1}, outer={"steps": 2}, eval={"every": 0})
    reproduction = reproduced(row)
    other = dataclasses.replace(row, settings=row.settings.model_copy(update={"metric": "return"}))
    with pytest.raises(ConfigError, match="expected mse, which the row is scored by, received 'return'"):
        keep(dataclasses.replace(reproduction, row=other), [], tmp_path / "docs")
    reproduction.result.rows[0]["runs"][0]["status"] = "failed"
    with pytest.raises(ConfigError, match="small again, which tries them anew"):
        keep(reproduction, [], tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_what_was_scored_is_not_scored_again(small, reproduced, monkeypatch):
    row = small(compare={"base": "base.yaml", "seeds": 1}, outer={"steps": 2})
    reproduction = reproduced(row)
    monkeypatch.setattr("cluster.reproduce.run.score", lambda *_: pytest.fail("scored again"))
    changes = row.settings.also["tested on 3 points"]
    assert also_scored(reproduction.result, changes, "tested on 3 points", StopFlag()) == next(
        iter(reproduction.also.values())
    )
    stop = StopFlag()
    stop.reason = "SIGTERM"
    with pytest.raises(Interrupted, match="SIGTERM"):
        also_scored(reproduction.result, changes, "tested on 3 points", stop)


def test_rows_without_records_say_so_and_the_page_keeps_the_rest(small, tmp_path):
    row = small()
    path = tmp_path / "results.md"
    for old in ("", "old\n\n"):
        path.write_text(f"before\n\n{page.BEGIN}\n\n{old}{page.END}\n\nafter\n")
        page.renew({"small": row}, {}, path)
    text = path.read_text()
    assert (text.startswith("before\n"), text.endswith("\nafter\n"), "\nold\n" in text) == (True, True, False)
    assert "| `small` | Small | 0.250 | not recorded yet |" in text
    assert page.between_marks(text) == page.tables({"small": row}, {}).strip()
    path.write_text("no marks")
    with pytest.raises(ConfigError, match="put them where tables belong"):
        page.renew({"small": row}, {}, path)


def test_how_theta_was_picked(small):
    assert selection(small().comparison().base) == (
        "the θ that is best on 10 validation tasks after 5 inner steps, of those of every 10 outer steps"
    )
    assert selection(small(eval={"every": 0}).comparison().base) == "the last θ"

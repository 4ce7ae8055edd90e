"""Tasks out of tables and series: which rows they hold, what they are standardised by, and that nothing leaks."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meta.episode import Episode, leaves
from tasks.checker import check_family
from tasks.data.errors import DataError
from tasks.data.tables.prepare import prepare_table
from tasks.data.tables.request import TableSource
from tasks.family import SPLITS, TaskKey
from tasks.series import Series
from tasks.table import Table

GROUPS, ROWS = 10, 24
keys = st.builds(TaskKey, st.integers(0, 2**63 - 1), st.sampled_from(SPLITS), st.integers(0, 2**40))


def number(group: int, row: int) -> float:
    """A number for each row that tells which one it is."""
    return 1000.0 * group + row


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, write_csv: Callable[..., Path]) -> dict[str, str]:
    """Stores whose values are the rows' own numbers: of a table, of series, with labels, and with gaps."""
    folder = tmp_path_factory.mktemp("tables")
    rows = [
        (f"g{group}", row, number(group, row), number(group, row), "abc"[row % 3], "" if row % 4 == 0 else row)
        for group in range(GROUPS)
        for row in range(ROWS)
    ]
    path = write_csv(folder / "rows.csv", ("group", "time", "x", "y", "label", "gap"), rows)
    options: dict[str, dict[str, Any]] = {
        "table": {"inputs": ("x",), "targets": ("y",)},
        "several": {"inputs": ("x", "label"), "categorical": ("label",), "targets": ("y", "time")},
        "series": {"inputs": ("x",), "targets": ("y",), "time": "time"},
        "labels": {"inputs": ("x",), "labels": "label"},
        "labelled series": {"inputs": ("x",), "labels": "label", "time": "time"},
        "gaps": {"inputs": ("gap",), "targets": ("y",), "missing": "impute"},
    }
    for name, option in options.items():
        prepare_table(TableSource(path, group="group", **option), str(folder / name))
    return {name: str(folder / name) for name in options}


def same(one: Episode, other: Episode) -> bool:
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


@pytest.mark.parametrize("name", ["table", "several", "labels", "gaps"])
@pytest.mark.parametrize("standardise", ["train", "support", "none"])
def test_tables_keep_the_contract(roots: dict[str, str], name: str, standardise: Any) -> None:
    check_family(Table(root=roots[name], shot=5, query=7, eval_query=9, standardise=standardise))


@pytest.mark.parametrize("target", [{"targets": ("y",)}, {"targets": (), "labels": "level"}], ids=["numbers", "labels"])
def test_series_keep_the_contract(make_table: Callable[..., Path], target: dict[str, Any]) -> None:
    root = str(make_table(rows=300, inputs=("x", "y"), categorical=(), time="day", **target))
    check_family(Series(root=root, shot=4, query=3, window=5, standardise="support"))


@given(key=keys, shot=st.integers(1, 10), query=st.integers(1, 14))
def test_a_task_holds_distinct_rows_of_one_group_of_its_split(
    roots: dict[str, str], key: TaskKey, shot: int, query: int
) -> None:
    family = Table(root=roots["table"], shot=shot, query=query, standardise="none")
    episode = family.draw(key)
    assert [len(part.inputs) for part in (episode.support, episode.query)] == [shot, query]
    rows = torch.cat([episode.support.inputs, episode.query.inputs]).flatten().tolist()
    assert len(set(rows)) == shot + query
    groups = {int(row // 1000) for row in rows}
    assert len(groups) == 1
    assert f"g{groups.pop()}" in family.store.names(key.split)
    assert rows == torch.cat([episode.support.targets, episode.query.targets]).flatten().tolist()


@given(key=keys)
def test_other_shots_are_scored_on_the_same_queries(roots: dict[str, str], key: TaskKey) -> None:
    one, other = (Table(root=roots["table"], shot=shot, query=6).draw(key) for shot in (1, 10))
    assert torch.equal(one.query.inputs, other.query.inputs)


def test_all_groups_and_rows_are_drawn(roots: dict[str, str]) -> None:
    family = Table(root=roots["table"], shot=3, query=3, standardise="none")
    drawn = [family.draw(TaskKey(0, "train", index)) for index in range(300)]
    for part in ("support", "query"):
        rows = {value for episode in drawn for value in getattr(episode, part).inputs.flatten().tolist()}
        assert len(rows) == 6 * ROWS


def test_held_out_tasks_may_have_other_sizes(roots: dict[str, str]) -> None:
    family = Table(root=roots["table"], shot=3, query=4, eval_shot=5, eval_query=6)
    sizes = {split: family.draw(TaskKey(0, split, 0)) for split in SPLITS}
    assert {split: (len(one.support.inputs), len(one.query.inputs)) for split, one in sizes.items()} == {
        "train": (3, 4),
        "val": (5, 6),
        "test": (5, 6),
    }


def test_numbers_are_standardised_by_the_training_groups(roots: dict[str, str]) -> None:
    key = TaskKey(1, "test", 3)
    plain = Table(root=roots["table"], standardise="none").draw(key)
    family = Table(root=roots["table"])
    training = [number(int(name[1:]), row) for name in family.store.names("train") for row in range(ROWS)]
    expected = (plain.query.targets.numpy() - np.mean(training)) / np.std(training)
    np.testing.assert_allclose(family.draw(key).query.targets.numpy(), expected, rtol=1e-12)


def test_numbers_are_standardised_by_the_support_alone(roots: dict[str, str]) -> None:
    key = TaskKey(1, "test", 3)
    plain = Table(root=roots["table"], standardise="none", shot=12).draw(key)
    family = Table(root=roots["table"], standardise="support", shot=12)
    support = plain.support.inputs.numpy()
    deviation = support.std()
    training = family.encoder.manifest.inputs[0].deviation
    assert (deviation < 0.01 * training) == (deviation < 30)  # groups are 1000 apart, rows 1
    scale = training if deviation < 0.01 * training else deviation
    expected = (plain.query.targets.numpy() - support.mean()) / scale
    episode = family.draw(key)
    np.testing.assert_allclose(episode.query.targets.numpy(), expected, rtol=1e-12)
    units = family.encoder.in_units(episode.query.targets.numpy(), family.encoder.scale(np.repeat(support, 2, axis=1)))
    np.testing.assert_allclose(units, plain.query.targets.numpy(), rtol=1e-12)


def test_a_deviation_of_the_support_that_says_something_is_used(make_table: Callable[..., Path]) -> None:
    episode = Table(root=str(make_table()), standardise="support", shot=10).draw(TaskKey(0, "test", 0))
    x, y = episode.support.inputs[:, 0], episode.support.targets[:, 0]
    for values in (x, y):
        np.testing.assert_allclose(values.mean(), 0, atol=1e-12)
        np.testing.assert_allclose(values.std(correction=0), 1, rtol=1e-12)


def test_categories_are_one_hot_and_gaps_are_filled_in_beside_an_indicator(roots: dict[str, str]) -> None:
    family = Table(root=roots["several"])
    assert family.encoder.names == ("x", "label=a", "label=b", "label=c")
    assert (family.spec.input_shape, family.spec.outputs) == ((4,), 2)
    episode = family.draw(TaskKey(0, "val", 0))
    assert torch.equal(episode.query.inputs[:, 1:].sum(dim=1), torch.ones(10, dtype=torch.float64))
    assert tuple(episode.query.targets.shape) == (10, 2)

    gaps = Table(root=roots["gaps"], shot=12, query=12, standardise="none")
    assert gaps.encoder.names == ("gap", "gap missing")
    episode = gaps.draw(TaskKey(0, "test", 0))
    rows = torch.cat([episode.support.targets, episode.query.targets])[:, 0] % 1000
    inputs = torch.cat([episode.support.inputs, episode.query.inputs])
    absent = rows % 4 == 0
    assert torch.equal(inputs[:, 1], absent.double())
    assert torch.equal(inputs[~absent, 0], rows[~absent])
    mean = np.mean([row for row in range(ROWS) if row % 4])
    np.testing.assert_allclose(inputs[absent, 0], mean, rtol=1e-12)
    standardised = Table(root=roots["gaps"], shot=12, query=12).draw(TaskKey(0, "test", 0))
    assert torch.cat([standardised.support.inputs, standardised.query.inputs])[absent, 0].abs().max() < 1e-12


def test_a_category_that_training_does_not_have_is_none(tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    rows = [(f"g{group}", "new" if group > 7 else "old", row) for group in range(GROUPS) for row in range(ROWS)]
    rows = [(*row, {"g8": "val", "g9": "test"}.get(row[0], "train")) for row in rows]
    path = write_csv(tmp_path / "rows.csv", ("group", "kind", "y", "split"), rows)
    options = {"group": "group", "inputs": ("kind",), "categorical": ("kind",), "targets": ("y",)}
    prepare_table(TableSource(path, split_column="split", **options), str(tmp_path / "store"))
    family = Table(root=str(tmp_path / "store"))
    assert family.draw(TaskKey(0, "train", 0)).query.inputs.sum() == 10
    assert family.draw(TaskKey(0, "test", 0)).query.inputs.sum() == 0


def test_labels_are_class_numbers(roots: dict[str, str]) -> None:
    family = Table(root=roots["labels"], standardise="none")
    spec = family.spec
    assert (spec.objective, spec.outputs, spec.by_class) == ("cross_entropy", 3, False)
    query = family.draw(TaskKey(0, "test", 0)).query
    assert torch.equal(query.targets, (query.inputs[:, 0] % 1000 % 3).long())


shapes = st.fixed_dictionaries(
    {
        "shot": st.integers(1, 4),
        "query": st.integers(1, 4),
        "window": st.integers(1, 4),
        "horizon": st.integers(1, 3),
        "stride": st.integers(1, 3),
    }
)


@given(key=keys, shape=shapes)
def test_no_target_of_a_query_is_known_while_adapting(
    roots: dict[str, str], key: TaskKey, shape: dict[str, int]
) -> None:
    family = Series(root=roots["series"], standardise="none", **shape)
    episode = family.draw(key)
    window, horizon, stride = shape["window"], shape["horizon"], shape["stride"]
    for part, count in ((episode.support, shape["shot"]), (episode.query, shape["query"])):
        assert tuple(part.inputs.shape) == (count, window, 1)
        assert tuple(part.targets.shape) == (count, horizon)
        rows = torch.cat([part.inputs[:, :, 0], part.targets], dim=1)
        assert torch.equal(rows.diff(dim=1), torch.ones(count, window + horizon - 1, dtype=torch.float64))
        assert torch.equal(part.inputs[:, 0, 0].diff(), torch.full((count - 1,), stride, dtype=torch.float64))
    assert episode.support.targets.max() <= episode.query.inputs[0, -1, 0]  # known when the first forecast is made
    assert episode.support.targets.max() < episode.query.targets.min()
    assert len({int(row // 1000) for part in episode[:2] for row in part.inputs.flatten().tolist()}) == 1


def test_every_place_in_a_series_is_drawn(roots: dict[str, str]) -> None:
    family = Series(root=roots["series"], shot=2, query=2, window=3, horizon=2, standardise="none")
    drawn = [family.draw(TaskKey(0, "val", index)) for index in range(400)]
    first = {float(episode.support.inputs[0, 0, 0]) % 1000 for episode in drawn}
    last = {float(episode.query.targets[-1, -1]) % 1000 for episode in drawn}
    assert min(first) == 0
    assert max(last) == ROWS - 1


def test_series_are_standardised_by_what_is_known_when_the_first_forecast_is_made(
    make_table: Callable[..., Path],
) -> None:
    root = str(make_table(inputs=("x", "y"), categorical=(), time="day"))
    shape: dict[str, Any] = {"shot": 5, "query": 3, "window": 4, "stride": 2}
    key = TaskKey(0, "test", 1)
    plain = Series(root=root, standardise="none", **shape).draw(key)
    scaled = Series(root=root, standardise="support", **shape).draw(key)
    inputs, targets = plain.support.inputs[:, :, 1], plain.support.targets[:, 0]
    known = torch.cat([inputs[0], *(inputs[one, -2:] for one in range(1, 5)), targets[-1:]])
    expected = (plain.query.targets - known.mean()) / known.std(correction=0)
    torch.testing.assert_close(scaled.query.targets, expected, rtol=1e-12, atol=0)


def test_the_next_rows_label_is_predicted(roots: dict[str, str]) -> None:
    episode = Series(root=roots["labelled series"], shot=2, query=3, window=3, standardise="none").draw(
        TaskKey(0, "test", 0)
    )
    assert torch.equal(episode.query.targets, ((episode.query.inputs[:, -1, 0] + 1) % 1000 % 3).long())
    with pytest.raises(DataError, match=r"expected task\.horizon 1 where a label is predicted, received 2"):
        _ = Series(root=roots["labelled series"], horizon=2).spec


@pytest.fixture
def unequal(tmp_path: Path, write_csv: Callable[..., Path]) -> str:
    """A store whose groups have 1 to 30 rows."""
    rows = [(f"g{group:02}", row, row) for group in range(30) for row in range(group + 1)]
    path = write_csv(tmp_path / "rows.csv", ("group", "x", "y"), rows)
    prepare_table(
        TableSource(path, group="group", inputs=("x",), targets=("y",), ratio="1,1,1"), str(tmp_path / "store")
    )
    return str(tmp_path / "store")


def test_groups_with_too_few_rows_are_left_out_and_named(unequal: str) -> None:
    family = Table(root=unequal, shot=4, query=4)
    assert sum(len(kept) for kept in family.groups.values()) == 23
    names = [name for split in SPLITS for name in family.store.names(split)[: len(family.store.names(split))]]
    small = [name for name in names if int(name[1:]) < 7]
    train = family.warnings[0]
    assert " train groups of '" in train
    assert "have fewer than 8 rows and are left out: " in train
    assert train.endswith("; lower task.shot or task.query to keep them")
    assert sum(name in " ".join(family.warnings) for name in small) == len(small)
    assert sum(int(line.split()[0]) for line in family.warnings) == 7
    drawn = {
        int(family.draw(TaskKey(0, split, index)).support.inputs.shape[0]) for split in SPLITS for index in range(9)
    }
    assert drawn == {4}
    assert (
        Table(root=unequal, shot=4, query=4, eval_shot=1, eval_query=1).groups["test"].size > family.groups["test"].size
    )


def test_errors_help(roots: dict[str, str], unequal: str, tmp_path: Path) -> None:
    for family, message in (
        (
            Table(root=unequal, shot=20, query=30),
            "expected groups of 50 rows or more in the train split of .* the largest",
        ),
        (Table(root=unequal, eval_query=40), r"lower task\.shot or task\.query \(task\.eval_shot, task\.eval_query\)"),
        (
            Series(root=roots["table"]),
            "expects a store whose rows are in the order of time, received .* without --time",
        ),
        (Series(root=roots["series"], window=30), r"lower task\.window, task\.horizon, task\.stride, task\.shot or"),
        (Table(root=str(tmp_path / "nowhere")), "expected a table store at .*nowhere', found none; make one with"),
    ):
        with pytest.raises(DataError, match=message):
            _ = family.spec
    with pytest.raises(DataError, match="expected query of at least 1, received 0"):
        Table(root=unequal, query=0)
    with pytest.raises(DataError, match="expected stride of at least 1, received 0"):
        Series(root=unequal, stride=0)


def test_a_table_does_not_hold_its_own_answers(make_table: Callable[..., Path]) -> None:
    with pytest.raises(
        DataError, match=r"received 'y' as both in .*: a row would hold its own answer; set task\.family"
    ):
        _ = Table(root=str(make_table(inputs=("x", "y"), categorical=(), time="day"))).spec


def test_a_copy_in_another_process_maps_the_files_anew(roots: dict[str, str]) -> None:
    family = Table(root=roots["table"])
    drawn = family.draw(TaskKey(0, "train", 0))
    text = pickle.dumps(family)
    assert len(text) < 20_000
    assert same(pickle.loads(text).draw(TaskKey(0, "train", 0)), drawn)


@pytest.mark.parametrize("standardise", ["train", "support", "none"])
def test_rows_of_ones_own_are_encoded_as_those_that_are_drawn(
    make_table: Callable[..., Path], standardise: Any
) -> None:
    family = Table(root=str(make_table()), shot=6, query=5, standardise=standardise)
    plain = Table(root=family.root, shot=6, query=5, standardise="none")
    key = TaskKey(4, "test", 2)

    def columns(examples: Any) -> dict[str, list[Any]]:
        kinds = ["abc"[int(row.argmax())] for row in examples.inputs[:, 1:]]
        return {"y": examples.targets[:, 0].tolist(), "kind": kinds, "x": examples.inputs[:, 0].tolist()}

    support, query = (columns(part) for part in plain.draw(key)[:2])
    expected = family.draw(key)
    arrays = family.arrays(support, {name: values for name, values in query.items() if name != "y"})
    np.testing.assert_array_equal(arrays["support_inputs"][0], expected.support.inputs.numpy())
    np.testing.assert_array_equal(arrays["support_targets"][0], expected.support.targets.numpy())
    np.testing.assert_array_equal(arrays["query_inputs"][0], expected.query.inputs.numpy())
    units = family.in_units(expected.query.targets.numpy()[None], support)
    np.testing.assert_allclose(units[0, :, 0], query["y"], rtol=1e-12)


def test_rows_of_ones_own_that_cannot_be_used(make_table: Callable[..., Path]) -> None:
    family = Table(root=str(make_table()))
    rows: dict[str, list[Any]] = {"x": [1.0, 2.0], "kind": ["a", "new"], "y": [0.0, 1.0]}
    assert family.arrays(rows, rows)["support_inputs"][0, 1, 1:].tolist() == [0, 0, 0]
    for wrong, message in (
        ({"x": [1.0, 2.0], "y": [0, 1]}, "expected a column 'kind', received x, y; add it"),
        (rows | {"x": [1.0]}, "expected columns of one length, received"),
        (rows | {"x": ["1", "one"]}, "rows, row 2, column 'x': expected a number, received 'one'"),
        (rows | {"y": [None, 1.0]}, "expected a target that training has in every support row, row 1 has none"),
        ({name: values for name, values in rows.items() if name != "y"}, "in every support row, row 1 has none"),
    ):
        with pytest.raises(DataError, match=message):
            family.arrays(wrong, rows)

"""Tables to stores: every row in its place, statistics of the training groups alone, and errors that name the place."""

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tasks.data.errors import DataError
from tasks.data.limits import Limits
from tasks.data.store import ImageStore
from tasks.data.tables import buckets
from tasks.data.tables.manifest import Column, TableManifest
from tasks.data.tables.prepare import prepare_table
from tasks.data.tables.request import TableSource
from tasks.data.tables.statistics import Statistics
from tasks.data.tables.store import TableStore
from tasks.family import SPLITS

HEADER = ("shop", "day", "price", "kind", "sold", "grade")
GROUPS, ROWS = 12, 15
Write = Callable[[Path, Sequence[str], Sequence[Sequence[Any]]], Path]
BY_SPLIT = {"group": "shop", "inputs": ("price",), "targets": ("sold",)}


def table() -> list[tuple[Any, ...]]:
    """Rows in random order; ``sold`` tells group and day apart."""
    rng = np.random.Generator(np.random.Philox(key=[3, 0]))
    rows = [
        (f"s{group}", day, round(float(rng.normal()), 6), "abc"[int(rng.integers(3))], 100 * group + day, "xy"[day % 2])
        for group in range(GROUPS)
        for day in range(ROWS)
    ]
    return [rows[place] for place in rng.permutation(len(rows))]


@pytest.fixture
def prepared(tmp_path: Path, write_csv: Write) -> Callable[..., TableStore]:
    """Prepare rows, by default :func:`table`'s, under options."""

    def prepare(rows: Sequence[Sequence[Any]] | None = None, header: Sequence[str] = HEADER, **options: Any) -> Any:
        path = write_csv(tmp_path / "data.csv", header, table() if rows is None else rows)
        prepare_table(TableSource(path, **BY_SPLIT | options), str(tmp_path / "store"), replace=True)
        return TableStore(tmp_path / "store")

    return prepare


def of_group(rows: Sequence[Sequence[Any]], name: str, *columns: int) -> list[list[Any]]:
    return [[row[column] for column in columns] for row in rows if row[0] == name]


def all_rows(store: TableStore, split: Any, group: int) -> Any:
    return store.values(split, group, np.arange(store.rows(split)[group]))


def test_every_row_lies_with_its_group_in_the_order_of_the_file(prepared: Callable[..., TableStore]) -> None:
    store, rows = prepared(), table()
    names = [name for split in SPLITS for name in store.names(split)]
    assert sorted(names) == sorted({row[0] for row in rows})
    assert [len(store.names(split)) for split in SPLITS] == [8, 2, 2]
    for split in SPLITS:
        for group, name in enumerate(store.names(split)):
            assert all_rows(store, split, group).tolist() == of_group(rows, name, 2, 4)


def test_rows_are_ordered_by_time_where_there_is_one(prepared: Callable[..., TableStore]) -> None:
    store = prepared(time="day")
    for split in SPLITS:
        for group in range(len(store.names(split))):
            sold = all_rows(store, split, group)[:, 1]
            assert (sold % 100).tolist() == list(range(ROWS))


def test_statistics_are_of_the_training_groups_alone(prepared: Callable[..., TableStore]) -> None:
    store, rows = prepared(inputs=("price", "kind"), categorical=("kind",)), table()
    training = [row for row in rows if row[0] in store.names("train")]
    price, kind = store.manifest.inputs
    np.testing.assert_allclose(price.mean, np.mean([row[2] for row in training]), rtol=1e-12)
    np.testing.assert_allclose(price.deviation, np.std([row[2] for row in training]), rtol=1e-12)
    assert kind == Column(name="kind", kind="category", categories=("a", "b", "c"))

    held_out = set(store.names("val")) | set(store.names("test"))
    other = [(*row[:2], row[2] * 1000, "z", *row[4:]) if row[0] in held_out else row for row in rows]
    changed = prepared(other, inputs=("price", "kind"), categorical=("kind",))
    assert changed.manifest.inputs == store.manifest.inputs
    assert changed.manifest.origin["unknown_categories"] == {"kind": 4 * ROWS}
    assert "60 values of column 'kind' are categories that no training group has" in str(
        changed.manifest.origin["warnings"]
    )
    assert (all_rows(changed, "test", 0)[:, 1] == -1).all()


def test_statistics_of_many_pieces() -> None:
    rng = np.random.Generator(np.random.Philox(key=[1, 0]))
    values = 1e6 + rng.normal(size=(1000, 3))
    values[rng.random((1000, 3)) < 0.2] = np.nan
    values[:, 2] = 7.0
    statistics = Statistics(3)
    for piece in np.split(values, [0, 1, 400, 400, 990]):
        statistics.add(piece)
    np.testing.assert_allclose(statistics.mean, np.nanmean(values, axis=0), rtol=1e-14)
    np.testing.assert_allclose(statistics.deviation[:2], np.nanstd(values, axis=0)[:2], rtol=1e-9)
    assert statistics.deviation[2] == 1  # equal values are not divided by zero
    assert statistics.missing.tolist() == np.isnan(values).sum(axis=0).tolist()


@pytest.mark.parametrize("options", [{}, {"time": "day"}], ids=["unordered", "by time"])
def test_sorting_in_many_buckets_gives_the_same_rows(
    prepared: Callable[..., TableStore], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    def values(store: TableStore) -> list[Any]:
        return [all_rows(store, split, group).tolist() for split in SPLITS for group in range(len(store.names(split)))]

    once = values(prepared(**options))
    monkeypatch.setattr(buckets, "SMALLEST", 2000)  # of some groups; below: of one each
    assert values(prepared(**options)) == once
    monkeypatch.setattr(buckets, "SMALLEST", 1)
    monkeypatch.setattr("tasks.data.tables.writer.ROWS", 4)
    monkeypatch.setattr("tasks.data.tables.prepare.ROWS", 4)
    assert values(prepared(**options)) == once


def test_csv_parquet_and_folders_of_either_are_the_same_data(
    prepared: Callable[..., TableStore], tmp_path: Path, write_csv: Write
) -> None:
    expected = prepared(inputs=("price", "kind"), categorical=("kind",)).manifest.fingerprint
    rows = table()
    arrow = pa.table({name: pa.array([row[place] for row in rows]) for place, name in enumerate(HEADER)})
    coded = arrow.set_column(3, "kind", arrow["kind"].dictionary_encode())
    places = {name: tmp_path / name for name in ("one.parquet", "coded.pq", "parts", "csv", "semicolon.csv", "tab.tsv")}
    pa.parquet.write_table(arrow, places["one.parquet"], row_group_size=50)
    pa.parquet.write_table(coded, places["coded.pq"])
    for name in ("parts", "csv"):
        places[name].mkdir()
    for part in range(3):
        piece = arrow.slice(60 * part, 60)
        pa.parquet.write_table(piece, places["parts"] / f"{part}.parquet")
        with gzip.open(places["csv"] / f"{part}.csv.gz", "wb") as file:
            pa.csv.write_csv(piece.select(HEADER[::-1]), file)
    (places["parts"] / "readme.txt").write_text("about")
    for name, delimiter in (("semicolon.csv", ";"), ("tab.tsv", "\t")):
        lines = [delimiter.join(map(str, row)) for row in (HEADER, *rows)]
        places[name].write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    for name, place in places.items():
        source = TableSource(place, **BY_SPLIT | {"inputs": ("price", "kind"), "categorical": ("kind",)})
        manifest = prepare_table(source, str(tmp_path / "store"), replace=True)
        assert manifest.fingerprint == expected, name
        assert manifest.origin["files"] == (3 if place.is_dir() else 1)
        assert ("readme.txt" in str(manifest.origin["left_out"])) is (name == "parts")


def test_a_manifest_is_read_as_it_was_written(prepared: Callable[..., TableStore]) -> None:
    manifest = prepared(inputs=("price", "kind"), categorical=("kind",)).manifest
    assert TableManifest.from_json(manifest.to_json(), "here") == manifest
    assert len({prepared().manifest.fingerprint, manifest.fingerprint, prepared(seed=1).manifest.fingerprint}) == 3


def test_a_store_by_address(prepared: Callable[..., TableStore], tmp_path: Path, write_csv: Write) -> None:
    expected = prepared().manifest
    path = write_csv(tmp_path / "data.csv", HEADER, table())
    made = prepare_table(TableSource(path, **BY_SPLIT), (tmp_path / "far").as_uri())
    assert made.fingerprint == expected.fingerprint
    assert TableStore(tmp_path / "far").manifest == made


GAPS = [("s0", 0, "", "a", 1, "x"), ("s1", 0, "NA", "a", 2, "x"), ("s2", 0, 7, "", 3, "x"), ("s3", 0, 7, "a", "?", "x")]


def test_rows_without_a_value_are_refused_by_default(prepared: Callable[..., TableStore]) -> None:
    with pytest.raises(DataError, match=r"data\.csv, row 181, column 'price': expected a value, received none; add it"):
        prepared([*table(), *GAPS])


def test_rows_without_a_value_are_dropped_and_counted(prepared: Callable[..., TableStore]) -> None:
    store = prepared([*table(), *GAPS], inputs=("price", "kind"), categorical=("kind",), missing="drop")
    assert sum(int(store.rows(split).sum()) for split in SPLITS) == GROUPS * ROWS
    left_out = store.manifest.origin["left_out"]
    assert [(reason, entry["count"]) for reason, entry in left_out.items()] == [
        ("rows without an input", 3),
        ("rows without a target", 1),
    ]
    assert left_out["rows without a target"]["first"][0].endswith("row 184, column 'sold'")
    assert [column.missing for column in store.manifest.inputs] == [0, 0]


def test_inputs_are_kept_to_be_filled_in(prepared: Callable[..., TableStore], tmp_path: Path) -> None:
    gaps = [(f"s{group}", 99, "", "", 1, "x") for group in range(GROUPS)]  # in each split
    store = prepared([*table(), *gaps], inputs=("price", "kind"), categorical=("kind",), missing="impute")
    assert [column.missing for column in store.manifest.inputs] == [8, 8]
    assert np.isnan(all_rows(store, "val", 0)[-1, :2]).all()
    assert store.manifest.inputs[0].mean == prepared(inputs=("price",)).manifest.inputs[0].mean


def test_groups_are_split_by_a_column(prepared: Callable[..., TableStore]) -> None:
    splits = {"s3": "val", "s11": "test", "s0": "test"}
    rows = [(*row, splits.get(row[0], "train")) for row in table()]
    store = prepared(rows, (*HEADER, "part"), split_column="part")
    assert (store.names("val"), store.names("test")) == (("s3",), ("s0", "s11"))
    rows[7] = (*rows[7][:-1], "validation")
    with pytest.raises(
        DataError, match=r"row 8, column 'part': expected train, val, test, received 'validation'; rename"
    ):
        prepared(rows, (*HEADER, "part"), split_column="part")
    rows[7] = (*rows[7][:-1], "val" if splits.get(rows[7][0]) != "val" else "test")
    with pytest.raises(DataError, match="expected one split for all rows of a group, received"):
        prepared(rows, (*HEADER, "part"), split_column="part")


def test_groups_are_split_by_lists(prepared: Callable[..., TableStore], tmp_path: Path) -> None:
    for split, names in {"train": "s1\ns2", "val": "s3", "test": "s4\ns5"}.items():
        (tmp_path / f"{split}.txt").write_text(names)
    store = prepared(lists=tmp_path)
    assert [store.names(split) for split in SPLITS] == [("s1", "s2"), ("s3",), ("s4", "s5")]
    assert store.manifest.origin["left_out"]["in no list"]["count"] == 7


def test_labels_are_numbered_by_the_training_groups(prepared: Callable[..., TableStore]) -> None:
    store = prepared(targets=(), labels="grade")
    assert store.manifest.classifies
    assert store.manifest.targets[0].categories == ("x", "y")
    held_out = [*store.names("val"), *store.names("test")]
    rows = [(*row[:5], "new") if row[0] in held_out and row[1] < 5 else row for row in table()]
    other = prepared(rows, targets=(), labels="grade")
    assert other.rows("test").tolist() == [ROWS - 5] * 2
    assert set(all_rows(other, "test", 0)[:, 1]) == {0, 1}
    assert other.manifest.origin["left_out"] == {
        "held-out rows with a label that no training group has": {"count": 20, "first": ["column 'grade'"]}
    }


def test_whole_labels_of_a_table_with_gaps_are_whole(tmp_path: Path) -> None:
    rows = table()
    grades = pa.array([None if place == 0 else float(row[1] % 2) for place, row in enumerate(rows)])
    columns = {"shop": [row[0] for row in rows], "price": [row[2] for row in rows], "grade": grades}
    pa.parquet.write_table(pa.table(columns), tmp_path / "data.parquet")
    source = TableSource(tmp_path / "data.parquet", group="shop", inputs=("price",), labels="grade", missing="drop")
    assert prepare_table(source, str(tmp_path / "store")).targets[0].categories == ("0", "1")


def test_groups_whose_names_differ_in_spaces_are_one(prepared: Callable[..., TableStore]) -> None:
    rows = [("s 3" if row[1] % 2 else "s  3", *row[1:]) if row[0] == "s3" else row for row in table()]
    store = prepared(rows)
    names = {name for split in SPLITS for name in store.names(split)}
    assert "s 3" in names
    assert len(names) == GROUPS
    assert "are taken for one class" in store.manifest.origin["warnings"][0]


def test_equal_rows_are_counted_and_their_groups_named(prepared: Callable[..., TableStore]) -> None:
    rows = table()
    rows += [rows[0], rows[0], rows[1]]
    origin = prepared(rows).manifest.origin
    assert origin["duplicates"] == 3
    assert "3 rows are equal to another row of their group" in origin["warnings"][0]
    assert rows[0][0] in origin["warnings"][0]
    assert prepared().manifest.origin["duplicates"] == 0


@pytest.mark.parametrize("dates", ["2024-01-{:02}", "2024-01-{:02}T12:00:00Z", "2024-01-{:02} 12:30:00"])
def test_dates_order_rows(prepared: Callable[..., TableStore], dates: str) -> None:
    rows = [(row[0], dates.format(row[1] + 1), *row[2:]) for row in table()]
    store = prepared(rows, time="day")
    assert (all_rows(store, "train", 0)[:, 1] % 100).tolist() == list(range(ROWS))
    assert store.manifest.origin["warnings"] == []
    kept = [row for row in rows if not (row[0] == "s4" and row[1] == dates.format(5))]
    assert "1 of 12 series have gaps in column 'day': s4" in str(prepared(kept, time="day").manifest.origin["warnings"])
    with pytest.raises(DataError, match="expected one row for each time of a series, received two with day 2024-01-05"):
        prepared([*rows, next(row for row in rows if row[1] == dates.format(5))], time="day")


def with_value(place: int, column: str, value: Any) -> list[tuple[Any, ...]]:
    rows = table()
    position = HEADER.index(column)
    rows[place] = (*rows[place][:position], value, *rows[place][position + 1 :])
    return rows


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "wrong group": (
        {"group": "Shops"},
        r"data\.csv: expected a column 'Shops' \(did you mean 'shop'\?\); the file has",
    ),
    "wrong input": ({"inputs": ("prise", "x")}, r"a column 'prise' \(did you mean 'price'\?\), 'x'; the file has shop"),
    "wrong target": ({"targets": ("Sold ",)}, r"expected a column 'Sold ' \(did you mean 'sold'\?\)"),
    "no inputs": ({"inputs": ()}, "expected --inputs: the columns to predict from"),
    "no group": ({"group": None}, "expected --group COLUMN: the column whose values are the tasks"),
    "no targets": (
        {"targets": ()},
        r"expected --targets \(numbers to predict\) or --labels \(a class\), received neither",
    ),
    "targets and labels": ({"labels": "grade"}, "or --labels .a class., received both"),
    "target as input": (
        {"inputs": ("sold",)},
        "expected one role for each column, received 'sold' as --inputs and --ta",
    ),
    "group as input": ({"inputs": ("shop",)}, "received 'shop' as --group and --inputs; take it out of"),
    "input twice": ({"inputs": ("price", "price")}, "received 'price' as --inputs and --inputs; name it once"),
    "category that is no input": (
        {"categorical": ("kid",)},
        "--categorical: expected columns of --inputs, received 'kid'",
    ),
    "text among numbers": (
        {"inputs": ("kind",)},
        r"row 1, column 'kind': expected a number, received '[abc]'; correct it",
    ),
    "missing": (
        {"missing": "imput"},
        r"--missing: expected refuse, drop, impute, received 'imput' \(did you mean 'imp",
    ),
    "two ways to split": (
        {"ratio": "1,1,1", "split_column": "kind"},
        "expected --split-column, --ratio or --lists, rec",
    ),
    "ratio": ({"ratio": "1,0,1"}, "expected a ratio of three positive numbers"),
    "too few groups": (
        {"group": "kind"},
        "expected groups in every split, received train 2, val 0, test 1 of 3 groups",
    ),
    "time as text": ({"time": "kind"}, r"row 1, column 'kind': expected a time, a number or a date such as 2024-01-31"),
    "repeated times": ({"time": "kind2"}, "expected a column 'kind2' .did you mean 'kind'"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused(
    prepared: Callable[..., TableStore], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        prepared(**options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv"]


VALUES: dict[str, tuple[list[tuple[Any, ...]], str]] = {
    "no number": (
        with_value(20, "price", "12 EUR"),
        r"data\.csv, row 21, column 'price': expected a number, received '12 ",
    ),
    "decimal comma": (with_value(3, "sold", "1,5"), r"row 4, column 'sold': expected a number, received '1,5'"),
    "infinity": (with_value(2, "price", "inf"), r"row 3, column 'price': expected a number, received 'inf'"),
    "no group": (with_value(5, "shop", " "), r"row 6, column 'shop': expected a group in every row, received none"),
    "no rows": ([], "expected rows with a group, received none; check --group 'shop'"),
    "another width": (
        [*table(), ("s1", 2)],
        r"data\.csv: expected a whole CSV or Parquet file, received: CSV parse error",
    ),
}


@pytest.mark.parametrize(("rows", "message"), VALUES.values(), ids=VALUES.keys())
def test_values_that_cannot_be_used_are_named_by_row_and_column(
    prepared: Callable[..., TableStore], rows: list[tuple[Any, ...]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        prepared(rows)


def test_a_group_without_rows_is_left_out_and_a_split_without_any_is_refused(
    prepared: Callable[..., TableStore],
) -> None:
    store = prepared()
    first, *others = store.names("test")
    rows = [(*row[:4], "", row[5]) if row[0] == first else row for row in table()]
    kept = prepared(rows, missing="drop")
    assert kept.names("test") == tuple(others)
    assert kept.manifest.origin["left_out"]["groups without a row that can be used"] == {"count": 1, "first": [first]}
    rows = [(*row[:4], "", row[5]) if row[0] in store.names("test") else row for row in table()]
    with pytest.raises(DataError, match="expected rows that can be used in the test split, received none in its 2 gr"):
        prepared(rows, missing="drop")


def test_files_that_are_no_tables(tmp_path: Path, write_csv: Write) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(DataError) as error:
            prepare_table(TableSource(path, **BY_SPLIT), str(tmp_path / "store"))
        assert not (tmp_path / "store").exists()
        return str(error.value)

    assert "found nothing at" in refused(tmp_path / "nowhere.csv")
    (tmp_path / "sheet.xlsx").write_bytes(b"PK")
    assert "expected files that end in .csv, .tsv" in refused(tmp_path / "sheet.xlsx")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 or not")
    assert "broken.parquet: expected a whole CSV or Parquet file, received" in refused(tmp_path / "broken.parquet")
    (tmp_path / "empty.csv").write_text("")
    assert "expected a header, the names of the columns" in refused(tmp_path / "empty.csv")
    (tmp_path / "latin.csv").write_bytes(b"shop,price,sold\n" + "é,1,2\n".encode("latin-1"))
    assert "latin.csv: expected text in UTF-8" in refused(tmp_path / "latin.csv")
    twice = write_csv(tmp_path / "twice.csv", ("shop", "price", "price", "sold"), [("a", 1, 2, 3)])
    assert "expected each column once, received 'price' twice" in refused(twice)


def test_an_identifier_is_no_category(prepared: Callable[..., TableStore]) -> None:
    rows = [(f"s{place % 10}", 0, 1.0, f"id{place}", 0, "x") for place in range(1500)]
    with pytest.raises(DataError, match=r"column 'kind': expected at most 1,000 categories, received more"):
        prepared(rows, inputs=("kind",), categorical=("kind",))


def test_limits(tmp_path: Path, write_csv: Write) -> None:
    path = write_csv(tmp_path / "data.csv", HEADER, table())
    with pytest.raises(DataError, match="expected a store of at most 5e-06 GiB, the rows would take"):
        prepare_table(TableSource(path, **BY_SPLIT), str(tmp_path / "store"), limits=Limits(size=5e-6))
    with gzip.open(tmp_path / "zeros.csv.gz", "wb") as file:
        file.write(b"shop,price,sold\n" + b"a" * 40 + b",1,2\n" * 1)
        for _ in range(200):
            file.write(b"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrst,1.00000000,2.0000000\n" * 20_000)
    with pytest.raises(DataError, match=r"zeros\.csv\.gz: expected data that grow at most 200 times when unpacked"):
        prepare_table(TableSource(tmp_path / "zeros.csv.gz", **BY_SPLIT), str(tmp_path / "store"))


def test_stores_of_another_kind(make_store: Callable[..., Path], make_table: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"expected a table store at .*, received one of images; name a store made by"):
        TableStore(make_store())
    with pytest.raises(DataError, match=r"expected an image store at .*, received one of tables; name a store of"):
        ImageStore(make_table())


def test_a_damaged_store_is_named(prepared: Callable[..., TableStore]) -> None:
    store = prepared()
    path = store.root / "val.arrow"
    content = bytearray(path.read_bytes())
    content[-400] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"val\.arrow: expected SHA-256"):
        store.verify()
    path.write_bytes(bytes(content[:-8]))
    with pytest.raises(DataError, match=r"val\.arrow: expected \d+ bytes, found"):
        TableStore(store.root).rows("val")

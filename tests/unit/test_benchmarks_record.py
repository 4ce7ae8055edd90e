"""Records of measurements, and the page made of them."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.__main__ import main
from benchmarks.page import BEGIN, END, NONE, plain_table, ray_tables, renew, tables

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def result(suite="sinusoid", milliseconds=2.0, **changes):
    row = {
        "name": "metaray",
        "strategy": "trace",
        "threads": 1,
        "tasks_per_second": 25e3 / milliseconds,
        "milliseconds": milliseconds,
        "milliseconds_min": milliseconds,
        "milliseconds_max": milliseconds,
        "peak_memory_mb": None,
        "first_call_seconds": 2.5,
        "ratio_to_loop": 3.5,
        "peak_fraction": 0.25,
    }
    hardware = {"processor": "Some CPU", "cores": 2, "gpu": None}
    whole = {"suite": suite, "says": "a suite", "hardware": hardware, "versions": {"torch": "2.13.0"}}
    whole |= {"allocation": "kept", "peak_gflops": 50.0, "peaks": {"1": 50.0}, "results": [row]}
    return whole | {"left_out": [{"name": "jax", "reason": "not installed"}]} | changes


def test_a_record_is_dated_and_names_the_machine(tmp_path):
    path = record.write([result()], tmp_path, AT)
    assert path.name == "2026-01-02T030405Z-some-cpu-2-cores.json"
    (read,) = record.read_all(tmp_path)
    assert read["date"] == "2026-01-02T03:04:05+00:00"
    assert read["suites"] == [result()]


def test_a_record_is_whole_or_absent(tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        record.write([result()], tmp_path, AT)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_none_make_no_record(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        record.write([result(operations=float("nan"))], tmp_path / "records", AT)
    assert not (tmp_path / "records").exists()


def test_the_newest_of_a_machine_and_suite_counts(tmp_path):
    record.write([result(milliseconds=1.0), result("omniglot")], tmp_path, datetime(2026, 1, 3, tzinfo=UTC))
    record.write([result(milliseconds=9.0)], tmp_path, AT)
    other = {"processor": "Some CPU", "cores": 2, "gpu": "Some GPU"}
    record.write([result(hardware=other)], tmp_path, AT)
    found = record.newest(record.read_all(tmp_path))
    assert set(found) == {"Some CPU, 2 cores", "Some GPU"}
    mine = found["Some CPU, 2 cores"]
    assert set(mine) == {"sinusoid", "omniglot"}
    assert mine["sinusoid"]["results"][0]["milliseconds"] == 1.0


def test_tables_show_every_column_and_who_was_left_out():
    text = tables({"Some CPU, 2 cores": {"sinusoid": result(date="2026-01-02T03:04:05+00:00")}})
    assert "### Some CPU, 2 cores" in text
    assert "| metaray (trace) | 12500 | 2.00 | 2.00 to 2.00 | 3.50 | 25.0 | – | 1 | 2.50 |" in text
    assert "left out: jax, not installed" in text
    assert "2026-01-02; torch 2.13.0; memory: kept." in text
    assert tables({}) == NONE
    assert "metaray (trace)" in plain_table(result())


def test_a_record_from_before_first_calls_were_measured_is_shown():
    older = result()
    del older["results"][0]["first_call_seconds"]
    assert "| 25.0 | – | 1 | – |" in tables({"Some CPU, 2 cores": {"sinusoid": older | {"date": "2026-01-02"}}})


def test_measurements_through_ray_have_a_table_of_their_own():
    one = {"suite": "omniglot", "workers": 2, "ratio": 0.95, "hardware": result()["hardware"]}
    one |= {"ray": {"tasks_per_second": 190.0, "milliseconds": 168.0}}
    one |= {"alone": {"tasks_per_second": 200.0, "milliseconds": 160.0}}
    older = {"date": "2026-01-01", "suites": [one | {"ratio": 0.5}]}
    text = ray_tables([{"date": "2026-01-02", "suites": [one]}, older])
    assert "| omniglot | 2 | 190 | 200 | 0.950 | 8.00 |" in text
    assert "0.500" not in text
    assert ray_tables([]) == ""


def test_others_on_the_machine_are_told():
    assert "other processes used 0.7 cores meanwhile" in plain_table(result(other_cores=0.7))
    assert "other processes" not in plain_table(result(other_cores=0.1))


def test_a_page_is_renewed_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    record.write([result()], tmp_path / "records", AT)
    assert main(["--page", str(page), "--records", str(tmp_path / "records")]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "metaray (trace)" in text
    assert main(["--page", str(page), "--records", str(tmp_path / "records")]) == 0
    assert page.read_text() == text


def test_a_page_without_marks_is_left_as_it_is(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(ValueError, match="expected the marks"):
        renew(page, "text")
    assert page.read_text() == "nothing here"


def test_the_repositorys_page_has_its_marks_and_its_records_are_readable():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "benchmarks.md").read_text()
    assert BEGIN in text
    assert END in text
    for one in record.read_all():
        assert one["schema"] == record.SCHEMA
        assert json.dumps(one, allow_nan=False)

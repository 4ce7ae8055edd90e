"""The metrics file: each metric once per step, whatever was cut short."""

import json

from hypothesis import given
from hypothesis import strategies as st

from cluster.runs.metrics import MetricsLog


def records(path):
    return [(r["step"], r["values"]) for r in map(json.loads, path.read_text().splitlines())]


def test_a_resumed_run_repeats_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write(5, {"a": 1.0})
    log.write(10, {"a": 2.0})
    log.close()
    log = MetricsLog(path)
    log.write(10, {"a": 2.0, "b": 7.0})
    log.write(15, {"a": float("nan")})
    log.close()
    assert records(path) == [(5, {"a": 1.0}), (10, {"a": 2.0}), (10, {"b": 7.0}), (15, {"a": None})]


@given(cut=st.integers(0, 200))
def test_a_cut_file_goes_on_from_its_last_whole_line(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    log = MetricsLog(path)
    for step in (1, 2, 3):
        log.write(step, {"a": float(step)})
    log.close()
    data = path.read_bytes()
    path.write_bytes(data[: cut % (len(data) + 1)])
    log = MetricsLog(path)
    for step in (1, 2, 3, 4):
        log.write(step, {"a": float(step)})
    log.close()
    assert records(path) == [(step, {"a": float(step)}) for step in (1, 2, 3, 4)]

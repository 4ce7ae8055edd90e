"""Tracking without a server: the spool and its lock, names, addresses, what there is to replay, the machine's load."""

import json

import pytest
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from cluster.config.sections import TrackingConfig
from cluster.errors import ConfigError
from cluster.runs.folder import RunFolder, write_json
from cluster.runs.metrics import MetricsLog
from cluster.tracking import spool, tracking_uri
from cluster.tracking.machine import MachineSampler
from cluster.tracking.replay import replay, tracked_folders
from cluster.tracking.sender import acceptable
from cluster.tracking.spool import BATCH, Spool

INFO = {"name": "run", "created": "2026-01-01T00:00:00+00:00", "mlflow_run_id": None}


def make_run(path, name="run.json", **state):
    write_json(path / name, INFO)
    if state:
        write_json(path / "tracking.json", state)
    return RunFolder(path)


@pytest.fixture
def taken(tmp_path):
    """A spool that is held."""
    held = Spool(tmp_path)
    assert held.take()
    yield held
    held.release()


def record(path, steps):
    log = MetricsLog(path)
    for step in steps:
        log.write(step, {"a": step, "b": float("inf")})
    log.close()


def test_what_is_unsent_comes_in_batches_that_are_noted_when_they_are_sent(taken, tmp_path):
    path = tmp_path / "metrics.jsonl"
    record(path, range(BATCH))
    first = next(taken.unsent(path))
    assert len(first) == BATCH
    assert [(one.name, one.value, one.step) for one in first[:2]] == [("a", 0, 0), ("b", None, 0)]
    assert "sent" not in taken.state  # it was not asked for the next one

    batches = list(taken.unsent(path))
    assert [len(batch) for batch in batches] == [BATCH, BATCH]
    assert batches[0] == first
    assert json.loads((tmp_path / "tracking.json").read_text())["sent"] == {"metrics.jsonl": path.stat().st_size}
    assert list(taken.unsent(path)) == []
    record(path, range(BATCH + 1))
    assert [[one.step for one in batch] for batch in taken.unsent(path)] == [[BATCH, BATCH]]


def test_a_line_that_is_being_written_waits(taken, tmp_path):
    path = tmp_path / "metrics.jsonl"
    record(path, range(2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert [len(batch) for batch in taken.unsent(path)] == [2]
    assert list(taken.unsent(path)) == []
    path.write_bytes(whole)
    assert [[one.step for one in batch] for batch in taken.unsent(path)] == [[1, 1]]


def test_a_shorter_file_is_another_one(taken, tmp_path):
    path = tmp_path / "metrics.jsonl"
    record(path, range(5))
    list(taken.unsent(path))
    path.unlink()
    record(path, range(2))
    assert [len(batch) for batch in taken.unsent(path)] == [4]


def test_one_holds_the_spool(taken, tmp_path):
    taken.note(sent={"metrics.jsonl": 7})
    other = Spool(tmp_path)
    assert not other.take()
    assert taken.take()  # it has it
    taken.release()
    assert other.take()
    assert other.state == {"sent": {"metrics.jsonl": 7}}
    assert not taken.take()
    other.release()


def test_a_folder_says_how_its_training_ended(tmp_path):
    folder = make_run(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    spool.note_begin(folder)
    assert folder.info["status"] == "RUNNING"
    killed = spool.ending(folder)  # nothing runs there, and it has not said how it ended
    assert killed.status == "KILLED"
    assert [path.name for path in killed.artifacts] == ["config.yaml", "run.json"]
    (tmp_path / "events.jsonl").write_text("")
    assert [path.name for path in spool.ending(folder).artifacts] == ["config.yaml", "run.json", "events.jsonl"]
    spool.note_end(folder, "FAILED", [tmp_path / "figures"])
    ended = spool.ending(folder)
    assert (ended.status, list(ended.artifacts)) == ("FAILED", [tmp_path / "figures"])
    assert ended.time >= killed.time - 1


@pytest.mark.parametrize(
    "name", ["val/accuracy_5", "top-1 %", "a//b", "/a", "../a", "a/./b", "θ", "x" * 300, "a\nb", "loss(1)", "a:b c"]
)
def test_every_name_becomes_one_that_mlflow_takes(name):
    _validate_metric_name(acceptable(name))
    _validate_param_name(acceptable(name))


def test_where_mlflow_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingConfig()) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env")
    assert tracking_uri(TrackingConfig()) == "http://env"
    assert tracking_uri(TrackingConfig(uri="http://own")) == "http://own"


@pytest.mark.parametrize("description", ["search.json", "compare.json"])
def test_runs_are_found_outermost_first_with_those_they_are_a_part_of(tmp_path, monkeypatch, description):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    trial, oracle = root / "search" / "trials" / "000", root / "run" / "baselines" / "oracle"
    for path in (trial, oracle, root / "run"):
        make_run(path)
    make_run(root / "search", description)
    everything = [root / "run", root / "search", oracle, trial]
    assert [path.absolute() for path in tracked_folders([])] == everything
    assert [path.absolute() for path in tracked_folders(["run"])] == [root / "run", oracle]
    assert tracked_folders([str(trial)]) == [root / "search", trial]
    assert [path.absolute() for path in tracked_folders(["run", str(root)])] == everything
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="expected a run or a folder of runs, received 'empty', which holds none"):
        tracked_folders(["empty"])
    with pytest.raises(ConfigError, match="expected a run's folder or an MLflow run id, received 'none'"):
        tracked_folders(["none"])


def test_a_folder_in_which_nothing_was_begun_is_left_as_it_is(tmp_path):
    make_run(tmp_path)
    [done] = replay([tmp_path])
    assert (done.status, done.sent, done.error) == ("NOT_STARTED", 0, None)
    assert not (tmp_path / "tracking.json").exists()


def test_credentials_have_to_be_given_again(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_run(tmp_path, uri="http://***@127.0.0.1:9", named=False, experiment="metaray", params={})
    [done] = replay([tmp_path])
    assert done.status == "UNSENT"
    assert done.error is not None
    assert "set MLFLOW_TRACKING_URI" in done.error


def test_the_environment_names_the_store_unless_the_configuration_did(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'env.db'}")
    for name, named in (("own", True), ("any", False)):
        uri = f"sqlite:///{tmp_path / name}.db"
        make_run(tmp_path / name, uri=uri, named=named, experiment="metaray", params={})
    done = list(replay([tmp_path / "own", tmp_path / "any"]))
    assert [one.status for one in done] == ["KILLED", "KILLED"]
    assert [path.name for path in sorted(tmp_path.glob("*.db"))] == ["env.db", "own.db"]


def test_the_machine_is_sampled_once_more_at_the_end_and_on_from_the_last_time(tmp_path):
    for _ in range(2):
        sampler = MachineSampler(tmp_path, every=1000)
        sampler.stop()
        sampler.join()
        assert sampler.error is None
    records = [json.loads(line) for line in (tmp_path / "system.jsonl").read_text().splitlines()]
    assert [one["step"] for one in records] == [0, 1]
    assert records[0]["values"]["system/system_memory_usage_percentage"] > 0
    assert {"system/cpu_utilization_percentage", "system/network_receive_megabytes"} <= records[0]["values"].keys()


def test_a_machine_that_cannot_be_sampled_is_no_reason_to_stop(tmp_path):
    sampler = MachineSampler(tmp_path / "absent", every=1000)
    sampler.join()
    assert isinstance(sampler.error, FileNotFoundError)

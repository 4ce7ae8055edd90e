"""A run's folder: found by name, path and MLflow id; free to move; its checkpoints by URI where asked."""

import pytest

from cluster.config.schema import parse
from cluster.errors import ConfigError
from cluster.runs.folder import RunFolder, find
from helpers.folders import make_run
from meta.engine.choice import Choice

RAW = {"task": {"family": "sinusoid"}, "model": {"name": "mlp"}, "outer": {"steps": 10}, "meta_batch": 4}


def config(root):
    return parse(RAW | {"checkpoint": {"root": str(root)}})


def test_a_run_is_found_by_path_name_and_mlflow_id(tmp_path):
    folder = make_run(config(tmp_path), "one", Choice("trace", "", {}))
    folder.update_info(mlflow_run_id="abc123")
    for name in (str(tmp_path / "one"), "one", "abc123"):
        assert find(name, str(tmp_path)).path == folder.path
    with pytest.raises(ConfigError, match="expected a run's folder or an MLflow run id, received 'two'"):
        find("two", str(tmp_path))
    assert find("one", str(tmp_path)).config == config(tmp_path)


def test_a_moved_run_keeps_its_checkpoints(tmp_path):
    folder = make_run(config(tmp_path), "one", Choice("trace", "", {}))
    folder.checkpoints.write("a", b"1")
    moved = RunFolder(folder.path.rename(tmp_path / "elsewhere"))
    assert moved.checkpoints.read("a") == b"1"


def test_checkpoints_go_where_the_uri_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_run(config((tmp_path / "far").as_uri()), "one", Choice("trace", "", {}))
    folder.checkpoints.write("a", b"1")
    assert folder.path.resolve() == tmp_path / "runs" / "one"
    assert (tmp_path / "far" / "one" / "checkpoints" / "a").is_file()

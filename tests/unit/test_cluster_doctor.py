"""``metaray doctor``: each finding says what is there, or what is wrong and what to do."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from cluster.config.schema import parse
from cluster.config.sections import TrackingConfig
from cluster.doctor import machine, services
from cluster.doctor.findings import Finding, examined
from cluster.errors import ConfigError
from meta.engine.native import toolchain


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Finding]:
    """One finding about this machine, by name, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def one(name: str, root: str = "runs") -> Finding:
        return {finding.name: finding for finding in machine.machine(root)}[name]

    return one


def test_this_machine_is_well(look: Callable[..., Finding]) -> None:
    versions = look("versions")
    assert versions.status == "ok", versions.text
    assert f"torch {torch.__version__}" in versions.text
    assert look("runs").text.startswith(str(Path("runs").absolute()))
    assert not Path("runs").exists()  # nothing is made
    assert look("names").status == "ok"


def test_versions_that_are_missing_or_old_are_named(
    look: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["torch>=99", "no-such-package>=1", "jax>=99; extra == 'bench'", "numpy>=1"]
    monkeypatch.setattr(machine, "requires", lambda _: wanted)
    finding = look("versions")
    assert finding.status == "error"
    assert f"torch is {torch.__version__.split('+')[0]}" in finding.text
    assert "no-such-package>=1 is missing" in finding.text
    assert "jax" not in finding.text
    assert "numpy" not in finding.text
    assert "install metaray anew" in finding.text


def test_without_a_compiler_trainings_are_slower(look: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain.compiler.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    finding = look("compiler")
    toolchain.compiler.cache_clear()
    assert finding.status == "warning"
    assert (
        "CXX names 'no-such-compiler', which is not there; without it trainings run on a slower engine" in finding.text
    )


def test_little_memory_and_a_full_disk(look: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    memory = namedtuple("memory", "available total")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(2**30, 4 * 2**30))
    assert look("memory").status == "warning"
    assert look("memory").text.startswith("1.0 of 4.0 GiB available; ")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 3 * 2**20))
    finding = look("runs")
    assert finding.status == "error"
    assert "3 MiB free on its disk; free some, or name another folder" in finding.text


def test_a_folder_that_is_a_file_and_a_scheme_that_is_unknown(look: Callable[..., Finding]) -> None:
    Path("runs").touch()
    finding = look("runs")
    assert (finding.status, "expected a folder to write to" in finding.text) == ("error", True)
    finding = look("runs", root="nowhere://bucket/runs")
    assert (finding.status, "expected a folder or a URI that pyarrow.fs reads" in finding.text) == ("error", True)


def test_packages_of_the_same_name_are_named(look: Callable[..., Finding]) -> None:
    Path("tasks").mkdir()
    Path("tasks/__init__.py").touch()
    Path("meta").mkdir()  # a folder of data shadows nothing
    finding = look("names")
    assert finding.status == "warning"
    assert finding.text.startswith("tasks in this folder have names")


def test_mlflow_is_looked_at_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"
    found = services._mlflow(TrackingConfig(uri=f"sqlite:///{path}"))
    assert found == f"sqlite:///{path}, made by the first run"
    assert not path.exists()
    finding = examined("MLflow", lambda: services._mlflow(TrackingConfig(uri=f"sqlite:///{tmp_path}/none/mlflow.db")))
    assert (finding.status, "expected a folder to make" in finding.text) == ("error", True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    finding = examined("MLflow", lambda: services._mlflow(TrackingConfig()))
    assert finding.status == "error"
    assert "see that it runs" in finding.text
    assert "secret" not in finding.text


def test_the_data_of_a_configuration(tmp_path: Path) -> None:
    raw: dict[str, Any] = {"model": {"name": "mlp"}, "outer": {"steps": 1}, "meta_batch": 1}
    finding = services.data(parse(raw | {"task": {"family": "sinusoid"}}))
    assert (finding.status, finding.text) == ("ok", "task.family sinusoid: needs no data")


def test_sections_without_a_configuration_are_checked() -> None:
    cluster, tracking, root = services.sections(["cluster.workers=2", "tracking.uri=sqlite:///x.db"])
    assert (cluster.workers, tracking.uri, root) == (2, "sqlite:///x.db", "runs")
    with pytest.raises(ConfigError, match=r"cluster.adress: unknown key; did you mean 'address'\?"):
        services.sections(["cluster.adress=x"])

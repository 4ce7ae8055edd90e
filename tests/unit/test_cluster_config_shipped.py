"""Configurations that come with metaray: listed, found by name, from wherever the command runs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.commands.cli import app
from cluster.compare import settings as comparisons
from cluster.config.schema import load, read_yaml
from cluster.config.shipped import FOLDER, command_of, configurations, description, locate
from cluster.errors import ConfigError
from cluster.search import settings as searches
from metaray.running import _config

ROOT = Path(__file__).parents[2]
SECTIONS = {"train": set(), "tune": {"search"}, "compare": {"compare"}}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


def test_every_file_of_the_folder_has_a_name() -> None:
    assert sorted(configurations().values()) == sorted((ROOT / "tune_configs").rglob("*.yaml"))


@pytest.mark.parametrize("name", configurations())
def test_a_file_is_for_the_command_that_it_is_listed_under(name: str) -> None:
    assert {"search", "compare"} & read_yaml(configurations()[name]).keys() == SECTIONS[command_of(name)]
    assert description(configurations()[name]).endswith(".")


def test_the_list(tmp_path: Path) -> None:
    status, output, _ = run("configs", "--json")
    rows = {row["name"]: row for row in json.loads(output)["configurations"]}
    assert status == 0
    assert list(rows) == list(configurations())
    assert rows["search/sinusoid"]["command"] == "tune"
    assert rows["tabular"]["description"].startswith("Small random decision problems")
    status, output, _ = run("configs")
    assert "metaray train sinusoid_demo" in output
    assert str(FOLDER) in output
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sinusoid_demo", "sinusoid_demo.yaml", "tune_configs/sinusoid_demo.yaml"])
def test_a_name_stands_for_its_file_unless_there_is_one_of_that_name(name: str, tmp_path: Path) -> None:
    assert locate(name) == FOLDER / "sinusoid_demo.yaml"
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).mkdir()  # a folder is no configuration
    assert locate(name) == FOLDER / "sinusoid_demo.yaml"
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("seed: 3")
    assert locate(name) == Path(name)


def test_commands_take_names() -> None:
    whole = load(Path("sinusoid_demo"))
    assert whole.outer.steps == 4000
    assert _config("sinusoid_demo", ()) == whole
    status, output, _ = run("config", "show", "sinusoid_demo", "seed=3", "--json")
    shown = json.loads(output)
    assert status == 0
    assert shown["config"]["outer"]["steps"] == 4000
    assert shown["origins"]["outer.steps"] == "file"
    assert searches.load(Path("search/sinusoid")).settings.base == "../sinusoid.yaml"
    assert comparisons.load(Path("compare/sinusoid")).settings.base == "../sinusoid.yaml"


def test_a_search_of_ones_own_names_its_base(tmp_path: Path) -> None:
    text = "search: {base: sinusoid_demo, space: {inner.lr: {loguniform: [0.001, 0.1]}}, metric: val/mse_1, trials: 2}"
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert searches.load(path).base.outer.steps == 4000


@pytest.mark.parametrize(("name", "near"), [("sinusoid_dmeo", "sinusoid_demo"), ("search/sinusiod", "search/sinusoid")])
def test_an_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(Path(name))
    assert f"did you mean '{near}'?" in str(raised.value)
    assert "metaray configs" in str(raised.value)


def test_a_rule_over_a_section_names_the_key_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("search: {base: sinusoid_demo, space: {inner.lr: {loguniform: [0.001, 0.1]}}, metric: val/mse_1}")
    with pytest.raises(ConfigError, match=r"^search\.trials: missing"):
        searches.load(path)


def test_the_version() -> None:
    status, output, _ = run("--version")
    assert (status, output.split()[0]) == (0, "metaray")

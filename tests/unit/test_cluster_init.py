"""``metaray init``: a whole project or none, whose family and model keep their contracts."""

import ast
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from cluster.commands import init as command
from cluster.commands.cli import app


def made(*words: str) -> dict[str, object]:
    result = CliRunner().invoke(app, ["init", *words, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_every_file_is_whole(tmp_path: Path) -> None:
    found = made(str(tmp_path / "My-Lab 2"))
    folder = tmp_path / "My-Lab 2"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"folder": str(folder), "package": "my_lab_2", "files": sorted(files)}
    assert {"config.yaml", "search.yaml", ".gitignore", "my_lab_2/family.py", "tests/test_my_lab_2.py"} <= files
    for path in folder.rglob("*.py"):
        ast.parse(path.read_text())
    for path in folder.rglob("*.y*ml"):
        assert yaml.safe_load(path.read_text())
    assert not any("{{" in (folder / name).read_text() for name in files)
    assert [path.name for path in tmp_path.iterdir()] == ["My-Lab 2"]


def test_editors_check_the_configurations(tmp_path: Path) -> None:
    made(str(tmp_path), "--name", "waves")
    schema = json.loads((tmp_path / "metaray.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for name in ("config.yaml", "search.yaml"):
        text = (tmp_path / name).read_text()
        assert text.startswith("# yaml-language-server: $schema=metaray.schema.json\n")
        assert validator.is_valid(yaml.safe_load(text))
        assert not validator.is_valid(yaml.safe_load(text) | {"seed": "x"})


def test_an_empty_folder_is_taken_and_a_name_given(tmp_path: Path) -> None:
    assert made(str(tmp_path), "--name", "waves")["package"] == "waves"
    assert (tmp_path / "waves" / "model.py").exists()


@pytest.mark.parametrize("name", ["3x", "tasks", "meta", "cluster", "json", "torch", "tests", "class", "a-b"])
def test_names_that_cannot_be_imported_are_refused(tmp_path: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path / "lab"), "--name", name])
    assert result.exit_code == 2
    assert "expected a name for a Python package" in result.stderr
    assert not any(tmp_path.iterdir())


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "notes.txt").write_text("mine")
    result = CliRunner().invoke(app, ["init", str(tmp_path / "lab")])
    assert result.exit_code == 2
    assert "is empty" in result.stderr
    assert [path.name for path in (tmp_path / "lab").iterdir()] == ["notes.txt"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.FILES, "README.md", "README.md/README.md")
    monkeypatch.setitem(command.FILES, "config.yaml", "README.md")
    with pytest.raises(OSError, match="README"):
        command.write(tmp_path / "lab", "lab")
    assert not any(tmp_path.iterdir())

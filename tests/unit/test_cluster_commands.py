"""The command line as a whole: help comes at once, and every command has words."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cluster.commands.cli import app

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "ray",
    "mlflow",
    "matplotlib",
    "starlette",
    "jinja2",
    "yaml",
)
GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["data", "prepare", "--help"], ["--version"]])
def test_help_loads_nothing_that_takes_time(words: list[str]) -> None:
    script = (
        "import sys\nfrom cluster.commands.cli import main\nsys.argv[1:] = " + repr(words) + "\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout.strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert GROUP.commands[name].help or GROUP.commands[name].get_short_help_str()  # type: ignore[attr-defined]

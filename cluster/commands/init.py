"""``metaray init``: a folder with a family, a model, a configuration and tests of one's own, that trains at once."""

import json
import keyword
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.console import AsJson, Debug, print_json, print_lines, reports_errors
from cluster.errors import ConfigError
from cluster.own_packages import NAMES

# Where each template goes, {name} being the project's package.
FILES = {
    "README.md": "README.md",
    "config.yaml": "config.yaml",
    "search.yaml": "search.yaml",
    "gitignore": ".gitignore",
    "family.py": "{name}/family.py",
    "model.py": "{name}/model.py",
    "test_project.py": "tests/test_{name}.py",
    "tests.yml": ".github/workflows/tests.yml",
}
SCHEMA = "metaray.schema.json"  # what editors complete and check the YAML files by, which name it


@reports_errors
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet, or is empty.")],
    name: Annotated[str, typer.Option(help="Of the Python package in it [the folder's name].")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a project: family, model, configuration, search, tests, and a file for continuous integration."""
    del debug
    folder = folder.absolute()
    package = name or re.sub(r"\W+", "_", folder.name).lower()
    _require_name(package, name or folder.name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"expected a folder that is not there yet or is empty, received '{folder}'")
    written = write(folder, package)
    if as_json:
        print_json({"folder": str(folder), "package": package, "files": written})
    else:
        print_lines({"project": folder, "package": package, "next": f"cd {folder}; metaray train config.yaml"})


def _require_name(package: str, name: str) -> None:
    """Check that Python can import a package of this name, and that it shadows none.

    Raises:
        ConfigError: if it cannot, or it does.
    """
    taken = {*NAMES} | sys.stdlib_module_names | {"metaray", "ray", "mlflow", "torch", "numpy", "tests"}
    if not package.isidentifier() or keyword.iskeyword(package) or package in taken:
        raise ConfigError(
            f"--name: expected a name for a Python package that no other package has, such as my_project, received "
            f"'{name}'"
        )


def write(folder: Path, package: str) -> list[str]:
    """Write a project; whatever fails, the folder is whole or as it was.

    Args:
        folder: where to; absent or empty.
        package: name of its Python package.

    Returns:
        The files' paths, relative to the folder.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from cluster.config.json_schema import json_schema

    loader = PackageLoader("cluster", "templates/project")
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    texts = {
        path.format(name=package): environment.get_template(f"{template}.j2").render(name=package)
        for template, path in FILES.items()
    }
    texts |= {f"{package}/__init__.py": "", SCHEMA: json.dumps(json_schema(), ensure_ascii=False) + "\n"}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
        made = Path(parent, folder.name)
        for path, text in texts.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(text, encoding="utf-8")
        made.replace(folder)
    return sorted(texts)

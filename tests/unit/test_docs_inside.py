"""docs/inside.md names modules and what they define; each name is looked up in the sources."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "inside.md"
# `dir/file.py`, `dir/file.py:Class.method`, or a folder `dir/`.
MENTION = re.compile(r"`((?:\w+/)+(?:\w+\.py)?)(?::([\w.]+))?`")
MENTIONS = sorted(set(MENTION.findall(PAGE.read_text(encoding="utf-8"))))
WALKS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


def defined(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """Names of the functions, classes, their members and the variables in a module's or a class's body."""
    found = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            found |= defined(node.body, f"{prefix}{node.name}.")
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_the_page_names_modules():
    assert len([path for path, name in MENTIONS if name]) > 50


@pytest.mark.parametrize(("path", "name"), MENTIONS, ids=lambda part: part)
def test_what_the_page_names_is_there(path, name):
    assert (ROOT / path).exists()
    if name:
        assert name in defined(ast.parse((ROOT / path).read_text(encoding="utf-8")).body)


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.splitlines()[0])
def test_a_walk_names_each_module_once(walk):
    paths = [path for path, _ in MENTION.findall(walk) if path.endswith(".py")]
    assert sorted(paths) == sorted(set(paths))


def test_links_of_the_page_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (PAGE.parent / link).exists(), link

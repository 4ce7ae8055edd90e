"""How much of the public interface is documented, by package.

Prints how many functions describe their arguments, and fails if a public name of the packages that users write against
has no docstring.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# `metaray` and the contracts of extensions: the pages of the API reference.
PUBLIC = (
    "metaray",
    "meta/episode.py",
    "meta/context.py",
    "meta/checker.py",
    "meta/schedules.py",
    "meta/models",
    "meta/objectives",
    "meta/algorithms",
    "meta/inner",
    "tasks/family.py",
    "tasks/checker.py",
    "tasks/environments/contract.py",
)


def counts(package: Path) -> tuple[int, int, int]:
    """Public functions and methods with a docstring, with two arguments or more, and of those with ``Args:``."""
    documented = several = with_args = 0
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                text = ast.get_docstring(node) or ""
                arguments = [
                    one.arg for one in (*node.args.args, *node.args.kwonlyargs) if one.arg not in ("self", "cls")
                ]
                documented += bool(text)
                several += len(arguments) > 1
                with_args += len(arguments) > 1 and "Args:" in text
    return documented, several, with_args


def names(path: Path) -> Iterator[tuple[str, bool]]:
    """The public names of a module, classes and their members included, each with whether it has a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield path.relative_to(ROOT).as_posix(), ast.get_docstring(tree) is not None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{path.stem}.{node.name}", ast.get_docstring(node) is not None
            for member in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    yield f"{path.stem}.{node.name}.{member.name}", ast.get_docstring(member) is not None


def public() -> list[tuple[str, bool]]:
    """The public names of all modules in ``PUBLIC``."""
    places = [ROOT / place for place in PUBLIC]
    modules = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    return [name for path in modules for name in names(path)]


if __name__ == "__main__":
    for package in ("meta", "tasks", "cluster", "metaray"):
        documented, several, with_args = counts(ROOT / package)
        print(
            f"{package}: {documented} documented functions; {with_args} of {several} with two arguments or more "
            "describe them"
        )
    without = [name for name, documented in public() if not documented]
    print(f"metaray and the contracts: {len(public())} public names, {len(without)} without docstring")
    if without:
        sys.exit("error: expected a docstring of each public name, without one: " + ", ".join(without))

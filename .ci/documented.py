"""How much of the public interface documents its arguments, by package; printed, not enforced."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


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


for name in ("meta", "tasks", "cluster", "metaray"):
    documented, several, with_args = counts(ROOT / name)
    print(
        f"{name}: {documented} documented functions; {with_args} of {several} with two arguments or more describe them"
    )

"""The import of metaray's own packages, whatever the working directory holds.

A folder of the user's called ``tasks`` or ``meta`` would otherwise stand in for the package of that name.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

HOME = str(Path(__file__).resolve().parents[1])
NAMES = ("benchmarks", "cluster", "meta", "metaray", "tasks")


class _OwnPackages:
    """Finds metaray's top-level packages where metaray is, before anything else on the path."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The package, if ``name`` is one of metaray's."""
        del target
        return PathFinder.find_spec(name, [HOME]) if path is None and name in NAMES else None


def put_first() -> None:
    """Let this process import metaray's own packages before any of the same name."""
    if _OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, _OwnPackages)


def require_own() -> None:
    """Check that no package of another's has been imported under a name of metaray's.

    Raises:
        ImportError: naming it, and what to do.
    """
    for name in NAMES:
        place = getattr(sys.modules.get(name), "__file__", None)
        if place is not None and not Path(place).resolve().is_relative_to(HOME):
            raise ImportError(
                f"expected metaray's own package '{name}', received '{place}', which was imported before; rename it, "
                f"to my_{name} for one"
            )

"""metaray's own packages come first: a folder of the user's with the name of one of them does not stand in for it."""

from collections.abc import Callable
from pathlib import Path

HOME = str(Path(__file__).resolve().parents[1])


def _import_first(home: str = HOME) -> None:
    """Find metaray's top-level packages where metaray is, whatever else is on the path.

    Everything that it needs is inside, so that it can be sent to a process that has imported nothing of metaray's yet.
    ``home`` is where metaray is on the machine that sends it; elsewhere it is searched on the path.
    """
    import sys
    from importlib.machinery import ModuleSpec, PathFinder
    from pathlib import Path

    names = ("benchmarks", "cluster", "meta", "tasks")
    homes = (place for place in (home, *sys.path) if Path(place, "cluster", "own_packages.py").is_file())
    found = next(homes, "")
    if not found or any(getattr(one, "metaray", False) for one in sys.meta_path):
        return

    class OwnPackages:
        metaray = True

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            del target
            return PathFinder.find_spec(name, [found]) if path is None and name in names else None

    sys.meta_path.insert(0, OwnPackages)


def put_first() -> None:
    """Let this process find metaray's own packages before any of the same name."""
    _import_first()


def for_workers() -> Callable[[], None]:
    """What a Ray worker has to call before it imports anything of metaray's, sent as it stands and not by its name."""
    _import_first.__module__ = "__main__"  # which cloudpickle never imports from
    return _import_first

"""A comparison's folder: where it lies, and how it is found again."""

from pathlib import Path

from cluster.compare.settings import Comparison, reload, require_same
from cluster.errors import ConfigError
from cluster.runs.folder import beginning, new_name, require_name
from cluster.search.folder import shared_place
from cluster.search.trials import TrialsFolder

INFO = "compare.json"
SETTINGS = "compare.yaml"


class CompareFolder(TrialsFolder):
    """``compare.yaml``, ``compare.json``, ``metrics.jsonl``, ``trials/NNN/`` (a run's folder each), ``figures/``."""

    noun = "comparison"
    description = INFO
    settings_file = SETTINGS
    page_file = "compare.html"


def plan(comparison: Comparison, name: str) -> CompareFolder:
    """A comparison's folder that is not made yet, under ``checkpoint.root`` where that is a folder.

    Args:
        comparison: the comparison.
        name: of the folder.
    """
    return CompareFolder(shared_place(comparison.base, name), beginning(name))


def plan_named(comparison: Comparison, name: str) -> CompareFolder:
    """The folder of the comparison of a name, begun before under the same settings, or planned.

    Args:
        comparison: the comparison.
        name: of the folder.

    Raises:
        ConfigError: if the name is none for a folder, or the comparison there is of other settings.
    """
    require_name(name)
    folder = CompareFolder(shared_place(comparison.base, name))
    if not (folder.path / INFO).is_file():
        return plan(comparison, name)
    require_same(reload(folder.path / SETTINGS), comparison)
    return folder


def named_or_new(comparison: Comparison, name: str | None, stem: str) -> CompareFolder:
    """The folder of the comparison of a name, or of a new one.

    Args:
        comparison: the comparison.
        name: of the folder; None: it gets a new one.
        stem: in a new name, between its kind and the time.

    Raises:
        ConfigError: as :func:`plan_named` does.
    """
    return plan(comparison, new_name(f"compare-{stem}")) if name is None else plan_named(comparison, name)


def find(comparison: str, root: str = "runs") -> CompareFolder:
    """The folder of a comparison given by its path or its name under ``root``.

    Args:
        comparison: path or name.
        root: folder in which names are looked up.

    Raises:
        ConfigError: if there is no such comparison.
    """
    for path in (Path(comparison), Path(root) / comparison):
        if (path / INFO).is_file():
            return CompareFolder(path.absolute())
    raise ConfigError(
        f"expected a comparison's folder, received '{comparison}'; comparisons are in the folder '{root}/'"
    )

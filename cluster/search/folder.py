"""A search's folder: where it lies, and how it is found again."""

from pathlib import Path

from cluster.config.schema import Config
from cluster.errors import ConfigError
from cluster.runs.folder import beginning, new_name, place, require_name
from cluster.runs.lasting import in_job
from cluster.search.settings import Search, reload, require_same
from cluster.search.trials import TrialsFolder

INFO = "search.json"


class SearchFolder(TrialsFolder):
    """``search.yaml``, ``search.json``, ``metrics.jsonl``, ``trials/NNN/`` (a run's folder each), ``figures/``."""

    noun = "search"
    description = INFO
    settings_file = "search.yaml"
    page_file = "search.html"


def plan(search: Search, name: str) -> SearchFolder:
    """A search's folder that is not made yet, under ``checkpoint.root`` where that is a folder.

    Args:
        search: the search.
        name: of the folder.
    """
    return SearchFolder(shared_place(search.base, name), beginning(name))


def plan_named(search: Search, name: str) -> SearchFolder:
    """The folder of the search of a name, begun before under the same settings, or planned.

    Args:
        search: the search.
        name: of the folder.

    Raises:
        ConfigError: if the name is none for a folder, or the search there is of other settings.
    """
    require_name(name)
    folder = SearchFolder(shared_place(search.base, name))
    if not (folder.path / INFO).is_file():
        return plan(search, name)
    require_same(reload(folder.path / "search.yaml"), search)
    return folder


def named_or_new(search: Search, name: str | None, stem: str) -> SearchFolder:
    """The folder of the search of a name, or of a new one.

    Args:
        search: the search.
        name: of the folder; None: it gets a new one.
        stem: in a new name, between its kind and the time.

    Raises:
        ConfigError: as :func:`plan_named` does.
    """
    return plan(search, new_name(f"search-{stem}")) if name is None else plan_named(search, name)


def shared_place(base: Config, name: str) -> Path:
    """Path of the folder of a search or a comparison, which every machine that runs a trial has to see.

    Args:
        base: the base configuration, whose ``checkpoint.root`` it lies under.
        name: of the folder.

    Raises:
        ConfigError: if the folder would be gone with the Ray job that makes it.
    """
    path = place(base, name)
    if in_job() and not path.is_absolute():
        raise ConfigError(
            "checkpoint.root: expected a folder that all nodes share, such as /shared/runs, received "
            f"'{base.checkpoint.root}': the files beside the trials are in no URI, and the job's folder goes with it"
        )
    return path.absolute()


def find(search: str, root: str = "runs") -> SearchFolder:
    """The folder of a search given by its path or its name under ``root``.

    Args:
        search: path or name.
        root: folder in which names are looked up.

    Raises:
        ConfigError: if there is no such search.
    """
    for path in (Path(search), Path(root) / search):
        if (path / INFO).is_file():
            return SearchFolder(path.absolute())
    raise ConfigError(f"expected a search's folder, received '{search}'; searches are in the folder '{root}/'")

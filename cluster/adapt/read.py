"""Which reader takes the files of a task: by a folder, or by the ending of the support's name."""

from cluster.adapt.arrays import ARRAYS, arrays_task
from cluster.adapt.pictures import pictures_task
from cluster.adapt.tables import table_task
from cluster.adapt.task import Sources, Task
from cluster.errors import ConfigError
from cluster.registry.adapting import Adaptable
from cluster.registry.models import AdaptableModel
from tasks.data.tables.read import CSV, PARQUET


def read_task(model: Adaptable, sources: Sources) -> Task:
    """The task in some files.

    Args:
        model: what is adapted to it.
        sources: the files.

    Raises:
        ConfigError: if a file is missing, or of a form that the model does not take.
        ValueError: saying what is wrong with a file.
    """
    for option, path in (("--support", sources.support), ("--query", sources.query)):
        if path is not None and not path.exists():
            raise ConfigError(f"{option}: expected a file or folder at '{path}', found none")
    support = sources.support
    if support.name.lower().endswith(ARRAYS):
        return arrays_task(model, sources)
    if not isinstance(model, AdaptableModel):
        raise ConfigError(
            f"--support: expected a file {' or '.join(ARRAYS)} for a model of RL tasks, received '{support}'; its "
            "trajectories are arrays (docs/registry.md)"
        )
    if sources.query is None:
        raise ConfigError("--query: expected a file or folder beside --support, received none; name the queries")
    if support.is_dir():
        return pictures_task(model, sources, sources.query)
    if support.name.lower().endswith((*CSV, *PARQUET)):
        return table_task(model, sources, sources.query)
    raise ConfigError(f"--support: expected {_forms(model)}, received '{support}'; convert it, or rename it")


def _forms(model: AdaptableModel) -> str:
    """The forms of files that a model takes, in words."""
    own = "a folder of class folders" if model.images else f"a table ({', '.join((*CSV, *PARQUET))})"
    return f"{own} or arrays ({', '.join(ARRAYS)})"

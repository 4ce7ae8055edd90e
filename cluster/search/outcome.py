"""The end of a search: its figures, and the best trial as a registered model."""

from typing import Any

from cluster.errors import MetarayError
from cluster.registry.register import register
from cluster.search.ranking import Result


def outcome(result: Result) -> dict[str, Any]:
    """The keys that ``metaray tune --json`` prints; registers the best trial where ``search.register_as`` says so.

    Args:
        result: the ranked trials.

    Raises:
        MetarayError: if the best trial could not be registered, with the command that does it.
    """
    plain = result.as_json() | {"figures": [str(path) for path in result.figures]}
    name, alias = result.search.settings.register_as, result.search.settings.alias
    if name is None:
        return plain
    best = result.folder.run(result.best.number)
    try:
        return plain | {"registered": register(best, name, alias=alias).as_json()}
    except MetarayError as error:
        raise MetarayError(
            f"the search is done (see {result.folder.path}), but its best trial could not be registered: {error}. "
            f"Register it with: metaray register {best.path} --name {name}" + (f" --alias {alias}" if alias else "")
        ) from error

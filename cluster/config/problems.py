"""Errors of pydantic as lines for the user."""

from collections.abc import Callable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from cluster.config.components import nearest


def problems(
    error: ValidationError, model: type[BaseModel], prefix: str = "", shown: Callable[[Any], str] = repr
) -> list[str]:
    """One line per problem: key, expected, received, and for an unknown key the nearest valid one.

    Args:
        error: raised when values were checked.
        model: the model that they were checked by.
        prefix: dotted key of the section that the model is, with a dot at the end.
        shown: writes what was received.
    """
    lines = []
    for item in error.errors(include_url=False):
        path = [str(part) for part in item["loc"]]
        key = prefix + ".".join(path)
        if item["type"] == "extra_forbidden":
            siblings = _keys(model, path[:-1])
            lines.append(f"{key}: unknown key{nearest(path[-1], siblings)} (valid: {', '.join(siblings)})")
        elif item["type"] == "missing":
            lines.append(f"{key}: missing; give it a value")
        elif item["type"] == "value_error":
            # A rule over a whole section names the key itself.
            separator = "" if not path else "." if _keys(model, path) else ": "
            lines.append(f"{key}{separator}{item['ctx']['error']}")
        elif item["type"] in ("too_short", "too_long"):
            bound, name = ("at least", "min_length") if item["type"] == "too_short" else ("at most", "max_length")
            items = "item" if (count := item["ctx"][name]) == 1 else "items"
            lines.append(f"{key}: expected {bound} {count} {items}, received {len(item['input'])}")
        else:
            expected = "an object" if item["type"] == "model_type" else item["msg"].removeprefix("Input should be ")
            lines.append(f"{key}: expected {expected}, received {shown(item['input'])}")
    return lines


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The valid keys of the section that ``path`` leads to."""
    for part in path:
        kind = model.model_fields[part].annotation if part in model.model_fields else None
        models = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)

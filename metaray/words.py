"""Changes to a configuration as keyword arguments, turned into the words ``section.key=value`` of the command line.

Classes become import paths, and objects of dataclasses their class with their fields as keys, so that what is stored
beside a run is plain text that loads anywhere.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cluster.config.overrides import NAMING, SHORTHANDS
from cluster.errors import ConfigError

MAIN = "__main__"  # the module of a notebook and of a script: no other process can import classes from it
NAMES = {key.rpartition(".")[0]: key.rpartition(".")[2] for key in NAMING}  # section -> its key that names a class


def words(changes: Mapping[str, Any]) -> list[str]:
    """The words for changes by section or dotted key.

    Args:
        changes: values by key; a mapping is a section whose keys are changed one by one.

    Raises:
        ConfigError: naming a value that no configuration holds.

    >>> words({"inner": {"lr": 0.02}, "outer.steps": 100, "algorithm": "fomaml"})
    ['inner.lr=0.02', 'outer.steps=100', 'algorithm="fomaml"']
    """
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in _pairs(changes, "")]


def _pairs(changes: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in changes.items():
        if not isinstance(name, str):
            raise ConfigError(f"{prefix}{name}: expected keys that are texts, received {type(name).__name__}")
        key = prefix + name
        value = _section(key, value)
        # Keys with dots, as those of a search's space, are names and not sections.
        if isinstance(value, Mapping) and value and not any("." in str(inner) for inner in value):
            yield from _pairs(value, f"{key}.")
        else:
            yield key, _plain(key, value)


def _section(key: str, value: Any) -> Any:
    """A class, or an object of a dataclass, as the section that names it."""
    if isinstance(value, type):
        path, own = import_path(key, value), NAMES.get(key)
        return {own: path} if own is not None and key not in SHORTHANDS else path
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = NAMES.get(key)
        if own is None:
            raise ConfigError(f"{key}: expected a plain value, received an object of {type(value).__name__}")
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return {own: import_path(key, type(value)), **fields}
    if isinstance(value, nn.Module):
        raise ConfigError(
            f"{key}: expected a class of modules, which every worker constructs anew, received an object of "
            f"{type(value).__name__}; pass {key}={type(value).__name__}, or {key}={{'name': {type(value).__name__}, "
            "…its arguments}; metaray.meta_gradient takes modules as they are"
        )
    return value


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, type):
        return import_path(key, value)
    if isinstance(value, Mapping):
        return {str(name): _plain(f"{key}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{key}[{number}]", inner) for number, inner in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"{key}: expected a number, a text, a truth value, a list, a mapping or a class, received "
        f"{type(value).__name__}; convert it first"
    )


def import_path(key: str, cls: type[Any]) -> str:
    """The import path ``module:Name`` of a class.

    Args:
        key: of the configuration, for messages.
        cls: the class.

    Raises:
        ConfigError: if it cannot be imported by one.
    """
    name = cls.__qualname__
    if "." in name or getattr(sys.modules.get(cls.__module__), name, None) is not cls:
        raise ConfigError(
            f"{key}: expected a class that can be imported by its name, received {cls.__module__}.{name}, which is "
            "defined inside a function or another class, or has been replaced by another of its name; define it at "
            "the top level of a module or a notebook's cell"
        )
    return f"{cls.__module__}:{name}"


def names_in_main(plain: Any) -> list[str]:
    """Names of the classes of this notebook or script that a configuration names.

    Args:
        plain: nested plain values.

    >>> names_in_main({"model": {"name": "__main__:Net"}, "task": {"family": "sinusoid"}})
    ['Net']
    """
    if isinstance(plain, str):
        module, _, name = plain.partition(":")
        return [name] if module == MAIN and name else []
    parts = plain.values() if isinstance(plain, Mapping) else plain if isinstance(plain, list | tuple) else ()
    return sorted({name for part in parts for name in names_in_main(part)})

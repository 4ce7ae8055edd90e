"""Trust in classes that a registered model's configuration names: metaray's own, and packages that the loader trusts.

Loading a model imports the classes that its configuration names. Whoever can write to a registry could otherwise have
any module of the loading machine imported, and any class constructed.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.components import BUILT_IN, resolve
from cluster.config.overrides import SHORTHANDS
from cluster.config.schema import read_yaml
from cluster.errors import ConfigError, MetarayError

VARIABLE = "METARAY_TRUST"  # packages, separated by commas, for processes that take no option
# What models, algorithms, families and optimizers of metaray itself are in, and are made of.
OWN = ("meta", "tasks", "torch.nn", "torch.optim")
# Sections without classes; the others may name one in any value.
_PLAIN_SECTIONS = frozenset({"tracking", "checkpoint", "cluster"})
NOT_ADAPTING = ("task", "eval", "outer")
# What a ":" in them is for is known.
_CLASSES = frozenset(
    {"task.family", "model.name", "eval.baselines", "eval.scores", *SHORTHANDS, *(f"{key}.name" for key in SHORTHANDS)}
)
# Anything that an import could be made of: a module's file may be called my-module.py.
_IMPORT_PATH = re.compile(r"(?P<module>[^\W\d][^\s:/]*):[^\s:/][^\s:]*")
_PACKAGE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


class TrustError(ConfigError):
    """A registered model that names a class of a package which the loader was not told to trust."""


def trusted_packages(given: Sequence[str] = ()) -> tuple[str, ...]:
    """The packages given and those that the environment names.

    Raises:
        ConfigError: if one is no package's name.
    """
    names = [*given, *filter(None, (name.strip() for name in os.environ.get(VARIABLE, "").split(",")))]
    for name in names:
        if _PACKAGE.fullmatch(name) is None:
            raise ConfigError(f"--trust, {VARIABLE}: expected the name of a package, my_package, received '{name}'")
    return tuple(dict.fromkeys(names))


def named_packages(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Top-level packages, other than metaray's own, of the classes that a configuration names."""
    names = (module.partition(".")[0] for _, module, _ in _named(raw) if not _is_of(module, OWN))
    return tuple(dict.fromkeys(names))


def _is_of(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def require_trusted(path: Path, trusted: Sequence[str], *, adapting: bool = False) -> None:
    """Check the configuration in a registered model's folder before anything that it names is imported.

    Args:
        path: the folder.
        trusted: packages; their subpackages are trusted too.
        adapting: whether the model is loaded to adapt alone; its family, baselines and optimizer are not imported then.

    Raises:
        TrustError: naming the key, the class and the option.
    """
    raw = read_yaml(path / "config.yaml")
    for key, module, name in _named({key: raw[key] for key in raw if not (adapting and key in NOT_ADAPTING)}):
        if not _is_of(module, (*OWN, *trusted)):
            raise _error(key, name, module.partition(".")[0])
        if _is_of(module, OWN):
            _require_own_class(key, name, trusted)


def _require_own_class(key: str, name: str, trusted: Sequence[str]) -> None:
    """Raise an error if a module of metaray's leads, by an import of its own, to a class that is not metaray's."""
    kind = next((kind for kind in (key, f"{key}.name", key.removesuffix(".name")) if kind in BUILT_IN), "model.name")
    try:
        module = resolve(kind, name.strip()).__module__
    except MetarayError:
        return  # whoever builds it says what is wrong
    if not _is_of(module, (*OWN, *trusted)):
        raise _error(key, name, module.partition(".")[0])


def _error(key: str, name: str, package: str) -> TrustError:
    return TrustError(
        f"{key}: expected a class of metaray or of a package that you trust, the registered model names '{name}'; if "
        f"you know who registered it and what is in '{package}', add --trust {package}, or set {VARIABLE}={package}"
    )


def _named(raw: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, module and text of every import path in a configuration."""
    for section, value in raw.items():
        if section not in _PLAIN_SECTIONS:
            yield from _within(section, value)


def _within(key: str, value: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, str):
        if _IMPORT_PATH.fullmatch(value.strip()) or (key in _CLASSES and ":" in value):
            yield key, value.partition(":")[0].strip(), value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _within(f"{key}.{name}", inner)
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _within(key, inner)

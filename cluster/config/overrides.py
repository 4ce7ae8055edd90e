"""Overrides: values at dotted keys, laid over the plain contents of a configuration file."""

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from cluster.config import strict_yaml
from cluster.config.components import BUILT_IN, parameters, resolve
from cluster.config.outer import GIVEN_TO_OPTIMIZERS
from cluster.config.sections import STARTING
from cluster.errors import ConfigError

GIVEN_TO_MODELS = frozenset({"inputs", "outputs"})
GIVEN_TO_ALGORITHMS = frozenset(
    {"model", "objective", "inner", "classes", "horizon", "estimator", "outer_estimator", "clip", "kl_penalty"}
)
# Keys that name a class, the rest of whose section are its parameters, and those of these that are not given there.
NAMING = {
    "task.family": frozenset[str](),
    "model.name": GIVEN_TO_MODELS,
    "algorithm.name": GIVEN_TO_ALGORITHMS,
    "objective.name": frozenset[str](),
    "inner.rule.name": frozenset[str](),
    "inner.derivative.name": frozenset[str](),
    "outer.optimizer.name": GIVEN_TO_OPTIMIZERS,
    "outer.schedule.name": frozenset[str](),
}
# Sections for which their key ``name`` may stand alone.
SHORTHANDS = ("algorithm", "objective", "inner.rule", "inner.derivative", "outer.optimizer", "outer.schedule")


def is_override(text: str) -> bool:
    """Whether a word of the command line is an override rather than a file's name.

    >>> is_override("task.root=a/b"), is_override("tune_configs/sinusoid.yaml"), is_override("runs/a=b/config.yaml")
    (True, False, False)
    """
    return re.match(r"[A-Za-z_][\w.]*=", text) is not None


def with_overrides(raw: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``raw`` with ``section.key=value`` texts applied; values are read as YAML.

    Args:
        raw: nested plain values, left as they are.
        overrides: words ``section.key=value``, applied in turn.

    >>> with_overrides({"inner": {"lr": 0.01}}, ["inner.lr=0.1", "seed=3"])
    {'inner': {'lr': 0.1}, 'seed': 3}
    """
    values: dict[str, Any] = {}
    for text in overrides:
        dotted, equals, value = text.partition("=")
        if not equals or not dotted:
            raise ConfigError(f"expected an override of the form section.key=value, received '{text}'")
        try:
            values[dotted] = strict_yaml.read(value)
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or str(error)
            raise ConfigError(f"{dotted}: expected a YAML value, received '{value}': {reason}") from error
    return with_changes(raw, values)


def with_changes(raw: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``raw`` with values set at dotted keys, without what another class named there does not take.

    Args:
        raw: nested plain values, left as they are.
        values: plain values by dotted key.
    """
    return with_values(_for_other_classes(raw, values), values)


def _for_other_classes(raw: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` without what a class that ``values`` names for a section does not take."""
    result = copy.deepcopy(raw)
    for key, supplied in NAMING.items():
        *path, own = key.split(".")
        section: Any = result
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        name = values.get(key)
        if not isinstance(section, dict) or not isinstance(name, str) or name == section.get(own):
            continue
        try:
            known = parameters(resolve(key if key in BUILT_IN else path[-1], name), supplied).model_fields
        except ConfigError:
            continue  # the check of the whole says what is wrong with the name
        for other in section.keys() - known.keys() - {own, "groups", *STARTING}:
            del section[other]
    return result


def with_values(raw: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``raw`` with values set at dotted keys.

    Args:
        raw: nested plain values, left as they are.
        values: plain values by dotted key.

    >>> with_values({"inner": {"lr": 0.01}}, {"inner.lr": 0.1, "seed": 3})
    {'inner': {'lr': 0.1}, 'seed': 3}
    >>> with_values({"outer": {"optimizer": "sgd"}}, {"outer.optimizer.momentum": 0.9})
    {'outer': {'optimizer': {'name': 'sgd', 'momentum': 0.9}}}
    """
    result = copy.deepcopy(raw)
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        target = result
        for depth, section in enumerate(sections, start=1):
            if isinstance(target.get(section), str) and ".".join(sections[:depth]) in SHORTHANDS:
                target[section] = {"name": target[section]}
            if target.get(section) is None:  # left out, or null
                target[section] = {}
            target = target[section]
            if not isinstance(target, dict):
                raise ConfigError(f"{dotted}: '{section}' is a value, not a section")
        target[key] = value
    return result

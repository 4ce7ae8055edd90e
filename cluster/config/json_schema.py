"""The configuration as a JSON schema, for editors that complete and check YAML while it is written.

It says what :func:`cluster.config.schema.parse` checks, as far as JSON Schema can: sections, keys, types, ranges, and
for built-in classes the keys of their own. Classes of the user's own, by import path, may have any keys.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel

from cluster.config.components import BUILT_IN, parameters, resolve
from cluster.config.meanings import meanings, plain
from cluster.config.outer import OPTIMIZER, optimizer_class
from cluster.config.overrides import NAMING, SHORTHANDS
from cluster.config.schema import Config
from cluster.config.sections import STARTING
from cluster.errors import ConfigError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
IMPORT_PATH = {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"}
EXTRA = ("groups", *STARTING)  # keys of a naming section that are no arguments of its class
WHOLE = ("task", "model", "outer", "meta_batch")
WHOLE_SECTIONS = {"task": "family", "model": "name", "outer": "steps"}  # sections and the key that each must have


def json_schema() -> dict[str, Any]:
    """The schema of a configuration file, of a search and of a comparison, as plain values."""
    schema = _plain(Config)
    for key, supplied in NAMING.items():
        *path, own = key.split(".")
        _set(schema, path, _named_section(path, own, supplied, _get(schema, path)))
    for section, kind in (("search", "search"), ("compare", "comparison")):
        text = f"Of the file of a {kind}, which may take the other sections from its base."
        schema["properties"][section] = {"type": "object", "description": text}
    schema.pop("required")
    # The sections of a search or a comparison change those of its base; a configuration's own are whole.
    for section in WHOLE_SECTIONS:
        schema["properties"][section].pop("required", None)
    whole = {name: {"required": [key]} for name, key in WHOLE_SECTIONS.items()}
    schema["anyOf"] = [
        {"required": list(WHOLE), "properties": whole},
        {"required": ["search"]},
        {"required": ["compare"]},
    ]
    return {"$schema": DIALECT, "title": "A metaray configuration", **schema}


def _named_section(path: list[str], own: str, supplied: frozenset[str], section: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a section that names a class, whose further keys are the class's own."""
    key = ".".join(path)
    table = BUILT_IN.get(f"{key}.{own}", BUILT_IN.get(key, {}))
    names = sorted({*table, *(BUILT_IN["algorithm of policies"] if key == "algorithm" else ())})
    names = [known for known in names if key != OPTIMIZER or _steps_along_gradients(known)]
    name = {"anyOf": [{"enum": names}, IMPORT_PATH]}
    fixed = {other: value for other, value in section.get("properties", {}).items() if other in EXTRA}
    result: dict[str, Any] = {
        "type": "object",
        "properties": {own: name, **fixed},
        "allOf": [_where(own, known, fixed, _keys(key, own, known, supplied)) for known in names],
    }
    whole = next((part for part in (section, *section.get("anyOf", ())) if "properties" in part), section)
    own_key = whole.get("properties", {}).get(own, {})
    result["properties"][own] = name | {key: own_key[key] for key in ("default", "description") if key in own_key}
    if "default" not in own_key:
        result["required"] = [own]
    null = [{"type": "null"}] if section.get("default", "") is None else []  # a section that may be left out
    about = {key: section[key] for key in ("default", "description") if key in section}
    return about | ({"anyOf": [name, result, *null]} if key in SHORTHANDS else result)


def _steps_along_gradients(name: str) -> bool:
    """Tells whether the learner can take its steps with a built-in optimizer."""
    try:
        optimizer_class(name)
    except ConfigError:
        return False
    return True


def _keys(key: str, own: str, name: str, supplied: frozenset[str]) -> dict[str, Any] | None:
    """The schema of a built-in class's arguments; None where it cannot be imported here, or takes what YAML has not."""
    try:
        cls = resolve(f"{key}.{own}" if f"{key}.{own}" in BUILT_IN else key, name)
        schema = _plain(parameters(cls, supplied))
    except (ConfigError, ValueError, TypeError):
        return None
    texts = meanings(cls)
    for argument, value in schema.get("properties", {}).items():
        if argument in texts:
            value["description"] = texts[argument]
    return schema


def _where(own: str, name: str, fixed: Mapping[str, Any], keys: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the condition on a section that names ``name``."""
    if keys is None:
        return {}
    then = {"properties": {own: {}, **fixed, **keys.get("properties", {})}, "additionalProperties": False}
    if keys.get("required"):
        then["required"] = keys["required"]
    return {"if": {"properties": {own: {"const": name}}, "required": [own]}, "then": then}


def _plain(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema with every reference written out, and only what a checker or an editor reads."""
    schema = model.model_json_schema()
    written: dict[str, Any] = _written_out(schema, schema.get("$defs", {}))
    return written


def _written_out(part: Any, definitions: Mapping[str, Any]) -> Any:
    again = partial(_written_out, definitions=definitions)
    if isinstance(part, list):
        return [again(item) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = {**definitions[part["$ref"].rsplit("/", 1)[-1]], **{k: v for k, v in part.items() if k != "$ref"}}
    names = {"properties", "patternProperties"}
    result = {
        key: {name: again(value) for name, value in item.items()} if key in names else again(item)
        for key, item in part.items()
        if key not in ("$defs", "title")
    }
    text = result.get("description")
    if isinstance(text, str):
        result["description"] = plain(" ".join(text.split()))
    return result


def _get(schema: Mapping[str, Any], path: list[str]) -> Any:
    for section in path:
        schema = schema["properties"][section]
    return schema


def _set(schema: dict[str, Any], path: list[str], value: Any) -> None:
    *parents, last = path
    _get(schema, parents)["properties"][last] = value


def origins(plain: Mapping[str, Any], raw: Any, overrides: Any, prefix: str = "") -> dict[str, str]:
    """Returns the origin of each value of a configuration: ``file``, ``command line`` or ``default``, by dotted key.

    Args:
        plain: the checked configuration as plain values, or a section of it.
        raw: the file's contents.
        overrides: what the command line sets, in the same form.
        prefix: dotted key of the section, with a dot at the end.

    >>> origins({"inner": {"lr": 0.1, "steps": 1}, "seed": 3}, {"seed": 3}, {"inner": {"lr": 0.1}})
    {'inner.lr': 'command line', 'inner.steps': 'default', 'seed': 'file'}
    """
    result: dict[str, str] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            result |= origins(value, _part(raw, key), _part(overrides, key), f"{prefix}{key}.")
        elif _sets(overrides, key):
            result[prefix + key] = "command line"
        else:
            result[prefix + key] = "file" if _sets(raw, key) else "default"
    return result


def _part(written: Any, key: str) -> Any:
    return written.get(key) if isinstance(written, Mapping) else None


def _sets(written: Any, key: str) -> bool:
    """Tells whether a section as it was written sets a key; a name may stand alone for a section."""
    return key in written if isinstance(written, Mapping) else key == "name" and isinstance(written, str)

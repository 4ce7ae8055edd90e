"""Write the reference of the configuration, and the JSON schema for editors, into docs/.

    .venv/bin/python .ci/reference.py

A test compares both with what this program makes, so that they are current.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.config.components import BUILT_IN, resolve
from cluster.config.json_schema import json_schema
from cluster.config.meanings import summary
from cluster.config.overrides import NAMING

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = DOCS / "reference_configuration.md"
SCHEMA = DOCS / "metaray.schema.json"

# The page that says more about a section, with what the schema cannot say of it.
MORE = {
    "task": "[Families](families.md), [images](images.md#episodes), [tables](data.md#tasks), [environments]"
    "(reinforcement.md#environments).",
    "model": "[Models](models.md). Any `torch.nn.Module` takes two keys beside its own: `batch_norm`, whose statistics "
    "its batch norms use (`transductive`, `inductive` or `frozen`), and `output`, name or number of the output, if it "
    "returns several.",
    "inner": "[Step sizes and inner rules](step_sizes.md).",
    "inner.rule": "[Inner rules](methods.md#inner-rules).",
    "inner.derivative": "[Derivatives](methods.md#derivatives).",
    "outer": "[The outer step](outer.md); of policies [reinforcement learning](reinforcement.md#the-outer-step).",
    "outer.optimizer": "[Optimizers](outer.md#optimizers). Arguments of torch's classes have torch's meanings.",
    "outer.schedule": "[Schedules](outer.md#schedules).",
    "advantage": "[Advantages](reinforcement.md#advantages).",
    "algorithm": "[Algorithms](methods.md#algorithms).",
    "objective": "[Objectives](objectives.md).",
    "eval": "[Reading the numbers](numbers.md).",
    "cluster": "[Clusters](cluster.md), [scaling](scaling.md), [GPUs](gpus.md).",
    "tracking": "[MLflow](tracking.md).",
    "checkpoint": "[Going on](configuration.md#going-on).",
}
HEAD = """\
# Configuration reference

Every key with its type, default and meaning, made from the schema that configurations are checked by. A key without a
default has to be there. [Configuration](configuration.md) walks through a file and says how YAML is read; searches and
comparisons have a section of their own, `search` ([searches](search.md#the-file)) and `compare`
([comparisons](compare.md#the-file)).

## In an editor

Editors with a YAML language server complete keys, show their meaning and mark errors while a file is written. The
schema is [metaray.schema.json](metaray.schema.json), beside this page, and what `metaray config schema` prints; name it
in the first line:

    # yaml-language-server: $schema=metaray.schema.json
"""
TABLE = "| key | type | default | meaning |\n| --- | --- | --- | --- |"


def reference(schema: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    sections = {key: part for key, part in schema["properties"].items() if _section(part) and key in MORE}
    plain = {key: part for key, part in schema["properties"].items() if key not in sections and not _section(part)}
    parts = [HEAD, "## Top level\n", _table(plain)]
    for key, part in sections.items():
        parts += _of_section(key, part, "##")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def _of_section(key: str, part: Mapping[str, Any], level: str) -> Iterator[str]:
    """A section's heading, what it is, its own keys, and those of the classes that it may name."""
    section = _section(part)
    assert section is not None
    yield f"\n{level} {key}\n"
    yield " ".join(filter(None, (part.get("description"), _begins(part), MORE.get(key)))) + "\n"
    below = {name: value for name, value in section["properties"].items() if f"{key}.{name}" in MORE or _plain(value)}
    own = {name: value for name, value in section["properties"].items() if name not in below}
    if own:
        yield _table(own)
    for name, value in below.items():
        yield from _of_section(f"{key}.{name}", value, level + "#")
    yield from _classes(key, section)


def _classes(key: str, section: Mapping[str, Any]) -> Iterator[str]:
    """The built-in classes that a section may name, and a table of the keys of each."""
    naming = next((name for name in NAMING if name.rpartition(".")[0] == key), None)
    if naming is None:
        return
    own = naming.rpartition(".")[2]
    table = naming if naming in BUILT_IN else key
    conditions = {
        part["if"]["properties"][own]["const"]: part["then"] for part in section.get("allOf", ()) if "if" in part
    }
    seen = set()
    for name in BUILT_IN[table]:
        cls = resolve(table, name)
        if name not in conditions or cls in seen or not name.islower():
            continue
        seen.add(cls)
        fixed = {own, *section["properties"]}
        keys = {name: value for name, value in conditions[name]["properties"].items() if name not in fixed}
        is_torch = cls.__module__.startswith("torch")
        yield f"\n**`{key}: {name}`**" + ("" if is_torch else f": {summary(cls)}.") + "\n"
        if keys and is_torch:
            yield ", ".join(f"`{name}` {_default(value)}".strip() for name, value in keys.items()) + "\n"
        elif keys:
            yield _table(keys)


def _table(keys: Mapping[str, Any]) -> str:
    rows = [TABLE]
    for key, value in keys.items():
        cells = (f"`{key}`", _type(value), _default(value), value.get("description", ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _section(part: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The object with properties that a key's value is or may be."""
    return next((one for one in (part, *part.get("anyOf", ())) if "properties" in one), None)


def _plain(part: Mapping[str, Any]) -> bool:
    return "properties" in part


def _begins(part: Mapping[str, Any]) -> str:
    """A section's default, where that is a name."""
    return f"By default `{part['default']}`." if isinstance(part.get("default"), str) else ""


def _default(part: Mapping[str, Any]) -> str:
    return f"`{json.dumps(part['default'], ensure_ascii=False)}`" if "default" in part else ""


def _type(part: Mapping[str, Any]) -> str:
    """The type in words."""
    if "anyOf" in part:
        words = [_type(one) for one in part["anyOf"]]
        return " or ".join(dict.fromkeys(filter(None, words)))
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"] if not (isinstance(value, str) and value[0].isupper()))
    if "const" in part:
        return f"`{part['const']}`"
    if "pattern" in part:
        return "`module:Name`"
    kind = part.get("type")
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _range(part)
    if kind == "array":
        if "prefixItems" in part:
            return f"[{', '.join(_type(one) for one in part['prefixItems'])}]"
        return f"list of {_type(part.get('items', {})) or 'values'}"
    names = {"boolean": "true or false", "null": "null", "string": "text", "object": "section"}
    return names.get(str(kind), "any value" if kind is None else str(kind))


def _range(part: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {part[key]:g}" for key, sign in signs.items() if key in part and abs(part[key]) < 2**62]
    return " " + " and ".join(bounds) if bounds else ""


def files() -> dict[Path, str]:
    """The text of each file by its path."""
    schema = json_schema()
    return {REFERENCE: reference(schema).rstrip() + "\n", SCHEMA: json.dumps(schema, ensure_ascii=False) + "\n"}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")

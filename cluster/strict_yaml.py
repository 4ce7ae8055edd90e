"""The one reader of YAML: scalars of YAML 1.2's core schema, and nothing that two readers understand differently.

PyYAML reads YAML 1.1, where ``yes`` is true, ``010`` is 8 and ``1e-3`` is a text, and lets the last of two equal keys
win. Here ``yes`` is a text, ``1e-3`` a number, and a number with leading zeros or a key that stands twice is an error.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

LARGEST = 2**20  # characters of a document; the longest configuration in use has some 3,000
MOST = 100_000  # values of a document, aliases written out


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader under the core schema of YAML 1.2.2 (10.3.2)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as in the base class

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys differ."""
        lines: dict[Any, Any] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            try:
                first = lines.setdefault(key, key_node.start_mark)
            except TypeError:
                raise _problem(f"expected a key that is a text or a number, received {key!r}", key_node) from None
            if first is not key_node.start_mark:
                raise _problem(
                    f"expected each key once, received '{key}' at line {first.line + 1} and again at line "
                    f"{key_node.start_mark.line + 1}; merge the two",
                    key_node,
                )
        return super().construct_mapping(node, deep=deep)


def _problem(text: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def _whole(loader: _Loader, node: Any) -> int:
    text = str(loader.construct_scalar(node))
    if re.fullmatch(r"[-+]?0[0-9]+", text):
        raise _problem(
            f"expected a number without leading zeros, received {text}, which is octal to some readers; write "
            f"{int(text)}, or 0o… if it is octal, or quote it if it is a text",
            node,
        )
    return int(text, 0)


def _real(loader: _Loader, node: Any) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _truth(loader: _Loader, node: Any) -> bool:
    return str(loader.construct_scalar(node)).lower() == "true"


SCALARS = {
    "null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+0123456789."],
    ),
}
for _name, (_pattern, _first) in SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), _first)
for _name, _constructor in (("int", _whole), ("float", _real), ("bool", _truth)):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _constructor)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes texts that YAML 1.1 or 1.2 would take for something else."""


for _name, (_pattern, _first) in SCALARS.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), _first)


def write(value: Any) -> str:
    """A YAML document that :func:`read` gives back, keys in their order.

    >>> print(write({"name": "1e-3", "lr": 0.001}), end="")
    name: '1e-3'
    lr: 0.001
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False)
    return text


def read(text: str) -> Any:
    """The value of a YAML document, made of dictionaries, lists, texts, numbers, truth values and None.

    Raises:
        yaml.YAMLError: saying where and why the text is not read: for a key that stands twice, or an ambiguous number.

    >>> read("lr: 1e-3"), read("[yes, true, 0x10]")
    ({'lr': 0.001}, ['yes', True, 16])
    """
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"expected at most {LARGEST} characters, received {len(text)}")
    try:
        value = yaml.load(text, Loader=_Loader)
        _require_plain(value)
    except RecursionError:
        raise yaml.YAMLError("expected a document of sections and keys, received one nested too deep") from None
    return value


def _require_plain(value: Any) -> None:
    """Check what aliases could have made: values within themselves, and far more values than there is text."""
    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def size(part: Any) -> int:
        if not isinstance(part, dict | list):
            return 1
        if id(part) in inside:
            raise yaml.YAMLError("expected values that end, received an alias inside of what it stands for")
        if id(part) not in sizes:
            inside.add(id(part))
            sizes[id(part)] = 1 + sum(map(size, _parts(part)))
            inside.remove(id(part))
        return sizes[id(part)]

    if (count := size(value)) > MOST:
        raise yaml.YAMLError(f"expected at most {MOST} values, received {count}; write out the aliases")


def _parts(value: dict[Any, Any] | list[Any]) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value)

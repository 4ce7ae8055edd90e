"""YAML as every part of the product reads and writes it: version 1.2, core schema, nothing in silence.

PyYAML reads version 1.1: ``010`` is 8, ``yes`` is true, ``1e-3`` is text, and the second of two equal keys wins.
Here plain values mean what the core schema of YAML 1.2 says; numbers that the two versions read differently, and keys
that stand twice, are refused.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

LARGEST = 2**20  # characters of a document; the longest configuration in use has some 3,000
MOST = 100_000  # values of a document, aliases written out
DEEPEST = 50  # levels of nesting
_PREFIX = "tag:yaml.org,2002:"
_NULL = r"~|null|Null|NULL|"
_BOOL = r"true|True|TRUE|false|False|FALSE"
_INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_CORE = {  # in this order: what is an integer is also written like a float
    "null": (_NULL, ["~", "n", "N", ""]),
    "bool": (_BOOL, list("tTfF")),
    "int": (_INT, list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
}


class _Loader(yaml.SafeLoader):
    """Knows the core schema's types alone."""


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either version of YAML would read as something else, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {}
for _name, (_pattern, _first) in _CORE.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_PREFIX}{_name}", re.compile(f"(?:{_pattern})\\Z"), _first)


class RefusedError(yaml.YAMLError):
    """YAML that two readers understand differently, or that is too large; the message says where."""


def read(text: str) -> Any:
    """The value of a YAML document, made of dictionaries, lists, texts, numbers, truth values and None.

    Raises:
        yaml.YAMLError: if the text is not YAML; :class:`RefusedError` if a key stands twice, a number is read
            differently by the versions of YAML, or the document is too large, with its aliases written out.

    >>> read("lr: 1e-3"), read("[yes, true, 0x10]")
    ({'lr': 0.001}, ['yes', True, 16])
    """
    if len(text) > LARGEST:
        raise RefusedError(f"expected at most {LARGEST} characters, received {len(text)}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node)
        return loader.construct_document(node)
    except RecursionError as error:
        raise RefusedError(_TOO_DEEP) from error


def write(value: Any, *, flow: bool = False, width: float = 80) -> str:
    """A YAML document that :func:`read`, and readers of YAML 1.1, give back, keys in their order.

    Args:
        value: nested plain values.
        flow: whether collections are written in one line, ``{a: 1}``.
        width: letters in a line.

    >>> print(write({"name": "1e-3", "lr": 0.001}), end="")
    name: '1e-3'
    lr: 0.001
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, width=width)
    return text


_TOO_DEEP = f"expected at most {DEEPEST} levels of nesting, received more; write it flatter"


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _at(node: Node, problem: str) -> RefusedError:
    return RefusedError(f"line {_line(node)}: {problem}")


def _measure(root: Node) -> None:
    """Refuse a document that its aliases make huge or endless, before anything is built of it."""
    measured: dict[int, tuple[int, int]] = {}  # by node: values in it, levels below it
    under_way: set[int] = set()

    def measure(node: Node) -> tuple[int, int]:
        if id(node) in under_way:
            raise _at(node, "expected a value, received an alias inside of what it stands for")
        if id(node) not in measured:
            under_way.add(id(node))
            inside = [measure(child) for child in _children(node)]
            under_way.discard(id(node))
            levels = max((level + 1 for _, level in inside), default=0)
            measured[id(node)] = 1 + sum(count for count, _ in inside), levels
        return measured[id(node)]

    total, levels = measure(root)
    if levels > DEEPEST:
        raise RefusedError(_TOO_DEEP)
    if total > MOST:
        raise RefusedError(f"expected at most {MOST} values, received {total} with every alias (*name) written out")


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _mapping(loader: _Loader, node: Node) -> dict[str, Any]:
    if not isinstance(node, MappingNode):
        raise _at(node, "expected a mapping behind !!map")
    result: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = _line(key_node)
        if not isinstance(key, str):
            raise _at(key_node, f"expected a text as a key, received {key!r}; put it in quotes")
        if key == "<<" and key_node.style is None:
            raise _at(key_node, "merge keys (<<) are not part of YAML 1.2; write the keys out")
        if key in result:
            raise RefusedError(
                f"expected each key once, received '{key}' at line {lines[key]} and again at line {line}; keep one"
            )
        lines[key] = line
        result[key] = loader.construct_object(value_node, deep=True)
    return result


def _sequence(loader: _Loader, node: Node) -> list[Any]:
    if not isinstance(node, SequenceNode):
        raise _at(node, "expected a list behind !!seq")
    return [loader.construct_object(child, deep=True) for child in node.value]


def _null(text: str) -> None:
    del text


def _boolean(text: str) -> bool:
    return text.lower() == "true"


def _integer(text: str) -> int:
    digits = text.lstrip("-+")
    if digits.startswith(("0o", "0x")):
        return int(digits, 0)
    if len(digits) > 1 and digits.startswith("0"):
        short = digits.lstrip("0") or "0"
        octal = f" or 0o{short}" if set(digits) <= set("01234567") else ""
        raise ValueError(
            f"expected a number without leading zeros, received {text}, which some programs read as octal; write "
            f"{text.removesuffix(digits)}{short}{octal}, or '{text}' in quotes for a text"
        )
    return int(text)


def _real(text: str) -> float:
    number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError(f"expected a number below 1e308, received {text}; write .inf for infinity")
    return number


def _scalar(tag: str, read: Callable[[str], Any]) -> Callable[[_Loader, Node], Any]:
    pattern = re.compile(f"(?:{_CORE[tag][0]})\\Z")

    def construct(loader: _Loader, node: Node) -> Any:
        text = str(loader.construct_scalar(node)) if isinstance(node, ScalarNode) else ""
        if not isinstance(node, ScalarNode) or pattern.match(text) is None:
            raise _at(node, f"expected a value of the type !!{tag}, received '{text}'")
        try:
            return read(text)
        except ValueError as error:
            raise _at(node, str(error)) from error

    return construct


def _text(loader: _Loader, node: Node) -> str:
    if not isinstance(node, ScalarNode):
        raise _at(node, "expected a text behind !!str")
    return str(loader.construct_scalar(node))


def _unknown(loader: _Loader, node: Node) -> Any:
    del loader
    name = str(node.tag).replace(_PREFIX, "!!")
    raise _at(node, f"expected plain values, received the tag '{name}'; leave it out")


_CONSTRUCTORS: dict[str | None, Callable[[_Loader, Node], Any]] = {
    f"{_PREFIX}map": _mapping,
    f"{_PREFIX}seq": _sequence,
    f"{_PREFIX}str": _text,
    f"{_PREFIX}null": _scalar("null", _null),
    f"{_PREFIX}bool": _scalar("bool", _boolean),
    f"{_PREFIX}int": _scalar("int", _integer),
    f"{_PREFIX}float": _scalar("float", _real),
    None: _unknown,
}
for _tag, _construct in _CONSTRUCTORS.items():
    _Loader.add_constructor(_tag, _construct)

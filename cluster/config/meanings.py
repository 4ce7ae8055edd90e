"""The meaning of a class's constructor arguments, as its docstring says it: editors show it beside the keys."""

import inspect
import re
from typing import Any

SECTION = re.compile(r"^(?:Args|Attributes):\n((?: +.*\n|\n)*)", re.MULTILINE)
SENTENCE = re.compile(r"(?<!\bal)(?<!\beq)(?<!\be\.g)\.(?: |$)")
ENTRY = re.compile(r"(\w+): (.*)", re.DOTALL)
ROLE = re.compile(r":\w+:`~?([^`]+)`")


def meanings(cls: type[Any]) -> dict[str, str]:
    """The meaning of each argument that the docstrings of a class and its bases describe, torch's left out.

    Args:
        cls: the class; its docstrings have sections ``Args`` or ``Attributes`` in Google's style.

    >>> from meta.inner import Implicit
    >>> sorted(meanings(Implicit))
    ['iterations', 'strength']
    """
    result: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith(("torch", "builtins")):
            result |= _entries(base.__doc__ or "")
    return result


def summary(cls: type[Any]) -> str:
    """The first sentence of a class's docstring, in Markdown, without its full stop.

    Args:
        cls: the class.
    """
    paragraph = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return plain(SENTENCE.split(paragraph)[0])


def plain(text: str) -> str:
    """Text of a docstring as Markdown: names in single backquotes, roles written out.

    Args:
        text: as it stands in the docstring.

    >>> plain("see :mod:`meta.models.norm`; ``None``: do not")
    'see `meta.models.norm`; null: do not'
    """
    return ROLE.sub(r"`\1`", text).replace("``None``", "null").replace("``", "`")


def _entries(text: str) -> dict[str, str]:
    """The entries of a docstring's sections: a name at the section's own indentation, its text over further lines."""
    entries: dict[str, str] = {}
    for section in SECTION.findall(inspect.cleandoc(text) + "\n"):
        for entry in re.split(r"^ {4}(?=\S)", section, flags=re.MULTILINE):
            match = ENTRY.fullmatch(entry.strip())
            if match is not None:
                entries[match[1]] = plain(" ".join(match[2].split()))
    return entries

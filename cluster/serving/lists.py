"""Arrays in JSON: lists of numbers, however deep, as one array, without an object of Python's for each of the lists.

A JSON body is cut at its quotation marks: what lies between two texts, from the first ``[`` to the last ``]``, is set
aside, and the small rest is parsed. Of each piece the brackets and commas are compared with those of a full array, and
the numbers are parsed as one flat list. What passes is JSON, and is what parsing all of it would give; what does not
pass is left to the slow way, which says what is wrong.
"""

import json
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

NAMES = 100  # in an object at most, and letters of each: every unknown one would be an error of its own
BLANK = b" \t\r\n"
AS_SPACES = bytes.maketrans(b"[]", b"  ")
AS_ZEROS = bytes.maketrans(b"0123456789+-.eE", b"0" * 15)
OPENING, CLOSING, ZERO = b"[]0"


def parsed(body: bytes, where: str) -> Any:
    """The value of a body of JSON; lists of numbers may be left as bytes, for :func:`array_of`.

    Args:
        body: all of it.
        where: its name in messages.

    Raises:
        ValueError: if it is no JSON, has a name twice, or numbers that are not finite.
    """
    with suppress(ValueError, RecursionError):
        return _with_pieces(body)
    try:
        return whole(body)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _with_pieces(body: bytes) -> Any:
    """The value, with bytes in place of lists; the constant NaN, which is no JSON, marks their places."""
    # A quotation mark behind a backslash is part of a text; NaN would be the caller's; each text is an object.
    if b"\\" in body or b"NaN" in body or b"Infinity" in body or body.count(b'"') > 2 * NAMES:
        raise ValueError
    parts, pieces = body.split(b'"'), list[bytes]()
    for number in range(0, len(parts), 2):  # between two texts
        part = parts[number]
        first, end = part.find(b"["), part.rfind(b"]") + 1
        if 0 <= first < end:
            pieces.append(part[first:end])
            parts[number] = b"%bNaN%b" % (part[:first], part[end:])
    in_order = iter(pieces)
    return json.loads(b'"'.join(parts).decode(), parse_constant=lambda _: next(in_order), object_pairs_hook=_object)


def whole(body: bytes) -> Any:
    """The value of a body of JSON, with lists as lists.

    Args:
        body: all of it.

    Raises:
        ValueError: if it is no JSON, has a name twice, or numbers that are not finite.
    """
    try:
        return json.loads(body, parse_constant=_no_number, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("expected JSON, received brackets nested too deep") from None
    except ValueError as error:  # letters that are no UTF-8 and integers of thousands of digits too
        raise ValueError(f"expected JSON, received something else: {error}") from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON; expected finite numbers")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, each name once: of two values one would be lost."""
    members = dict(pairs)
    if len(members) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"expected each name once, received {json.dumps(twice)} twice")
    if len(pairs) > NAMES or any(len(name) > NAMES for name in members):
        raise ValueError(f"expected objects of at most {NAMES} names of at most {NAMES} letters, received more")
    return members


def array_of(text: bytes, depth: int) -> NDArray[Any] | None:
    """The array that a text of nested lists of numbers stands for; None if it is anything else.

    Args:
        text: JSON.
        depth: of the lists; each level of them has to be of one length, above 0.

    >>> array_of(b"[[1, 2, 3], [4, 5, 6]]", 2)
    array([[1, 2, 3],
           [4, 5, 6]])
    >>> array_of(b"[[1, 2, 3], [4, 5]]", 2), array_of(b"[[1, 2], [true, 0]]", 2)
    (None, None)
    """
    marks = text.translate(AS_ZEROS, BLANK)
    lists = marks.translate(None, b"0")
    # The first list that is `level` lists deep ends at as many brackets, and has as many numbers as commas and one.
    ends = [lists.find(b"]" * level) for level in range(1, depth + 1)]
    counts = [1, *(lists.count(b",", 0, end) + 1 for end in ends)]
    shape = [outer // inner for inner, outer in pairwise(counts)][::-1]
    full = b""
    for size in reversed(shape):
        full = b"[%b%b]" % ((full + b",") * (size - 1), full)
    # Equal: places for numbers have one comma between them, as the numbers of the flat list below do. No number stands
    # outside of its innermost list.
    if lists != full or _is_misplaced(np.frombuffer(marks, np.uint8)):
        return None
    del marks, lists, full
    try:
        return np.array(from_json(b"".join((b"[", text.translate(AS_SPACES), b"]")))).reshape(shape)
    except ValueError:  # no numbers, or not as many as places
        return None


def _is_misplaced(marks: NDArray[np.uint8]) -> bool:
    """Whether a number stands before a list's beginning or behind its end: ``[1[]]``."""
    pairs = (ZERO, OPENING), (CLOSING, ZERO)
    return any(bool(np.any((marks[:-1] == before) & (marks[1:] == after))) for before, after in pairs)

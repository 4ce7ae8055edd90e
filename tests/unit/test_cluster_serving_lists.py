"""Lists of numbers as arrays: what is read is what parsing all of the JSON gives, and nothing else is read."""

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.registry.adapting import Adaptable
from cluster.registry.fields import Field, checked
from cluster.serving.forms import JSON
from cluster.serving.limits import Limits, Refused
from cluster.serving.lists import array_of, parsed, whole
from cluster.serving.memory import reading_bytes
from cluster.serving.requests import read

NUMBERS = st.one_of(st.integers(-300, 300), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
LETTERS = b'[],0123456789-+.eE \n{}:"NaInfity\\tru'
SETTINGS = settings(max_examples=500, deadline=None, database=None, derandomize=True)


def lists(draw: st.DrawFn, shape: list[int]) -> Any:
    return [lists(draw, shape[1:]) for _ in range(shape[0])] if shape else draw(NUMBERS)


@st.composite
def texts(draw: st.DrawFn) -> tuple[bytes, int]:
    """JSON of full lists, and how deep they are."""
    shape = draw(SHAPES)
    text = json.dumps(lists(draw, shape), indent=draw(st.sampled_from([None, 0, 1])))
    return text.encode(), len(shape)


def damaged(data: st.DataObject, text: bytes) -> bytes:
    """One to three letters changed, inserted or removed."""
    body = bytearray(text)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        end = at + data.draw(st.integers(0, 1))
        body[at:end] = bytes(data.draw(st.lists(st.sampled_from(LETTERS), max_size=2)))
    return bytes(body)


@SETTINGS
@given(texts())
def test_full_lists_of_numbers_are_read(drawn: tuple[bytes, int]):
    text, depth = drawn
    found = array_of(text, depth)
    assert found is not None
    np.testing.assert_array_equal(found, np.array(json.loads(text)))


@SETTINGS
@given(texts(), st.data())
def test_what_is_no_json_is_no_array(drawn: tuple[bytes, int], data: st.DataObject):
    text, depth = drawn
    changed = damaged(data, text)
    found = array_of(changed, depth)
    if found is not None:
        expected = np.array(json.loads(changed))
        assert found.ndim == depth
        np.testing.assert_array_equal(found, expected)


@SETTINGS
@given(texts(), texts(), st.data())
def test_a_body_in_pieces_is_the_body(one: tuple[bytes, int], other: tuple[bytes, int], data: st.DataObject):
    body = b'{"inputs": {"x": %b, "y": %b}, "params": {"inner_lr": 0.1}}' % (one[0], other[0])
    for sent in (body, damaged(data, body)):
        expected = value_of(lambda sent=sent: whole(sent))
        assert value_of(lambda sent=sent: read_out(parsed(sent, "body"))) == expected


def value_of(function: Any) -> Any:
    try:
        return function()
    except ValueError:
        return ValueError


def read_out(value: Any) -> Any:
    """Bytes parsed too."""
    if isinstance(value, dict):
        return {name: read_out(member) for name, member in value.items()}
    return whole(value) if isinstance(value, bytes) else value


LOOK_ALIKE = rb"""
[[1[]]]  [[1[],2]]  [[1],2[]]  [[1],[]2]  [[[]1],[2]]  [[[1],[2]],[3,4]]  [[1],[2,3]]  [[1],[2]  [1]]  [1]  []  [[]]
[[],[]]  1  [[01]]  [[.5]]  [[1.]]  [[+1]]  [[1_0]]  [[0x1]]  [[1,]]  [[,1]]  [[nan]]  [[true]]  [[1]][[1]]  ][  [[  ]]
""".split()


@pytest.mark.parametrize(
    "text", [*LOOK_ALIKE, b"", b"[[1 2], [3]]", b"[[1\x0b]]", b"[[\xa01]]", b"[[%b]]" % (b"1" * 5000)]
)
def test_what_only_looks_like_an_array(text: bytes):
    assert array_of(text, 2) is None


class Numbers(Adaptable):
    """Takes an array x [T, S, 1]."""

    inputs, images, inner_steps, inner_lr = (Field("x", "float64", ("T", "S", 1)),), None, 1, 0.1

    def check(self, given: Any, inner_steps: int, inner_lr: float) -> dict[str, Any]:
        del inner_steps, inner_lr
        return checked(self.inputs, given)


MANY = {
    "steps": b"[[%b[1]]]" % (b"[1]," * 9999),
    "tasks": b"[%b[[0.5]]]" % (b"[[0.5]]," * 9999),
    "truth": b"[[%b[true]]]" % (b"[1]," * 9999),
    "longer": b"[[%b[1,2]]]" % (b"[1]," * 9999),
    "shallow": b"[[[1]]%b]" % (b",1" * 9999),
    "digits": b"[[[%b]]]" % (b"1" * 99_999),
}


@pytest.mark.parametrize("sent", [b'{"inputs": {"x": %b}}', b'{"inputs": {"\\u0078": %b}}'], ids=["at once", "slowly"])
@pytest.mark.parametrize("text", MANY.values(), ids=MANY)
def test_reading_takes_no_more_than_is_held(sent: bytes, text: bytes):
    body, limits = sent % text, Limits(tasks=10_000)
    with suppress(Refused):
        read(sent % b"[[[1]]]", JSON, Numbers(), limits)  # makes the model
    tracemalloc.start()
    try:
        with suppress(Refused):
            assert read(body, JSON, Numbers(), limits).arrays["x"].size == 10_000
        assert tracemalloc.get_traced_memory()[1] <= reading_bytes(body) + 10_000
    finally:
        tracemalloc.stop()

"""What arrives is what was sent, below and above the size from which numbers travel as an array."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.workers.messages import Order, Result, TaskRange
from cluster.workers.wire import (
    LARGE,
    Payload,
    decode_numbers,
    decode_order,
    decode_result,
    encode_numbers,
    encode_order,
    encode_result,
)
from tasks.family import SPLITS

numbers = st.integers(0, 2**62)
ranges = st.builds(TaskRange, split=st.sampled_from(SPLITS), start=numbers, stop=numbers)
orders = st.builds(
    Order,
    kind=st.sampled_from(["gradient", "scores"]),
    step=numbers,
    shard=numbers,
    tasks=ranges,
    inner_steps=st.lists(numbers, max_size=5).map(tuple),
    upcoming=st.none() | ranges,
)
dtypes = st.sampled_from(["float32", "float64"])
# Elements on both sides of LARGE bytes, the border included, for either type.
sizes = st.integers(1, 300) | st.sampled_from([LARGE // size + step for size in (4, 8) for step in (-1, 0, 1)])


@st.composite
def buffers(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Any bit patterns: infinities, payloads of NaN and signs of zero too."""
    dtype, size = np.dtype(draw(dtypes)), draw(sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return np.frombuffer(rng.bytes(size * dtype.itemsize), dtype=dtype)


def kind(nbytes: int) -> type[Any]:
    return bytes if nbytes < LARGE else np.ndarray


@given(orders)
def test_orders_come_back_equal(order: Order) -> None:
    assert decode_order(encode_order(order)) == order


@given(buffers())
def test_numbers_come_back_with_the_same_bits(buffer: np.ndarray[Any, Any]) -> None:
    message = encode_numbers(buffer)
    back = decode_numbers(message, str(buffer.dtype))
    assert isinstance(message, kind(buffer.nbytes))
    assert (back.dtype, back.tobytes()) == (buffer.dtype, buffer.tobytes())


@given(
    orders,
    buffers(),
    st.lists(st.text(min_size=1), max_size=4).map(tuple),
    st.lists(numbers, max_size=4).map(tuple),
)
def test_results_come_back_equal(
    order: Order, buffer: np.ndarray[Any, Any], metrics: tuple[str, ...], nonfinite: tuple[int, ...]
) -> None:
    message = encode_result(Result(order=order, buffer=buffer, metrics=metrics, nonfinite=nonfinite))
    back = decode_result(order, message)
    assert isinstance(message, kind(buffer.nbytes))
    assert (back.buffer.dtype, back.buffer.tobytes()) == (buffer.dtype, buffer.tobytes())
    assert (back.order, back.metrics, back.nonfinite) == (order, metrics, nonfinite)


@pytest.mark.parametrize("size", [3, LARGE])
def test_decoded_numbers_are_no_copies(size: int) -> None:
    message: Payload = encode_numbers(np.ones(size, dtype=np.float32))
    assert np.shares_memory(decode_numbers(message, "float32"), np.frombuffer(message, dtype=np.uint8))

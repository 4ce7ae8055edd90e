"""Messages decode to what was encoded, below and above the size from which numbers travel as an array."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.workers.messages import (
    REPLIES,
    FisherProduct,
    GradientAt,
    GradientReply,
    GradientRequest,
    Reply,
    Request,
    RolloutRequest,
    ScoresRequest,
    SurrogateAndKL,
    TaskRange,
)
from cluster.workers.wire import (
    LARGE,
    Payload,
    decode_reply,
    decode_request,
    decode_vectors,
    encode_reply,
    encode_request,
    encode_vectors,
)
from tasks.family import SPLITS

numbers = st.integers(0, 2**62)
ranges = st.builds(TaskRange, split=st.sampled_from(SPLITS), start=numbers, stop=numbers)
shard = {"step": numbers, "shard": numbers, "tasks": ranges}
gradients = st.builds(GradientRequest, **shard, upcoming=st.none() | ranges)
scores = st.builds(ScoresRequest, **shard, inner_steps=st.lists(numbers, max_size=5).map(tuple))
on_rollouts = st.one_of(*(st.builds(kind, **shard) for kind in (GradientAt, FisherProduct, SurrogateAndKL)))
requests = gradients | scores | on_rollouts
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


@given(requests)
def test_requests_come_back_equal(request: Request) -> None:
    assert decode_request(encode_request(request)) == request


@given(requests, buffers())
def test_vectors_come_back_with_the_same_bits(request: Request, buffer: np.ndarray[Any, Any]) -> None:
    second = buffer[::-1] if isinstance(request, RolloutRequest) else None
    message = encode_vectors(buffer, second)
    back = decode_vectors(message, str(buffer.dtype), request)
    assert isinstance(message, kind(buffer.nbytes * (1 if second is None else 2)))
    assert (back[0].dtype, back[0].tobytes()) == (buffer.dtype, buffer.tobytes())
    assert (back[1] is None) == (second is None)
    assert back[1] is None or back[1].tobytes() == buffer[::-1].tobytes()


@given(
    gradients,
    buffers(),
    st.lists(st.text(min_size=1), max_size=4).map(tuple),
    st.lists(numbers, max_size=4).map(tuple),
)
def test_gradients_come_back_equal(
    request: GradientRequest, buffer: np.ndarray[Any, Any], metrics: tuple[str, ...], nonfinite: tuple[int, ...]
) -> None:
    message = encode_reply(GradientReply(request=request, buffer=buffer, metrics=metrics, nonfinite=nonfinite))
    back = decode_reply(request, message)
    assert isinstance(message, kind(buffer.nbytes))
    assert isinstance(back, GradientReply)
    assert (back.buffer.dtype, back.buffer.tobytes()) == (buffer.dtype, buffer.tobytes())
    assert (back.request, back.metrics, back.nonfinite) == (request, metrics, nonfinite)


@given(scores | on_rollouts, buffers())
def test_every_kind_of_request_has_its_kind_of_reply(request: Request, buffer: np.ndarray[Any, Any]) -> None:
    reply: Reply = REPLIES[request.kind](request=request, buffer=buffer)
    back = decode_reply(request, encode_reply(reply))
    assert (type(back), back.request, back.buffer.tobytes()) == (type(reply), request, buffer.tobytes())


@pytest.mark.parametrize("size", [3, LARGE])
def test_decoded_numbers_are_no_copies(size: int) -> None:
    message: Payload = encode_vectors(np.ones(size, dtype=np.float32), None)
    request = GradientRequest(step=0, shard=0, tasks=TaskRange(split="train", start=0, stop=1))
    theta, _ = decode_vectors(message, "float32", request)
    assert np.shares_memory(theta, np.frombuffer(message, dtype=np.uint8))

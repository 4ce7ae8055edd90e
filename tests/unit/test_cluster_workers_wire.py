"""Requests and replies come back equal from their headers, through JSON as links send them."""

import json
from typing import Any

import numpy as np
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
    ScoresRequest,
    SurrogateAndKL,
    TaskRange,
)
from cluster.workers.wire import decode_reply, decode_request, encode_reply, encode_request
from tasks.family import SPLITS

numbers = st.integers(0, 2**62)
ranges = st.builds(TaskRange, split=st.sampled_from(SPLITS), start=numbers, stop=numbers)
shard = {"step": numbers, "shard": numbers, "tasks": ranges}
gradients = st.builds(GradientRequest, **shard, upcoming=st.none() | ranges)
scores = st.builds(ScoresRequest, **shard, inner_steps=st.lists(numbers, max_size=5).map(tuple))
on_rollouts = st.one_of(*(st.builds(kind, **shard) for kind in (GradientAt, FisherProduct, SurrogateAndKL)))
requests = gradients | scores | on_rollouts


def sent(header: Any) -> Any:
    """A header as it arrives."""
    return json.loads(json.dumps(header))


@given(requests)
def test_requests_come_back_equal(request: Request) -> None:
    assert decode_request(sent(encode_request(request))) == request


@given(
    gradients,
    st.sampled_from(["float32", "float64"]),
    st.lists(st.text(min_size=1), max_size=4).map(tuple),
    st.lists(numbers, max_size=4).map(tuple),
)
def test_gradients_come_back_equal(
    request: GradientRequest, dtype: str, metrics: tuple[str, ...], nonfinite: tuple[int, ...]
) -> None:
    buffer = np.ones(3, dtype=dtype)
    header = sent(encode_reply(GradientReply(request=request, buffer=buffer, metrics=metrics, nonfinite=nonfinite)))
    back = decode_reply(request, header, buffer)
    assert isinstance(back, GradientReply)
    assert np.dtype(header[0]) == buffer.dtype
    assert back.buffer is buffer
    assert (back.request, back.metrics, back.nonfinite) == (request, metrics, nonfinite)


@given(scores | on_rollouts)
def test_every_kind_of_request_has_its_kind_of_reply(request: Request) -> None:
    buffer = np.ones(2)
    reply: Reply = REPLIES[request.kind](request=request, buffer=buffer)
    back = decode_reply(request, sent(encode_reply(reply)), buffer)
    assert (type(back), back.request) == (type(reply), request)

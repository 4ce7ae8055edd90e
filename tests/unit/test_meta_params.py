import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meta.params import Layout, Params, fingerprint

shapes = st.dictionaries(
    st.text(min_size=1, max_size=8), st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=6
)


def filled(shapes: dict[str, tuple[int, ...]]) -> Params:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@given(shapes)
def test_flatten_and_unflatten_are_inverse(shapes: dict[str, tuple[int, ...]]) -> None:
    params = filled(shapes)
    layout = Layout.of(params)
    flat = layout.flatten(params)
    back = layout.unflatten(flat)
    assert flat.shape == (layout.size,)
    assert back.keys() == params.keys()
    assert all(torch.equal(back[name], params[name]) for name in params)
    assert torch.equal(layout.flatten(back), flat)


@given(shapes)
def test_layout_depends_on_names_and_not_on_their_order(shapes: dict[str, tuple[int, ...]]) -> None:
    params = filled(shapes)
    turned = dict(reversed(params.items()))
    assert Layout.of(turned) == Layout.of(params)
    assert torch.equal(Layout.of(turned).flatten(turned), Layout.of(params).flatten(params))


def test_unflatten_gives_views_and_flatten_a_copy() -> None:
    params = {"a": torch.zeros(2), "b": torch.zeros(1)}
    layout = Layout.of(params)
    flat = layout.flatten(params)
    layout.unflatten(flat)["b"][0] = 7.0
    assert flat.tolist() == [0.0, 0.0, 7.0]
    assert params["b"].item() == 0.0


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 3), ()])
def test_a_vector_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a vector of 3 parameters, received shape"):
        Layout.of({"a": torch.zeros(3)}).unflatten(torch.zeros(shape))


def test_fingerprint_is_sha256_over_the_bytes_in_sorted_order_of_names() -> None:
    params = {"b": torch.tensor([3.0]), "a": torch.tensor([[1.0], [2.0]])}
    expected = hashlib.sha256(params["a"].numpy().tobytes() + params["b"].numpy().tobytes())
    assert fingerprint(Layout.of(params).flatten(params)) == expected.hexdigest()


def test_fingerprint_sees_the_last_bit() -> None:
    one = torch.ones(5)
    other = one.clone()
    other[3] = torch.nextafter(other[3], torch.tensor(2.0))
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(torch.ones(5).requires_grad_())

"""What all unit tests share: one thread, one hypothesis profile, and the tolerances."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from cluster.components import BUILT_IN, resolve
from tasks.family import Family

# The same examples in every run, on machines of any speed.
settings.register_profile("metaray", derandomize=True, deadline=None)
settings.load_profile("metaray")

# How far two computations of one value may lie apart, relative to the largest element of the tensor, where they
# round differently: in another order of additions, or by a formula of its own. A chain of n roundings errs by
# at most n·u, u the unit roundoff; the chains here have hundreds of operations, each over tens of terms.
TOLERANCE = {
    torch.float64: 1e-12,  # u = 1.1e-16
    torch.float32: 1e-4,  # u = 6.0e-8
}

Same = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """More threads cost more than they give at these sizes."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _arithmetic() -> Iterator[None]:
    """Undo what a worker sets for its whole process."""
    memory = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = memory


@pytest.fixture(scope="session", params=BUILT_IN["task.family"])
def family(request: pytest.FixtureRequest, make_store: Callable[..., Path]) -> Family:
    """Every built-in family."""
    arguments = {"images": {"root": str(make_store())}}  # what some cannot be made without
    return resolve("task.family", request.param)(**arguments.get(request.param, {}))


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """Assert that a tensor agrees with a reference, to the tolerance of its own type."""

    def check(actual: Tensor, expected: Tensor) -> None:
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=0, atol=TOLERANCE[actual.dtype] * scale)

    return check


@pytest.fixture(scope="session")
def same_bits() -> Same:
    """Whether two dictionaries of tensors agree in names, types and every bit."""

    def check(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
        return one.keys() == other.keys() and all(
            one[name].dtype == other[name].dtype
            and one[name].shape == other[name].shape
            and one[name].detach().numpy().tobytes() == other[name].detach().numpy().tobytes()
            for name in one
        )

    return check

"""What all unit tests share: one thread, one hypothesis profile, and the tolerances."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from cluster.config.components import BUILT_IN, resolve
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

# Files whose tests take more than some ten seconds together, most of it compiling programs or starting processes.
SLOW = frozenset(
    f"test_{name}.py"
    for name in (
        *(
            "bench_command",
            "benchmarks",
            "cluster_config_strict_yaml",
            "cluster_refusals",
            "cluster_reports_figures_policies",
        ),
        *("docs_python", "metaray"),
        *("cluster_reports_figures_searches", "cluster_reports_run_page", "cluster_training_standstill"),
        *("cluster_workers_rollouts", "conformance", "meta_engine_native", "meta_models_user", "meta_policy_gradients"),
        "meta_policy_products",
    )
)

TABLE = Path(__file__).with_name("test_conformance.py")
ALL_BUT_FEW = 100  # of its tests that run compiled programs

Same = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ``make test-fast`` leaves out."""
    for item in items:
        if item.path.parent == TABLE.parent and item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """More threads cost more than they give at these sizes."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _compiled_ahead(
    _compiled_anew: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Where there is a second processor, compile the programs of the conformance table on it while other tests run.

    A process of its own does it, which shares the cache on disk as the workers of a machine do: a test whose program
    is not there yet compiles it itself, or waits for it.
    """
    wanted = sum(item.path == TABLE and "native" in item.name for item in request.session.items)
    if wanted < ALL_BUT_FEW or (os.cpu_count() or 1) < 2:
        yield
        return
    log = tmp_path_factory.mktemp("ahead") / "log"
    with log.open("w") as file:
        environment = os.environ | {"PYTHONPATH": str(request.config.rootpath), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([sys.executable, str(TABLE)], env=environment, stdout=file, stderr=file)
    yield
    if process.poll() is None:
        process.terminate()
        process.wait()
    else:
        assert process.returncode == 0, log.read_text()


@pytest.fixture(autouse=True)
def _arithmetic() -> Iterator[None]:
    """Undo what a worker sets for its whole process."""
    memory = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = memory


EPISODES = [name for name, path in BUILT_IN["task.family"].items() if not path.startswith("tasks.environments.")]


@pytest.fixture(scope="session", params=EPISODES)
def family(request: pytest.FixtureRequest, make_store: Callable[..., Path], make_table: Callable[..., Path]) -> Family:
    """Every built-in family whose tasks are drawn."""
    roots = {  # what some cannot be made without
        "images": make_store,
        "table": make_table,
        "series": lambda: make_table(inputs=("x", "y"), categorical=(), time="day"),
    }
    arguments = {"root": str(roots[request.param]())} if request.param in roots else {}
    return resolve("task.family", request.param)(**arguments)


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

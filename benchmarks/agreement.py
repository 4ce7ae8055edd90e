"""Whether a competitor computes the meta-gradient at all: compared with the reference before it is timed.

Judged in float64, where a right program agrees to ten digits. In float32 equally right orders of evaluation differ by
a thousandth through batch norms over five images, so the float32 program is only held to a coarse bound.
"""

import torch

from benchmarks.competitor import Competitor, LeftOut, Option
from benchmarks.suites import Suite, Work
from meta.engine.strategies import build
from meta.params import Layout, Params

TASKS = 2  # tasks that are compared; all have one shape
BOUNDS = {torch.float64: 1e-6, torch.float32: 5e-2}


def compared(suite: Suite, device: str = "cpu") -> dict[torch.dtype, Work]:
    """The first tasks of a suite in float32 and float64.

    Args:
        suite: the measurement.
        device: of weights and data.
    """
    return {dtype: Work.of(suite, dtype, device).part(0, min(TASKS, suite.tasks)) for dtype in BOUNDS}


def reference(work: Work) -> Params:
    """The sum of meta-gradients by the strategy ``vmap`` in float64, one task at a time for the sake of memory."""
    engine = build("vmap", work.suite.algorithm)
    total: Params = {}
    for task in range(work.suite.tasks):
        gradient = engine.meta_gradient(work.params, work.part(task, task + 1).episodes).gradient
        total = {name: total[name] + part if total else part for name, part in gradient.items()}
    return total


def relative_error(gradient: Params, expected: Params) -> float:
    """|g - g_ref| / |g_ref| over the whole flat gradient.

    Args:
        gradient: of a competitor, by name.
        expected: of the reference, by name.
    """
    layout = Layout.of(expected)
    expected_vector = layout.flatten(expected).double().cpu()
    vector = layout.flatten({name: gradient[name].detach() for name in layout.names}).double().cpu()
    return float((vector - expected_vector).norm() / expected_vector.norm())


def errors(
    competitor: Competitor, works: dict[torch.dtype, Work], option: Option, expected: Params
) -> dict[str, float]:
    """The relative error at each precision.

    Args:
        competitor: computes the gradients.
        works: the work at each precision.
        option: of the competitor.
        expected: the reference's gradient, by name.

    Raises:
        LeftOut: if one is beyond its bound.
    """
    measured = {}
    for dtype, bound in BOUNDS.items():
        prepared = competitor.prepare(works[dtype], option)
        error = relative_error(prepared.gradient(prepared.run()), expected)
        name = str(dtype).removeprefix("torch.")
        if not error <= bound:
            raise LeftOut(
                f"expected the reference's gradient to {bound:g}, received one that is {error:.2g} off in {name}"
            )
        measured[f"error_{name}"] = error
    return measured

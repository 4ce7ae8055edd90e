"""Memory and time over the number of inner steps: how far second order reaches before memory ends.

``python -m benchmarks.inner_steps`` prints a table: models × inner steps × ways of the same exact meta-gradient of one
task, beside iMAML, which keeps no steps. Each cell is measured in a process of its own, on one thread, after a small
warm-up that loads the same code.
"""

import argparse
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from benchmarks.competitor import Option
from benchmarks.memory import MB, give_back_freed_memory, peak_resident, reset_peak
from benchmarks.peers.loop import Loop
from benchmarks.process import empty_caches, in_child
from benchmarks.run import to_stderr
from benchmarks.suites import SUITES, Suite, Work
from benchmarks.user_models import Encoder, UserModel
from meta.algorithms import MAML, context_of
from meta.engine.memory import keep_freed_memory
from meta.engine.strategies import Limits, build
from meta.inner import Exact, Implicit, Inner

STEPS = (1, 5, 20, 80)
MOST_MB = 10_000  # of a process
MOST_SECONDS = 900.0  # of a cell, recording and compiling included


class Cell(NamedTuple):
    """A measurement.

    Attributes:
        megabytes: peak of the second call above what was held before the first, in 10⁶ bytes.
        seconds: processor time of the second call.
        first: processor time of the first call, recording and compiling included.
    """

    megabytes: float
    seconds: float
    first: float


LR = 0.01  # α, small enough for any number of steps
CASES: Mapping[str, Suite] = {
    "MLP 1-40-40-1": SUITES["sinusoid"],
    "Conv4 84 × 84": SUITES["mini_imagenet"],
    "ResNet-12 32 × 32": SUITES["cifar_fs_resnet12"],
    "transformer": replace(  # of 10.7 million parameters
        SUITES["transformer"], model=UserModel(lambda: Encoder(32, 384, 6, 5), (64, 32)), query=3
    ),
}


@dataclass(frozen=True)
class Way:
    """How the meta-gradient is computed.

    Attributes:
        strategy: of the engine; None: the plain loop, ``torch.autograd.grad(create_graph=True)``.
        recompute: whether inner steps are differentiated forward over reverse, keeping parameters and gradient alone.
        implicit: iMAML's gradient in place of the exact one.
    """

    strategy: str | None
    recompute: bool = False
    implicit: bool = False


WAYS: Mapping[str, Way] = {
    "loop": Way(None),
    "trace": Way("trace"),
    "trace, recomputed": Way("trace", recompute=True),
    "native": Way("native"),
    "native, recomputed": Way("native", recompute=True),
    "iMAML (trace)": Way("trace", implicit=True),
}


def measure(case: str, way: str, steps: int) -> Cell:
    """Measure one cell in this process.

    Args:
        case: of :data:`CASES`.
        way: of :data:`WAYS`.
        steps: inner steps.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MB * 10**6, MOST_MB * 10**6))
    keep_freed_memory()
    torch.set_num_threads(1)
    run = prepared(CASES[case], WAYS[way], steps)
    with empty_caches():
        prepared(CASES["MLP 1-40-40-1"], WAYS[way], 1)()
        start = time.process_time()
        give_back_freed_memory()
        reset_peak()
        before = peak_resident()
        run()
        first = time.process_time() - start
        gc.collect()
        give_back_freed_memory()
        reset_peak()
        start = time.process_time()
        run()
        return Cell((peak_resident() - before) / MB, time.process_time() - start, first)


def prepared(case: Suite, way: Way, steps: int) -> Callable[[], Any]:
    """Returns a function that computes the meta-gradient of one task.

    Args:
        case: model, task and loss.
        way: how.
        steps: inner steps.
    """
    work = Work.of(replace(case, tasks=1, lr=LR, steps=steps))
    if way.strategy is None:
        return Loop().prepare(work, Option(1)).run
    derivative = Implicit(strength=1.0, iterations=5) if way.implicit else Exact()
    inner = Inner(lr=LR, steps=steps, recompute=way.recompute, derivative=derivative)
    algorithm: Any = MAML(model=case.model, objective=case.objective, inner=inner)
    context, engine = context_of(algorithm, 0, work.dtype), build(way.strategy, algorithm, Limits())
    return lambda: engine.meta_gradient(work.params, work.episodes, context).gradient


def cell(case: str, way: str, steps: int) -> Cell | str:
    """Measure one cell in a process of its own; a text says why there is no number.

    Args:
        case: of :data:`CASES`.
        way: of :data:`WAYS`.
        steps: inner steps.
    """
    try:
        measured: Cell = in_child(measure, case, way, steps, timeout=MOST_SECONDS)
    except RuntimeError as error:
        text = str(error)
        if "allocate memory" in text or text.startswith("MemoryError"):
            return f"over {MOST_MB / 1000:.0f} GB"
        return text
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cells asked for and print tables; each cell goes to standard error as JSON when it is done.

    Args:
        arguments: words of the command line; by default the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inner_steps", description=__doc__)
    parser.add_argument("--models", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", nargs="*", type=int, default=list(STEPS))
    options = parser.parse_args(arguments)
    for case in options.models:
        lines = [f"{case}: peak MB, seconds a call (first call)", "", f"| steps | {' | '.join(options.ways)} |"]
        lines.append("| ---: " * (len(options.ways) + 1) + "|")
        for steps in options.steps:
            row = [str(steps)]
            for way in options.ways:
                measured = cell(case, way, steps)
                record = measured if isinstance(measured, str) else measured._asdict()
                to_stderr(json.dumps({"model": case, "way": way, "steps": steps, "result": record}))
                row.append(measured if isinstance(measured, str) else _shown(measured))
            lines.append(f"| {' | '.join(row)} |")
        print("\n".join(lines), end="\n\n", flush=True)
    return 0


def _shown(measured: Cell) -> str:
    return f"{measured.megabytes:.1f} · {measured.seconds:.3g} ({measured.first:.3g})"


if __name__ == "__main__":
    sys.exit(main())

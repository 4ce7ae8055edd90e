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
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.episodes import generator, images, sinusoids
from benchmarks.memory import MB, give_back_freed_memory, peak_resident, reset_peak
from benchmarks.process import empty_caches, in_child
from benchmarks.run import to_stderr
from meta.algorithms import MAML, context_of
from meta.engine.memory import keep_freed_memory
from meta.engine.strategies import Limits, build
from meta.episode import Episode, unstack
from meta.inner import Exact, Implicit, Inner
from meta.models import MLP, Conv4, Model, ResNet12, TorchModel
from meta.objectives import CROSS_ENTROPY, MSE, Objective
from meta.params import Params

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


class Case(NamedTuple):
    """A model, one task for it, and its loss."""

    model: Callable[[], Model]
    episode: Callable[[], Episode]
    objective: Objective


class Sequences(nn.Module):
    """A transformer of 10.7 million parameters over 64 positions of 32 numbers, and a head over their mean."""

    def __init__(self) -> None:
        """Six layers of width 384."""
        super().__init__()
        self.enter = nn.Linear(32, 384)
        layer = nn.TransformerEncoderLayer(384, 6, 1536, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(384, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, 5] of sequences [B, 64, 32]."""
        hidden: Tensor = self.encoder(self.enter(inputs))
        logits: Tensor = self.head(hidden.mean(1))
        return logits


CASES: Mapping[str, Case] = {
    "MLP 1-40-40-1": Case(
        lambda: MLP(inputs=(1,), outputs=1, hidden=(40, 40), init_std=None), lambda: sinusoids(1, 10, 10), MSE
    ),
    "Conv4 84 × 84": Case(
        lambda: Conv4(inputs=(3, 84, 84), outputs=5, channels=32, down="pool"),
        lambda: images(1, (3, 84, 84), 5, 1, 15),
        CROSS_ENTROPY,
    ),
    "ResNet-12 32 × 32": Case(
        lambda: ResNet12(inputs=(3, 32, 32), outputs=5), lambda: images(1, (3, 32, 32), 5, 1, 15), CROSS_ENTROPY
    ),
    "transformer": Case(lambda: TorchModel(Sequences), lambda: images(1, (64, 32), 5, 1, 3), CROSS_ENTROPY),
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


def prepared(case: Case, way: Way, steps: int) -> Callable[[], Params]:
    """Returns a function that computes the meta-gradient of one task.

    Args:
        case: model, task and loss.
        way: how.
        steps: inner steps.
    """
    model, episodes = case.model(), case.episode()
    derivative = Implicit(strength=1.0, iterations=5) if way.implicit else Exact()
    inner = Inner(lr=0.01, steps=steps, recompute=way.recompute, derivative=derivative)
    algorithm: Any = MAML(model=model, objective=case.objective, inner=inner)
    theta = algorithm.init(generator(), torch.float32)
    if way.strategy is None:
        return _plain_loop(algorithm, theta, unstack(episodes, 0), steps)
    context, engine = context_of(algorithm, 0, torch.float32), build(way.strategy, algorithm, Limits())
    return lambda: engine.meta_gradient(theta, episodes, context).gradient


def _plain_loop(algorithm: MAML, theta: Params, episode: Episode, steps: int) -> Callable[[], Params]:
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}

    def loss(params: Params, examples: Any) -> Tensor:
        return algorithm.objective.loss(algorithm.model.apply(params, examples.inputs), examples.targets)

    def run() -> Params:
        params = dict(leaves)
        for _ in range(steps):
            gradient = torch.autograd.grad(loss(params, episode.support), list(params.values()), create_graph=True)
            params = {name: value - 0.01 * g for (name, value), g in zip(params.items(), gradient, strict=True)}
        found = torch.autograd.grad(loss(params, episode.query), list(leaves.values()), allow_unused=True)
        return {name: torch.zeros_like(leaves[name]) if g is None else g for name, g in zip(leaves, found, strict=True)}

    return run


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
                found = cell(case, way, steps)
                record = found if isinstance(found, str) else found._asdict()
                to_stderr(json.dumps({"model": case, "way": way, "steps": steps, "result": record}))
                row.append(found if isinstance(found, str) else _shown(found))
            lines.append(f"| {' | '.join(row)} |")
        print("\n".join(lines), end="\n\n", flush=True)
    return 0


def _shown(found: Cell) -> str:
    return f"{found.megabytes:.1f} · {found.seconds:.3g} ({found.first:.3g})"


if __name__ == "__main__":
    sys.exit(main())

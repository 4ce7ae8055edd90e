"""Inductor, the compiler behind ``torch.compile``: forward and both backward passes as one graph, compiled.

It gets the graph that the strategies ``trace`` and ``loop`` replay. ``torch.compile`` does not take the function, since
Dynamo, its front end, stops at the Python around ``torch.func.grad`` (torch 2.13: «does not yet support subscripting
'type'», an annotation). Of a model alone it makes a function that cannot be differentiated twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.competitor import LeftOut, Option, Prepared, torch_options
from benchmarks.suites import Work
from meta.algorithms import gradient_of
from meta.context import FIXED
from meta.engine.simplify import record
from meta.engine.strategies import build
from meta.episode import from_leaves, leaves
from meta.models import MLP
from meta.params import Params

# One C++ entry instead of Python between kernels, and convolutions in the layout that the graph has: each was faster.
# Its processor backend compiles for this processor by default. ``max_autotune`` and ``-ffp-contract=fast`` gained
# nothing on sinusoid and omniglot, so they stay off.
SETTINGS = {"cpp_wrapper": True, "layout_optimization": False}


@dataclass(frozen=True)
class Inductor:
    """One program for all tasks, or for a task, called task after task."""

    name: str = "inductor"

    def options(self, work: Work, threads: int) -> list[Option]:
        """One thread and all of them, as loops and convolutions within the program use them.

        A network without convolutions runs vectorised over tasks, where calls of a program for each task took eight
        times as long (sinusoid). With convolutions it runs task by task: vectorised they are grouped ones, which were
        slower and took longer to compile (omniglot).
        """
        form = "vmap" if isinstance(work.model, MLP) else "loop"
        return [option._replace(form=form) for option in torch_options(work, threads)]

    def prepare(self, work: Work, option: Option) -> Prepared:
        """Lay out the data; recording and compiling are part of the first call."""
        if work.device.type != "cpu":
            raise LeftOut("compared on the processor only, where native computes")
        run = _vectorised(work, option.threads) if option.form == "vmap" else _task_by_task(work, option.threads)
        return Prepared(run=run, strategy=option.form)


def _vectorised(work: Work, threads: int) -> Callable[[], Params]:
    names = tuple(work.params)
    inputs = [*work.params.values(), *leaves(work.episodes)]

    def summed(*tensors: Tensor) -> list[Tensor]:
        params, episodes = dict(zip(names, tensors, strict=False)), from_leaves(tensors[len(names) :])
        gradient = build("vmap", work.suite.algorithm).meta_gradient(params, episodes).gradient
        return [gradient[name] for name in names]

    @cache
    def program() -> Any:
        return compiled(summed, inputs, threads)

    def run() -> Params:
        with torch.inference_mode():
            return dict(zip(names, program()(*inputs), strict=True))

    return run


def _task_by_task(work: Work, threads: int) -> Callable[[], Params]:
    names = tuple(work.params)
    theta = list(work.params.values())
    zeros = [torch.zeros_like(value) for value in theta]
    tasks = [leaves(episode) for episode in work.tasks()]

    def added(*tensors: Tensor) -> list[Tensor]:
        """The sum so far, with one task's gradient added."""
        count = len(names)
        params, total = dict(zip(names, tensors, strict=False)), tensors[count : 2 * count]
        gradient, _ = gradient_of(work.suite.algorithm)(params, from_leaves(tensors[2 * count :]), FIXED)
        return [one + gradient[name] for name, one in zip(names, total, strict=True)]

    @cache
    def program() -> Any:
        return compiled(added, [*theta, *zeros, *tasks[0]], threads)

    def run() -> Params:
        with torch.inference_mode():
            total = zeros
            for task in tasks:
                total = program()(*theta, *total, *task)
            return dict(zip(names, total, strict=True))

    return run


def compiled(function: Callable[..., list[Tensor]], inputs: Sequence[Tensor], threads: int) -> Any:
    """The function recorded and compiled for inputs of these shapes.

    Args:
        function: a pure function of tensors, differentiation included.
        inputs: examples.
        threads: threads that the program uses.

    Raises:
        LeftOut: if Inductor cannot compile it here.
    """
    from torch import _inductor  # imports much that nothing else here needs

    graph = record(function, inputs)
    try:
        return _inductor.compile(graph, list(inputs), options={**SETTINGS, "cpp.threads": threads})
    except Exception as error:  # its own errors, torch's, and those of the C++ compiler
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
        raise LeftOut(f"Inductor does not compile the graph ({reason})") from error

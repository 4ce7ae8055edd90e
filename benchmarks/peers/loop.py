"""The plain loop over tasks: what learn2learn does, written out with torch alone. Always there."""

from dataclasses import dataclass

import torch

from benchmarks.competitor import Option, Prepared, torch_options
from benchmarks.suites import Work
from meta.params import Params


@dataclass(frozen=True)
class Loop:
    """``torch.autograd.grad(create_graph=True)`` inside, ``backward()`` outside, one task after another."""

    name: str = "loop"

    def options(self, work: Work, threads: int) -> list[Option]:
        """One thread and all of them."""
        return torch_options(work, threads)

    def prepare(self, work: Work, option: Option) -> Prepared:
        """Make the parameters leaves that collect their gradient."""
        del option
        theta = {name: value.clone().requires_grad_() for name, value in work.params.items()}
        tasks = work.tasks()
        lr = work.suite.lr

        def run() -> Params:
            for value in theta.values():
                value.grad = None
            for episode in tasks:
                params: Params = dict(theta)
                for _ in range(work.suite.steps):
                    loss = work.inner(params, episode.support)
                    gradient = torch.autograd.grad(loss, list(params.values()), create_graph=True)
                    params = {
                        name: value - lr * step for (name, value), step in zip(params.items(), gradient, strict=True)
                    }
                work.outer(params, episode.query).backward()
            return collected(theta)

        return Prepared(run=run)


def collected(theta: Params) -> Params:
    """The gradients that have been collected; zero where a parameter does not matter."""
    return {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in theta.items()}

"""The library ``higher`` (github.com/facebookresearch/higher)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.peers.modules import ModuleLibrary, Network, loss_of
from benchmarks.suites import Work
from meta.episode import Episode


@dataclass(frozen=True)
class Higher(ModuleLibrary):
    """``innerloop_ctx`` with a differentiable SGD, one task after another, as in its MAML example."""

    name: str = "higher"

    def task(self, library: Any, network: Network, work: Work) -> Callable[[Episode], None]:
        """As its example does it."""
        optimizer = torch.optim.SGD(network.parameters(), lr=work.suite.lr)
        inner, outer = work.suite.losses

        def descend(episode: Episode) -> None:
            with library.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (adapted, steps):
                for _ in range(work.suite.steps):
                    steps.step(loss_of(adapted, inner, episode.support))
                loss_of(adapted, outer, episode.query).backward()

        return descend

"""The library ``learn2learn`` (github.com/learnables/learn2learn)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.modules import ModuleLibrary, Network, loss_of
from benchmarks.suites import Work
from meta.episode import Episode


@dataclass(frozen=True)
class Learn2Learn(ModuleLibrary):
    """``MAML`` with a clone per task, as in its examples."""

    name: str = "learn2learn"

    def task(self, library: Any, network: Network, work: Work) -> Callable[[Episode], None]:
        """As its example does it."""
        maml = library.algorithms.MAML(network, lr=work.suite.lr, first_order=False)
        inner, outer = work.suite.losses

        def descend(episode: Episode) -> None:
            learner = maml.clone()
            for _ in range(work.suite.steps):
                learner.adapt(loss_of(learner, inner, episode.support))
            loss_of(learner, outer, episode.query).backward()

        return descend

"""The library ``torchopt`` (github.com/metaopt/torchopt)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.modules import ModuleLibrary, Network, loss_of
from benchmarks.suites import Work
from meta.episode import Episode


@dataclass(frozen=True)
class TorchOpt(ModuleLibrary):
    """``MetaSGD`` one task after another, the initial state recovered after each, as in its MAML example."""

    name: str = "torchopt"

    def task(self, library: Any, network: Network, work: Work) -> Callable[[Episode], None]:
        """As its example does it."""
        optimizer = library.MetaSGD(network, lr=work.suite.lr)
        inner, outer = work.suite.losses
        start, optimizer_start = (library.extract_state_dict(one, by="reference") for one in (network, optimizer))

        def descend(episode: Episode) -> None:
            for _ in range(work.suite.steps):
                optimizer.step(loss_of(network, inner, episode.support))
            loss_of(network, outer, episode.query).backward()
            library.recover_state_dict(network, start)
            library.recover_state_dict(optimizer, optimizer_start)

        return descend

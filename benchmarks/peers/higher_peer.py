"""The library ``higher`` (github.com/facebookresearch/higher)."""

from dataclasses import dataclass

import torch

from benchmarks.competitor import LeftOut, Option, Prepared, torch_options
from benchmarks.peers.loop import collected
from benchmarks.peers.modules import Network, loss_of
from benchmarks.suites import Work
from meta.params import Params


@dataclass(frozen=True)
class Higher:
    """``innerloop_ctx`` with a differentiable SGD, one task after another, as in its MAML example."""

    name: str = "higher"

    def options(self, work: Work, threads: int) -> list[Option]:
        """One thread and all of them."""
        return torch_options(work, threads)

    def prepare(self, work: Work, option: Option) -> Prepared:
        """Wrap the model."""
        del option
        try:
            import higher
        except ImportError as error:
            raise LeftOut(f"not installed ({error})") from error
        network = Network(work)
        optimizer = torch.optim.SGD(network.parameters(), lr=work.suite.lr)
        inner, outer = work.suite.losses
        tasks = work.tasks()

        def run() -> Params:
            network.zero_grad(set_to_none=True)
            for episode in tasks:
                with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (adapted, steps):
                    for _ in range(work.suite.steps):
                        steps.step(loss_of(adapted, inner, episode.support))
                    loss_of(adapted, outer, episode.query).backward()
            return collected(dict(network.named_parameters()))

        return Prepared(run=run)

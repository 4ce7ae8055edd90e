"""The library ``torchopt`` (github.com/metaopt/torchopt)."""

from dataclasses import dataclass

from benchmarks.competitor import LeftOut, Option, Prepared, torch_options
from benchmarks.peers.loop import collected
from benchmarks.peers.modules import Network, loss_of
from benchmarks.suites import Work
from meta.params import Params


@dataclass(frozen=True)
class TorchOpt:
    """``MetaSGD`` one task after another, the initial state recovered after each, as in its MAML example."""

    name: str = "torchopt"

    def options(self, work: Work, threads: int) -> list[Option]:
        """One thread and all of them."""
        return torch_options(work, threads)

    def prepare(self, work: Work, option: Option) -> Prepared:
        """Wrap the model."""
        del option
        try:
            import torchopt
        except ImportError as error:
            raise LeftOut(f"not installed ({error})") from error
        network = Network(work)
        theta = dict(network.named_parameters())
        optimizer = torchopt.MetaSGD(network, lr=work.suite.lr)
        inner, outer = work.suite.losses
        tasks = work.tasks()

        def run() -> Params:
            for value in theta.values():
                value.grad = None
            start = torchopt.extract_state_dict(network, by="reference")
            optimizer_start = torchopt.extract_state_dict(optimizer, by="reference")
            for episode in tasks:
                for _ in range(work.suite.steps):
                    optimizer.step(loss_of(network, inner, episode.support))
                loss_of(network, outer, episode.query).backward()
                torchopt.recover_state_dict(network, start)
                torchopt.recover_state_dict(optimizer, optimizer_start)
            return collected(dict(theta))

        return Prepared(run=run)

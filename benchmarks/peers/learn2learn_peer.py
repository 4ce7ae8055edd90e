"""The library ``learn2learn`` (github.com/learnables/learn2learn)."""

from dataclasses import dataclass

from benchmarks.competitor import LeftOut, Option, Prepared, torch_options
from benchmarks.peers.loop import collected
from benchmarks.peers.modules import Network, loss_of
from benchmarks.suites import Work
from meta.params import Params


@dataclass(frozen=True)
class Learn2Learn:
    """``MAML`` with a clone per task, as in its examples."""

    name: str = "learn2learn"

    def options(self, work: Work, threads: int) -> list[Option]:
        """One thread and all of them."""
        return torch_options(work, threads)

    def prepare(self, work: Work, option: Option) -> Prepared:
        """Wrap the model."""
        del option
        try:
            import learn2learn
        except ImportError as error:
            raise LeftOut(f"not installed ({error})") from error
        network = Network(work)
        maml = learn2learn.algorithms.MAML(network, lr=work.suite.lr, first_order=False)
        inner, outer = work.suite.losses
        tasks = work.tasks()

        def run() -> Params:
            network.zero_grad(set_to_none=True)
            for episode in tasks:
                learner = maml.clone()
                for _ in range(work.suite.steps):
                    learner.adapt(loss_of(learner, inner, episode.support))
                loss_of(learner, outer, episode.query).backward()
            return collected(dict(network.named_parameters()))

        return Prepared(run=run)

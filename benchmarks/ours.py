"""Our own engine as a competitor. The one place here that knows how an engine is chosen and built."""

from dataclasses import dataclass

from benchmarks.competitor import LeftOut, Option, Prepared, torch_options
from benchmarks.suites import Work
from meta.engine import choice
from meta.engine.native.ir import Unsupported
from meta.engine.strategies import STRATEGIES, Engine, Limits, build

AUTO = "auto"
RUN = 60_000  # outer steps of the training that a strategy is chosen for: the paper's


def engine(strategy: str, work: Work, threads: int) -> Engine:
    """The engine of a strategy, or of the one that ``auto`` comes to for a long training.

    Args:
        strategy: its name, or ``auto``.
        work: to be done.
        threads: number of cores.

    Raises:
        LeftOut: if there is no such strategy.
    """
    algorithm = work.suite.algorithm
    if strategy == AUTO:
        chosen = choice.choose(algorithm, work.params, work.episodes, work.device, RUN * work.suite.tasks)
        return build(chosen.name, algorithm, Limits(threads=threads))
    if strategy not in STRATEGIES:
        raise LeftOut(f"expected a strategy of {', '.join((AUTO, *STRATEGIES))}, received '{strategy}'")
    return build(strategy, algorithm, Limits(threads=threads))


@dataclass(frozen=True)
class Metaray:
    """metaray under one strategy; ``auto`` is what a user gets who says nothing."""

    strategy: str = AUTO

    @property
    def name(self) -> str:
        """``metaray``, or with the strategy that was asked for."""
        return "metaray" if self.strategy == AUTO else f"metaray ({self.strategy})"

    def options(self, work: Work, threads: int) -> list[Option]:
        """One thread and all of them."""
        return torch_options(work, threads)

    def prepare(self, work: Work, option: Option) -> Prepared:
        """Build the engine."""
        built = engine(self.strategy, work, option.threads)

        def run() -> object:
            try:
                return built.meta_gradient(work.params, work.episodes).gradient
            except Unsupported as error:
                raise LeftOut(str(error)) from error

        return Prepared(run=run, strategy=built.name)

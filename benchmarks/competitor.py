"""The interface of a competitor in a measurement."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from benchmarks.suites import Work
from meta.params import Params


class LeftOut(Exception):  # noqa: N818 - not a fault: the competitor takes no part
    """Raised by a competitor that cannot do a work; the message says why."""


class Option(NamedTuple):
    """A way to run a competitor; of several, the fastest is measured.

    Attributes:
        threads: torch's threads.
        form: a variant of the program, the competitor's own.
    """

    threads: int
    form: str = ""


def _itself(result: Any) -> Params:
    gradient: Params = result
    return gradient


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A competitor set up for a work.

    Attributes:
        run: compute the sum of the tasks' meta-gradients; done when it returns, but for a GPU's queue.
        gradient: its result as torch tensors by name, outside the measured time.
        strategy: the strategy or form that was chosen.
    """

    run: Callable[[], Any]
    gradient: Callable[[Any], Params] = _itself
    strategy: str = ""


class Competitor(Protocol):
    """A library, or a strategy of ours."""

    @property
    def name(self) -> str:
        """As in the results."""
        ...

    def options(self, work: Work, threads: int) -> list[Option]:
        """Ways to run on ``threads`` cores; reasonable ones only, all are tried.

        Args:
            work: to be done.
            threads: number of cores.
        """
        ...

    def prepare(self, work: Work, option: Option) -> Prepared:
        """Import the library and lay out the data, without computing.

        Args:
            work: to be done.
            option: one of :meth:`options`.

        Raises:
            LeftOut: if it cannot do this work here.
        """
        ...


def torch_options(work: Work, threads: int) -> list[Option]:
    """One thread and all of them; small networks are faster on one. On a GPU there is nothing to choose.

    Args:
        work: to be done.
        threads: number of cores.
    """
    counts = {1, threads} if work.device.type == "cpu" else {threads}
    return [Option(count) for count in sorted(counts)]

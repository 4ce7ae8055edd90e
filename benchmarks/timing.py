"""Paired times: in every round each competitor runs once, so that a machine's moods hit all of them alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LEAST = 0.02  # seconds that one sample takes at least, by repeated calls
MOST_CALLS = 200
PATIENCE = 60.0  # seconds after which a competitor drops out of further rounds
LEAST_ROUNDS = 2

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Something to be timed.

    Attributes:
        before: set the process up for it; not timed.
        run: one call, complete when it returns.
        calls: calls that one sample consists of.
        rounds: rounds that it takes part in.
    """

    before: Callable[[], None]
    run: Callable[[], object]
    calls: int = 1
    rounds: int = LEAST_ROUNDS

    def sample(self, clock: Clock = time.perf_counter) -> float:
        """Seconds of one call, a mean over the sample's calls."""
        self.before()
        start = clock()
        for _ in range(self.calls):
            self.run()
        return (clock() - start) / self.calls


def calls_for(seconds: float) -> int:
    """Calls of so many seconds that make a sample.

    >>> calls_for(1.0), calls_for(0.0005)
    (1, 40)
    """
    return min(MOST_CALLS, max(1, math.ceil(LEAST / max(seconds, 1e-9))))


def rounds_for(seconds: float, asked: int) -> int:
    """Number of rounds in which a competitor takes part; a slow one leaves after some.

    Args:
        seconds: time of one call.
        asked: rounds of the measurement.

    >>> rounds_for(0.1, 10), rounds_for(15.0, 10), rounds_for(100.0, 10)
    (10, 4, 2)
    """
    return max(min(LEAST_ROUNDS, asked), min(asked, int(PATIENCE / max(seconds, 1e-9))))


def alternate(runners: Mapping[str, Runner], clock: Clock = time.perf_counter) -> dict[str, list[float]]:
    """Seconds per call of every runner and round, A B C A B C …; the caller has warmed the runners up.

    Args:
        runners: by name.
        clock: seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(max((runner.rounds for runner in runners.values()), default=0)):
        for name, runner in runners.items():
            if number < runner.rounds:
                times[name].append(runner.sample(clock))
    return times


def median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds of others' time by ours, pair by pair.

    Args:
        times: ours, seconds by round.
        others: another's, seconds by round.

    >>> median_ratio([1.0, 2.0, 1.0], [3.0, 8.0, 2.0])
    3.0
    """
    return statistics.median(other / own for own, other in zip(times, others, strict=False))

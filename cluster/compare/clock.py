"""Seconds of training: how many a run has taken by its own record, and a budget of them."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.interrupts import StopFlag

RATE = "train/steps_per_second"
Record = Mapping[str, Any]


class Clock(StopFlag):
    """Set once a training has taken its seconds; without a number of them, never."""

    def __init__(self, seconds: float | None, spent: float, now: Callable[[], float] = time.monotonic) -> None:
        """Start to count.

        Args:
            seconds: of training; None: as many as it takes.
            spent: seconds that the training took before it was interrupted.
            now: reads a clock that never goes back, in seconds.
        """
        super().__init__()
        self._now = now
        self._deadline = None if seconds is None else now() + seconds - spent

    def __bool__(self) -> bool:
        """Whether the seconds are over."""
        return self._deadline is not None and self._now() >= self._deadline


def seconds_at(records: Iterable[Record], steps: Iterable[float]) -> NDArray[np.float64]:
    """Seconds of training until each of N numbers of outer steps, [N], linear between records.

    A run records its rate over the steps since its last record; steps that are computed again after an interruption
    are recorded once, so their seconds count once. Validation beside the training counts.

    Args:
        records: of ``metrics.jsonl``, in order.
        steps: outer steps done, N of them; beyond the last record the seconds are those of the last.

    >>> records = [{"step": 10, "values": {RATE: 5.0}}, {"step": 20, "values": {RATE: 10.0}}]
    >>> seconds_at(records, [0, 5, 10, 20, 30]).tolist()
    [0.0, 1.0, 2.0, 3.0, 3.0]
    """
    known, seconds = [0.0], [0.0]
    for record in records:
        rate = record["values"].get(RATE)
        if rate:
            seconds.append(seconds[-1] + (record["step"] - known[-1]) / rate)
            known.append(float(record["step"]))
    return np.interp(np.array(list(steps), dtype=np.float64), known, seconds)

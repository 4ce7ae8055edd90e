"""Peak of the memory of processes."""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path

NAMES = {"metaray-worker", "ray::WorkerActo"}  # of workers' processes, forked or Ray's own


def peak_memory_mb(workers: Sequence[int] = ()) -> float:
    """The largest peak of resident memory, in MB (10⁶ bytes), among this process and workers on this machine.

    Each process counts for itself, the libraries that it has loaded included; where Linux's ``/proc`` is missing this
    process alone is measured.

    Args:
        workers: process ids of workers; those of other machines are left out.
    """
    peaks = [_peak("self")]
    for pid in workers:
        name = Path(f"/proc/{pid}/comm")
        if name.is_file() and name.read_text().strip() in NAMES:  # else a number of another machine's
            peaks.append(_peak(str(pid)))
    return max(peaks) / 1e6


def _peak(process: str) -> int:
    """The peak of one process's resident memory, in bytes.

    ``ru_maxrss`` starts from the peak of the process that started this one; a process's own is in ``status``.
    """
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if process != "self":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

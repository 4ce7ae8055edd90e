"""Peak memory and first call of a competitor, in a process of its own."""

import ctypes
import gc
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.competitor import Competitor, Option, Prepared
from benchmarks.process import empty_caches, in_child
from benchmarks.suites import Suite, Work
from meta.engine.memory import keep_freed_memory

CALLS = 2  # the second sees what is kept between calls
MB = 1e6


class Fresh(NamedTuple):
    """A competitor in a process that has computed nothing, with no compiled program on the disk.

    Attributes:
        megabytes: peak above what the process held before the first call, in 10⁶ bytes.
        seconds: of the first call, recording and compiling included.
    """

    megabytes: float
    seconds: float


def fresh(competitor: Competitor, suite: Suite, option: Option, device: str = "cpu", keep: bool = True) -> Fresh:
    """Peak memory and time of the first calls.

    On the processor the resident set's peak; it includes what the process, without a compiler that it starts, uses to
    record or compile a program. On a GPU the peak of torch's allocations.

    Args:
        competitor: computes the meta-gradient.
        suite: the measurement.
        option: of the competitor.
        device: where it computes.
        keep: whether glibc keeps freed memory.

    Raises:
        RuntimeError: if the process fails.
    """
    value: Fresh = in_child(_measure, competitor, suite, option, device, keep)
    return value


def _measure(competitor: Competitor, suite: Suite, option: Option, device: str, keep: bool) -> Fresh:
    if keep:
        keep_freed_memory()
    torch.set_num_threads(option.threads)
    work = Work.of(suite, device=device)
    with empty_caches():
        prepared = competitor.prepare(work, option)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            seconds = _first(prepared, device)
            return Fresh((torch.cuda.max_memory_allocated() - before) / MB, seconds)
        give_back_freed_memory()
        reset_peak()
        before = peak_resident()
        seconds = _first(prepared, device)
        return Fresh((peak_resident() - before) / MB, seconds)


def _first(prepared: Prepared, device: str) -> float:
    """Seconds of the first of some calls."""
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        prepared.run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[0]


def give_back_freed_memory() -> None:
    """Let glibc give the system what making weights and data has freed, or the first call would take it up unseen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def reset_peak() -> None:
    """Let the peak start anew from what is resident now, where Linux lets us."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def peak_resident() -> int:
    """The largest resident set so far, in bytes.

    Linux's ``ru_maxrss`` starts from the peak of the process that started this one; its own peak is in ``status``.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

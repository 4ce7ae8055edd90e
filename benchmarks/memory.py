"""Peak memory of a competitor, in a process of its own."""

import ctypes
import gc
import sys
from pathlib import Path

import torch

from benchmarks.competitor import Competitor, Option
from benchmarks.process import in_child
from benchmarks.suites import Suite, Work
from meta.engine.memory import keep_freed_memory

CALLS = 2  # the second sees what is kept between calls
MB = 1e6


def peak_mb(competitor: Competitor, suite: Suite, option: Option, device: str = "cpu", keep: bool = True) -> float:
    """Megabytes (10⁶ bytes) above what the process held before the first call.

    On the processor the resident set's peak; it includes what is used to record or compile a program. On a GPU the
    peak of torch's allocations.

    Args:
        competitor: computes the meta-gradient.
        suite: the measurement.
        option: of the competitor.
        device: where it computes.
        keep: whether glibc keeps freed memory.

    Raises:
        RuntimeError: if the process fails.
    """
    value: float = in_child(_measure, competitor, suite, option, device, keep)
    return value


def _measure(competitor: Competitor, suite: Suite, option: Option, device: str, keep: bool) -> float:
    if keep:
        keep_freed_memory()
    torch.set_num_threads(option.threads)
    work = Work.of(suite, device=device)
    prepared = competitor.prepare(work, option)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(CALLS):
            prepared.run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MB
    give_back_freed_memory()
    reset_peak()
    before = peak_resident()
    for _ in range(CALLS):
        prepared.run()
    return (peak_resident() - before) / MB


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

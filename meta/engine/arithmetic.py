"""Arithmetic of one order, so that the same operations give the same bits."""

import os
import sys

import torch


def fix_arithmetic(threads: int) -> None:
    """Makes torch in this process add in one fixed order, by a fixed number of threads and deterministic kernels."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # As torch.use_deterministic_algorithms does, which imports all of Inductor for one of its settings, for 1.4 s.
    torch.set_deterministic_debug_mode("error")
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")  # read when Inductor is imported
    if (inductor := sys.modules.get("torch._inductor.config")) is not None:
        inductor.deterministic = True  # type: ignore[attr-defined]
    # Filling new memory with NaN is for hunting errors; it costs time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

"""Arithmetic of one order, so that the same operations give the same bits."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "TORCHINDUCTOR_DETERMINISTIC")


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


@contextmanager
def kept_arithmetic() -> Iterator[None]:
    """Puts back, after a block, what :func:`fix_arithmetic` sets for the whole process."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    variables = {name: os.environ.get(name) for name in VARIABLES}
    inductor = sys.modules.get("torch._inductor.config")
    deterministic = getattr(inductor, "deterministic", None)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if inductor is not None:
            inductor.deterministic = deterministic  # type: ignore[attr-defined]

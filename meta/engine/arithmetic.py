"""Arithmetic of one order, so that the same operations give the same bits."""

import os

import torch


def fix_arithmetic(threads: int) -> None:
    """Makes torch in this process add in one fixed order, by a fixed number of threads and deterministic kernels."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling new memory with NaN is for hunting errors; it costs time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

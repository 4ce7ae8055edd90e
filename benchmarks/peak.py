"""The machine's limit: the fastest matrix product of large square matrices."""

import time
from collections.abc import Callable

import torch

from benchmarks.episodes import generator

SIZES = (1024, 2048)
GPU_SIZES = (4096, 8192)


def peak_gflops(threads: int, *, sizes: tuple[int, ...] = SIZES, rounds: int = 8) -> float:
    """Best rate of a single-precision matrix product on the processor, in 10⁹ operations a second.

    Args:
        threads: number of cores.
        sizes: rows and columns of the matrices that are tried.
        rounds: products of each size.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return max(_rate(size, rounds, "cpu", lambda: None) for size in sizes)
    finally:
        torch.set_num_threads(before)


def gpu_peaks(sizes: tuple[int, ...] = GPU_SIZES, rounds: int = 20) -> dict[str, float]:
    """Best rates on the GPU: in single precision, and with TF32, which convolutions use unless told otherwise.

    Args:
        sizes: rows and columns of the matrices that are tried.
        rounds: products of each size.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    rates = {}
    try:
        for name, allowed in (("cuda", False), ("cuda_tf32", True)):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            rates[name] = max(_rate(size, rounds, "cuda", torch.cuda.synchronize) for size in sizes)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return rates


def peaks(threads: int, device: str = "cpu") -> dict[str, float]:
    """Measured peaks: by number of threads on the processor, by precision on a GPU.

    Args:
        threads: number of cores.
        device: ``cpu`` or ``cuda``.
    """
    if device == "cuda":
        return gpu_peaks()
    return {str(count): peak_gflops(count) for count in sorted({1, threads})}


def _rate(size: int, rounds: int, device: str, wait: Callable[[], None]) -> float:
    source = generator()
    one = torch.randn(size, size, generator=source).to(device)
    other = torch.randn(size, size, generator=source).to(device)
    out = torch.empty(size, size, device=device)
    best = float("inf")
    for _ in range(rounds):
        wait()
        start = time.perf_counter()
        torch.mm(one, other, out=out)
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9

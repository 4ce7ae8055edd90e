"""Processor, libraries, GPU and data of a worker: besides the configuration, they decide bits of θ."""

import platform

import numpy
import torch

from cluster.errors import ClusterError
from meta.engine.machine import cpu_info

Arithmetic = dict[str, str]


def arithmetic() -> Arithmetic:
    """The parts of this process's machine on which bits may depend, by name."""
    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "extensions": _extensions(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _extensions() -> str:
    """The vector instructions of the processor, which compilers choose from."""
    flags = {flag for line in cpu_info("flags", "Features") for flag in line.split()}
    return " ".join(sorted(flag for flag in flags if flag.startswith(("avx", "fma", "sse", "sve", "asimd", "amx"))))


def differences(one: Arithmetic, other: Arithmetic) -> list[str]:
    """The names at which two differ, with both values."""
    return [f"{name}: {one.get(name)} and {other.get(name)}" for name in one if one.get(name) != other.get(name)]


def require_same_arithmetic(first: Arithmetic, own: Arithmetic, *, mixed: bool) -> None:
    """Refuse a worker whose arithmetic may give other bits than that of the first.

    Args:
        first: the first worker's.
        own: this one's.
        mixed: whether that is wanted.

    Raises:
        ClusterError: naming what differs.
    """
    if not mixed and (unlike := differences(first, own)):
        raise ClusterError(
            f"expected workers on machines of one kind, received two that differ in {'; '.join(unlike)}: which of them "
            "computes a shard would decide bits of θ. Use machines of one kind, or set cluster.mixed=true, which "
            "promises nearly the same θ instead of the same bits"
        )


def require_same_data(expected: str, data: str) -> None:
    """Refuse a worker whose machine has other data at the place that the configuration names.

    Args:
        expected: fingerprint of the driver's data, empty if there are none.
        data: of the worker's.

    Raises:
        ClusterError: naming both.
    """
    if data != expected:
        raise ClusterError(
            f"expected data of fingerprint {expected or 'none'} on every machine, a worker found {data or 'none'}; "
            "copy the same store to all of them, or set task.root to an address that all reach"
        )

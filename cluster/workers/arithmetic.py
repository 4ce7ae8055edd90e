"""Processor, libraries and GPU of a worker: besides the configuration, they decide the bits of its arithmetic."""

import platform

import numpy
import torch

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

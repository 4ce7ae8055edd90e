"""The names of what was measured: machine and versions."""

import platform
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.process import available_cores

PACKAGES = ("metaray", "torch", "numpy", "higher", "torchopt", "jax", "jaxlib", "learn2learn", "ray")


def processor() -> str:
    """The processor's name.

    >>> bool(processor())
    True
    """
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()


def hardware() -> dict[str, str | int | None]:
    """Processor, the cores that may be used, memory in gigabytes, GPU."""
    memory = None
    info = Path("/proc/meminfo")
    if info.exists():
        memory = round(int(info.read_text().split()[1]) / 1e6)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": processor(), "cores": available_cores(), "memory_gb": memory, "gpu": gpu}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        if package not in found:
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found

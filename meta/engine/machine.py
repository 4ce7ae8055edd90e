"""This machine: its processor, cores, memory and GPU, the versions on it, and metaray's cache folder."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("metaray", "torch", "numpy", "higher", "torchopt", "jax", "jaxlib", "learn2learn", "ray")


def cpu_info(*keys: str) -> list[str]:
    """Distinct values that Linux reports under any of the keys, such as ``model name``; none on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return sorted({value.strip() for key, _, value in pairs if key.strip() in keys})


def processor() -> str:
    """The processor's name.

    >>> bool(processor())
    True
    """
    names = cpu_info("model name", "Model")
    return names[0] if names else platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    numbers = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        if package not in numbers:
            try:
                numbers[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
    if torch.version.cuda:
        numbers["cuda"] = torch.version.cuda
    return numbers


def cache_folder() -> Path:
    """The folder of compiled programs, of copies of remote stores and of a rule measured here.

    ``$METARAY_CACHE``, by default ``~/.cache/metaray``.

    Raises:
        RuntimeError: if there is no home.
    """
    root = os.environ.get("METARAY_CACHE")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "metaray"

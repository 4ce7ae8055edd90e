"""Versions, compiler, devices, memory, disk and permissions of this machine."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from cluster.doctor.findings import Finding, examined
from cluster.errors import ConfigError, MetarayError
from cluster.own_packages import HOME, NAMES
from meta.engine.machine import available_cores, cache_folder, processor
from meta.engine.native.toolchain import NoCompiler, compiler, probe

LEAST_MEMORY = 2 * 2**30  # bytes; the driver, Ray and two workers take about as much
LEAST_DISK = 2**30  # bytes; checkpoints, figures and MLflow's files of many runs
SHOWN = ("metaray", "torch", "ray", "mlflow", "numpy")


def machine(root: str) -> Iterator[Finding]:
    """Findings that need neither Ray nor MLflow.

    Args:
        root: folder or URI of the runs, ``checkpoint.root``.
    """
    yield examined("versions", _versions)
    yield Finding(name="processor", status="ok", text=f"{processor()}, {available_cores()} cores for this process")
    yield examined("compiler", _compiler, "warning")
    yield examined("cache", _cache, "warning")
    yield examined("devices", _devices, "warning")
    yield examined("memory", _memory, "warning")
    yield examined("runs", lambda: _runs(root))
    yield examined("temporary files", lambda: _writable(Path(tempfile.gettempdir())))
    yield examined("names", _names, "warning")


def _versions() -> str:
    """Versions of Python and of the main packages, if all are those that metaray asks for."""
    wrong = []
    for text in requires("metaray") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            present = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name}{requirement.specifier} is missing")
            continue
        if not requirement.specifier.contains(present, prereleases=True):
            wrong.append(f"{requirement.name} is {present}, expected {requirement.specifier}")
    if wrong:
        raise ConfigError(
            f"{'; '.join(wrong)}: install metaray anew, with its constraints: make venv, or pip install ."
        )
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in SHOWN)])


def _compiler() -> str:
    """The compiler that the native engine takes, if it makes a program that runs."""
    try:
        probe()
        return f"{' '.join(compiler())} makes programs that run"
    except NoCompiler as error:
        raise MetarayError(f"{error}; without it trainings run on a slower engine") from error


def _cache() -> str:
    try:
        folder = cache_folder()
    except RuntimeError as error:
        raise ConfigError(f"no home folder ({error}); set METARAY_CACHE to a folder of your own") from error
    return _writable(folder)


def _devices() -> str:
    """GPUs that torch sees, if it sees those that are there."""
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        return ", ".join(f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices)
    if Path("/proc/driver/nvidia/version").exists():
        built = torch.version.cuda or "none: it is a build for processors"
        raise ConfigError(
            f"an NVIDIA driver is there, but torch {torch.__version__} uses no GPU (CUDA {built}); install a build of "
            "torch for CUDA that the driver supports"
        )
    return "no GPU; trainings run on the processor"


def _memory() -> str:
    memory = psutil.virtual_memory()
    text = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available"
    if memory.available < LEAST_MEMORY:
        raise ConfigError(
            f"{text}; a driver with Ray and two workers takes about {LEAST_MEMORY / 2**30:.0f}: end others"
        )
    return text


def _runs(root: str) -> str:
    """Checks that files can be written where runs go, and that the disk has room."""
    if "://" in root:
        from cluster.runs.storage import Store

        return f"{root}, {len(Store(root).names())} files at its top"
    return _writable(Path(root).absolute())


def _writable(folder: Path) -> str:
    """A folder with its free space, if this user can write to it, or to where it would be made."""
    place = next(place for place in (folder, *folder.parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: expected a folder to write to, '{place}' is none for this user; name another")
    free = shutil.disk_usage(place).free
    if free < LEAST_DISK:
        raise ConfigError(f"{folder}: {free / 2**20:.0f} MiB free on its disk; free some, or name another folder")
    return f"{folder}, {free / 2**30:.0f} GiB free"


def _names() -> str:
    """Packages of the working directory that have the name of one of metaray's."""
    own = [name for name in NAMES if (Path(name) / "__init__.py").is_file() or Path(f"{name}.py").is_file()]
    shadowing = [name for name in own if Path(name).resolve().parent != Path(HOME)]
    if shadowing:
        raise ConfigError(
            f"{', '.join(shadowing)} in this folder have names of metaray's own packages: commands import metaray's; "
            "rename yours if a configuration names classes in them"
        )
    return "no package in this folder has the name of one of metaray's"

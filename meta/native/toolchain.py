"""The machine's C++ compiler, and a cache on disk of what it made.

A library is named by the SHA-256 of everything that decides its code: the source, the compiler, its flags and the
processor. It is compiled under a lock, so that the workers of a machine compile it once, and takes its name when it is
whole.
"""

import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from meta.native.ir import Unsupported

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp-simd",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-plt",
    "-fvisibility=hidden",
    "-shared",
    "-fPIC",
    "-w",
)


class Library:
    """A compiled program."""

    def __init__(self, path: Path) -> None:
        """Load it."""
        self._library = ctypes.CDLL(str(path))
        pointer, number = ctypes.c_void_p, ctypes.c_long
        for name in ("shared_bytes", "arena_bytes"):
            getattr(self._library, name).restype = number
        self._library.prepare.argtypes = [pointer, pointer]
        self._library.prepare.restype = None
        self._library.run.argtypes = [pointer, pointer, pointer, pointer, pointer, number, number]
        self._library.run.restype = None
        self.prepare = self._library.prepare
        self.run = self._library.run
        self.shared_bytes: int = self._library.shared_bytes()
        self.arena_bytes: int = self._library.arena_bytes()


@functools.cache
def compiler() -> tuple[str, ...]:
    """The compiler's command: ``$CXX``, or the first of c++, g++ and clang++.

    Raises:
        Unsupported: if there is none.
    """
    chosen = os.environ.get("CXX")
    if chosen:
        command = shlex.split(chosen)
        if shutil.which(command[0]) is None:
            raise Unsupported(f"CXX names '{command[0]}', which is not there")
        return tuple(command)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name) is not None:
            return (name,)
    raise Unsupported("no C++ compiler (c++, g++ or clang++) on this machine; install one, or name it in CXX")


@functools.cache
def _machine() -> str:
    """Compiler, flags and processor: what decides the code besides the source."""
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    return "\n".join([*compiler(), version, *FLAGS, platform.machine(), *_processor()])


def _processor() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.split("\t")[0].strip() in ("model name", "flags", "Features")})


def folder() -> Path:
    """Where compiled programs are kept: ``native`` in ``$METARAY_CACHE``, by default ``~/.cache/metaray``."""
    root = os.environ.get("METARAY_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "metaray") / "native"


def load(source: str) -> Library:
    """The library of a source, compiled unless it has been.

    Raises:
        Unsupported: if there is no compiler, or it refuses the source.
    """
    key = hashlib.sha256(f"{_machine()}\n{source}".encode()).hexdigest()[:32]
    place = folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    if place.stat().st_uid != os.getuid():
        raise Unsupported(f"{place} belongs to somebody else; set METARAY_CACHE to a folder of your own")
    path = place / f"{key}.so"
    if not path.exists():
        with (place / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _compile(source, path)
        (place / f"{key}.lock").unlink(missing_ok=True)
    return Library(path)


def _compile(source: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        text, built = Path(work) / "program.cpp", Path(work) / "program.so"
        text.write_text(source, encoding="utf-8")
        done = subprocess.run(
            [*compiler(), *FLAGS, str(text), "-o", str(built)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            raise Unsupported(f"{' '.join(compiler())} does not compile the program: {first}")
        built.replace(path)

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
import stat
import subprocess
import tempfile
from pathlib import Path

from meta.engine.machine import cache_folder, cpu_info
from meta.engine.native.ir import Unsupported

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
COMPILES_FOR = 900  # seconds at most; the largest program so far took 40

# Not -ffast-math: NaN and infinity spread as in torch, and additions keep the order that is written.
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


class NoCompiler(Unsupported):
    """This machine cannot compile programs, or not keep them; another one might."""


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
        NoCompiler: if there is none.
    """
    chosen = os.environ.get("CXX")
    if chosen:
        command = shlex.split(chosen)
        if shutil.which(command[0]) is None:
            raise NoCompiler(f"CXX names '{command[0]}', which is not there")
        return tuple(command)
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name) is not None:
            return (name,)
    raise NoCompiler("no C++ compiler (c++, g++ or clang++) on this machine; install one, or name it in CXX")


PROBE = """
#define OUT extern "C" __attribute__((visibility("default")))
OUT long shared_bytes() { return 0; }
OUT long arena_bytes() { return 0; }
OUT void prepare(void**, void*) {}
OUT void run(double** theta, void**, void*, void*, double** outputs, long first, long last) {
    for (long task = first; task < last; ++task) outputs[0][task] = 2 * theta[0][0];
}
"""


def probe() -> None:
    """Compile, keep, load and run a small program.

    Raises:
        NoCompiler: saying which of these this machine cannot do.
    """
    library = load(PROBE)
    number, answer = ctypes.c_double(21.0), ctypes.c_double(0.0)
    theta, outputs = (ctypes.c_void_p * 1)(ctypes.addressof(number)), (ctypes.c_void_p * 1)(ctypes.addressof(answer))
    library.run(theta, None, None, None, outputs, 0, 1)
    if answer.value != 42.0:
        raise NoCompiler(f"{' '.join(compiler())} made a program that computes {answer.value} where 42 is right")


@functools.cache
def _machine() -> str:
    """Compiler, flags and processor: what decides the code besides the source."""
    version = _run([*compiler(), "--version"], timeout=60)
    return "\n".join([*compiler(), version, *FLAGS, platform.machine(), *_processor()])


def _run(command: list[str], timeout: float) -> str:
    """Standard output of a compiler.

    Raises:
        NoCompiler: if it cannot be started, fails, or does not end.
    """
    shown = " ".join(command[: len(compiler()) + 1])
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise NoCompiler(f"'{shown}' did not end within {timeout:g} s") from error
    except OSError as error:
        raise NoCompiler(f"'{shown}' cannot be started ({error})") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        first = next((line for line in lines if "error" in line), lines[0] if lines else "it said nothing")
        raise NoCompiler(f"'{shown}' failed with status {done.returncode}: {first.strip()}")
    return done.stdout


def _processor() -> list[str]:
    return cpu_info("model name", "flags", "Features") or [platform.processor()]


def folder() -> Path:
    """Where compiled programs are kept: ``native`` in ``$METARAY_CACHE``, by default ``~/.cache/metaray``.

    Raises:
        NoCompiler: if there is no home.
    """
    try:
        return cache_folder() / "native"
    except RuntimeError as error:
        raise NoCompiler(f"no folder to keep programs in ({error}); set METARAY_CACHE to one") from error


def _own_folder() -> Path:
    """The folder of compiled programs, made if it is not there, to which nobody else can write.

    Raises:
        NoCompiler: if it cannot be made or written to, or if others can write to it: whoever does decides what runs.
    """
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=place):
            pass
        _require_own(place)
    except OSError as error:
        raise NoCompiler(
            f"programs cannot be kept in '{place}' ({error.strerror or error}); set METARAY_CACHE to a folder that "
            "you can write to"
        ) from error
    return place


def _require_own(path: Path) -> None:
    """Check who can write to a file or folder of the cache.

    Raises:
        NoCompiler: if somebody else can.
    """
    status = path.stat()
    if status.st_uid != os.getuid():
        raise NoCompiler(f"'{path}' belongs to somebody else; set METARAY_CACHE to a folder of your own")
    if status.st_mode & OTHERS_WRITE:
        raise NoCompiler(f"others can write to '{path}', and would decide what runs here; chmod go-w it")


def load(source: str) -> Library:
    """The library of a source, compiled unless it has been.

    Raises:
        NoCompiler: if there is no compiler, it fails, or what it made cannot be kept or loaded.
    """
    key = hashlib.sha256(f"{_machine()}\n{source}".encode()).hexdigest()[:32]
    path = _own_folder() / f"{key}.so"
    try:
        if not path.exists():
            lock_path = path.with_suffix(".lock")
            with lock_path.open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    _compile(source, path)
            # A process that waits for the lock has the removed file open, one that comes later makes another. At worst
            # both compile: the library takes its name by a rename and is whole either way.
            lock_path.unlink(missing_ok=True)
        _require_own(path)
    except OSError as error:
        raise NoCompiler(f"programs cannot be kept in '{path.parent}' ({error.strerror or error})") from error
    try:
        return Library(path)
    except (OSError, AttributeError) as error:
        path.unlink(missing_ok=True)  # to be compiled anew the next time
        raise NoCompiler(f"{' '.join(compiler())} made a program that cannot be loaded ({error})") from error


def _compile(source: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        text, built = Path(work) / "program.cpp", Path(work) / "program.so"
        text.write_text(source, encoding="utf-8")
        try:
            _run([*compiler(), *FLAGS, str(text), "-o", str(built)], timeout=COMPILES_FOR)
        except NoCompiler as error:
            raise NoCompiler(f"{compiler()[0]} does not compile the program: {error}") from error
        if not built.is_file():
            raise NoCompiler(f"{' '.join(compiler())} ended with status 0, but made no program")
        built.chmod(0o700)
        built.replace(path)

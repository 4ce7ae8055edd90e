"""Freed memory stays with the process: allocating as much again fetches no page from the system."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

MEGABYTES = 64
PROGRAM = f"""
import resource, sys
if sys.argv[1] == "keep":
    from meta.engine.memory import keep_freed_memory
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray({MEGABYTES} << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
PAGES = MEGABYTES * 256


def faults(mode: str) -> int:
    command = [sys.executable, "-c", PROGRAM, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_freed_memory_is_kept() -> None:
    assert faults("leave") > 0.9 * PAGES / 512  # 512: the system may hand out pages of 2 MB
    assert faults("keep") < 10

"""Commands under test that end otherwise than by themselves."""

import contextlib
import subprocess

import psutil


def kill(driver: subprocess.Popen[str]) -> None:
    """SIGKILL for the driver, then for what it started."""
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.communicate()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=60)

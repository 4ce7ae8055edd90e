"""Commands under test that end otherwise than by themselves."""

import contextlib
import subprocess
from pathlib import Path

import psutil

from helpers.waiting import wait_for


def kill(driver: subprocess.Popen[str]) -> None:
    """SIGKILL for the driver, then for what it started."""
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.communicate()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=60)


def kill_after_checkpoint(driver: subprocess.Popen[str], runs: Path) -> Path:
    """Kill a training once the only run below ``runs`` has a checkpoint; returns that run's folder."""
    wait_for(lambda: driver.poll() is not None or any(runs.glob("*/checkpoints/step-*.safetensors")), "a checkpoint")
    assert driver.poll() is None, driver.communicate()
    kill(driver)
    (run,) = runs.iterdir()
    return run

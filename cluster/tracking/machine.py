"""Use of the processor, memory, disk, network and GPUs, sampled by MLflow's collectors into ``system.jsonl``."""

import threading
from pathlib import Path
from typing import Any

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

from cluster.runs.metrics import MetricsLog

SYSTEM = "system.jsonl"


class MachineSampler:
    """Samples the machine it runs on, in a thread of its own, once more when it is stopped."""

    def __init__(self, folder: Path, every: float) -> None:
        """Start sampling every so many seconds; ``step`` counts the samples, on from those of an earlier start."""
        self.error: Exception | None = None
        self._path, self._every = folder / SYSTEM, every
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="machine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask for the last sample; returns at once."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until all is in the file."""
        self._thread.join()

    def _run(self) -> None:
        try:
            log = MetricsLog(self._path)
            try:
                self._sample(log)
            finally:
                log.close()
        except Exception as error:  # a machine that cannot be measured must not end the training
            self.error = error

    def _sample(self, log: MetricsLog) -> None:
        collectors: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]
        monitors = [*(collector() for collector in collectors), *_gpus()]
        monitors[0].collect_metrics()  # the first use of the processor is of no time at all
        monitors[0].clear_metrics()
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(self._every)
            values: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            log.write(log.last_step + 1, {f"system/{name}": value for name, value in values.items()})


def _gpus() -> list[Any]:
    """MLflow's collector of NVIDIA's or AMD's GPUs; none without a GPU or without the maker's Python library."""
    collectors: list[Any] = [GPUMonitor, ROCMMonitor]
    for collector in collectors:
        try:
            return [collector()]
        except (ImportError, RuntimeError):
            continue
    return []

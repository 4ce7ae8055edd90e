"""How fast a registered model answers over HTTP: this server and others, asked by more and more clients in turn."""

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import numpy as np
import psutil
import torch

from benchmarks.hardware import hardware, versions
from cluster.builder import build
from cluster.config import Config
from cluster.errors import ConfigError, MetarayError
from cluster.policy_setup import PolicySetup
from cluster.registry.client import Registry
from cluster.registry.loading import load_adaptable
from cluster.sections import TrackingConfig
from tasks.family import draw_batch

CLIENTS = (1, 8, 32)
TASKS = 32  # different ones, which clients ask about in turn
START = 120.0  # seconds in which a server has to answer
SECONDS = 10.0  # that a turn lasts
SAMPLE = 5.0  # seconds between two looks at a server's memory
ALIKE = 1e-3  # that probabilities or values of two servers may differ by, in single precision

Command = Callable[[str, int], list[str]]
PYTHON = sys.executable
SERVERS: dict[str, Command] = {
    "metaray": lambda model, port: [PYTHON, "-m", "cluster", "serve", model, "--port", str(port)],
    "mlflow": lambda model, port: [
        *(PYTHON, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
        *("-m", model, "--host", "127.0.0.1", "--port", str(port)),
    ],
    "ray": lambda model, port: [PYTHON, "-m", "cluster.bench_serving_ray", model, str(port)],
}


class Timed(NamedTuple):
    """What clients saw in one turn: seconds of each answer, and how many were none."""

    seconds: list[float]
    failures: int
    length: float

    def as_json(self) -> dict[str, Any]:
        """Answers a second, median and 95th percentile of latency in milliseconds."""
        cuts = statistics.quantiles(self.seconds, n=20, method="inclusive") if len(self.seconds) > 1 else [0.0] * 19
        return {
            "requests_per_second": len(self.seconds) / self.length,
            "median_milliseconds": 1e3 * cuts[9],
            "p95_milliseconds": 1e3 * cuts[18],
            "requests": len(self.seconds),
            "failures": self.failures,
        }


def serving(model: str, names: Sequence[str], say: Callable[[str], None], seconds: float = SECONDS) -> dict[str, Any]:
    """Each server in turn, asked by 1, 8 and 32 clients about one task a request.

    Args:
        model: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        names: of servers in :data:`SERVERS`.
        say: is told how it goes.
        seconds: that a turn lasts.

    Raises:
        ConfigError: if a name is none, a server is not installed, or the model's tasks are acted in.
        MetarayError: if a server does not start, or gives other predictions than the model itself.
    """
    _require_servers(names)
    bodies, expected = questions(model)
    results = []
    for name in names:
        with running(name, model) as (port, process):
            _require_alike(name, port, bodies, expected)
            for clients in CLIENTS:
                ask(port, bodies, clients, seconds / 2)  # records programs, fills caches
                before = os.getloadavg()[0]
                spent = _spent(process)
                found = ask(port, bodies, clients, seconds).as_json()
                found["cpu_milliseconds"] = 1e3 * (_spent(process) - spent) / max(found["requests"], 1)
                memory = _memory(process)
                results.append({"name": name, "clients": clients, **found, "load": before, "memory_mb": memory})
                say(f"{name}, {clients} clients: {found['requests_per_second']:.1f} requests/s")
    return {"model": model, "hardware": hardware(), "versions": versions(), "results": results}


def soak(model: str, minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Resident memory of ``metaray serve`` under the load of 8 clients, sampled."""
    bodies, _ = questions(model)
    samples: list[float] = []
    with running("metaray", model) as (port, process):
        ask(port, bodies, 8, SAMPLE)
        until, answers = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < until:
            found = ask(port, bodies, 8, SAMPLE)
            if found.failures:
                raise MetarayError(f"expected answers, received {found.failures} failures")
            answers += len(found.seconds)
            samples.append(_memory(process))
            say(f"{samples[-1]:.1f} MB after {answers} answers")
    return {"model": model, "minutes": minutes, "answers": answers, "memory_mb": samples, "hardware": hardware()}


COLUMNS = ("server", "clients", "requests/s", "median ms", "95 % ms", "processor ms", "MB", "failures", "load")


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table, in the order of :data:`COLUMNS`."""
    return [
        row["name"],
        str(row["clients"]),
        f"{row['requests_per_second']:.1f}",
        f"{row['median_milliseconds']:.0f}",
        f"{row['p95_milliseconds']:.0f}",
        f"{row['cpu_milliseconds']:.0f}",
        f"{row['memory_mb']:.0f}",
        str(row["failures"]),
        f"{row['load']:.1f}",
    ]


def questions(model: str) -> tuple[list[bytes], np.ndarray[Any, Any]]:
    """Bodies that ask about test tasks of the model's family, one each, and what the model answers, [T, Q, …].

    Raises:
        ConfigError: if its tasks are acted in.
    """
    registry = Registry(TrackingConfig())
    with registry.open(model) as folder:
        config: Config = folder.config
        adaptable = load_adaptable(folder.path)
    setup = build(config)
    if isinstance(setup, PolicySetup):
        raise ConfigError(
            f"expected a model of examples, received a policy, {model}; its trajectories would be made up"
        )
    drawn = draw_batch(setup.family, setup.seed, "test", range(TASKS), torch.float64)
    arrays = (drawn.support.inputs, drawn.support.targets, drawn.query.inputs)
    given = {field.name: array.numpy() for field, array in zip(adaptable.inputs, arrays, strict=True)}
    for field in adaptable.inputs:
        if field.dtype == "uint8":  # images as they are stored
            given[field.name] = np.round(np.moveaxis(given[field.name], -3, -1) * 255).astype(np.uint8)
    expected = adaptable.predict(given, adaptable.inner_steps, adaptable.inner_lr)
    tasks = [{name: array[task : task + 1].tolist() for name, array in given.items()} for task in range(TASKS)]
    return [json.dumps({"inputs": task}).encode() for task in tasks], expected


@contextmanager
def running(name: str, model: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server for the time of a block: the port on 127.0.0.1 that it listens on, and its process.

    Raises:
        MetarayError: with what it wrote, if it does not start.
    """
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        path = f"{Path(PYTHON).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # MLflow runs the first uvicorn there
        process = subprocess.Popen(
            SERVERS[name](model, port), stdout=log, stderr=log, env=os.environ | {"PATH": path}, start_new_session=True
        )
        try:
            until = time.monotonic() + START
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    wrote = log.read()[-2000:].decode(errors="replace")
                    raise MetarayError(f"{name}: expected a server within {START:.0f} s, received: {wrote}")
                time.sleep(0.1)
            yield port, process
        finally:
            _end(process)


def ask(port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> Timed:
    """Let so many clients ask for so long, each as soon as it has been answered, over a connection of its own."""
    times: list[float] = []
    failures: list[str] = []
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        turn = number
        try:
            while time.perf_counter() < until:
                began = time.perf_counter()
                status, _ = post(connection, bodies[turn % len(bodies)])
                times.append(time.perf_counter() - began)
                turn += clients
                if status != 200:
                    failures.append(str(status))
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))
        finally:
            connection.close()

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Timed(times, len(failures), time.perf_counter() - began)


def post(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    """Status and body of one answer."""
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


def _require_servers(names: Sequence[str]) -> None:
    for name in names:
        if name not in SERVERS:
            raise ConfigError(f"expected servers among {', '.join(SERVERS)}, received '{name}'")
    if "ray" in names and find_spec("grpc_reflection") is None:
        raise ConfigError("server ray: expected Ray Serve, which is not installed; pip install 'ray[serve]'")


def _require_alike(name: str, port: int, bodies: Sequence[bytes], expected: np.ndarray[Any, Any]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        for number, body in enumerate(bodies):
            status, answer = post(connection, body)
            if status != 200:
                raise MetarayError(f"{name}: expected predictions, received status {status}: {answer[:500]!r}")
            off = float(np.abs(np.array(json.loads(answer)["predictions"])[0] - expected[number]).max())
            if not off <= ALIKE:
                raise MetarayError(f"{name}: expected the model's predictions, task {number} is {off:.2g} off")
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    known = psutil.Process(process.pid)
    return [known, *known.children(recursive=True)]


def _memory(process: subprocess.Popen[bytes]) -> float:
    """Resident memory of a process and its children, in 10⁶ bytes."""
    return float(sum(one.memory_info().rss for one in _family(process)) / 1e6)


def _spent(process: subprocess.Popen[bytes]) -> float:
    """Seconds that they have computed."""
    return float(sum(sum(one.cpu_times()[:2]) for one in _family(process)))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it started."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        if child.is_running():
            child.kill()

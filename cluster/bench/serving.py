"""Speed of a registered model over HTTP: this server and others, under more and more clients."""

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import psutil
import torch

from cluster.bench import forms as bench_forms
from cluster.bench.clients import ask, post
from cluster.bench.forms import Questions, bound, predictions, require_forms
from cluster.config.schema import Config
from cluster.config.sections import TrackingConfig
from cluster.errors import ConfigError, MetarayError
from cluster.registry.adapting import Adaptable
from cluster.registry.client import Registry
from cluster.registry.loading import load_adaptable
from cluster.setups.build import build
from cluster.setups.episodes import require_episodes
from meta.engine.arithmetic import fix_arithmetic
from meta.engine.machine import available_cores, hardware, versions
from meta.engine.memory import keep_freed_memory
from meta.inputs import parts
from tasks.family import draw_batch

CLIENTS = (1, 8, 32)
TASKS = 32  # different ones, which clients ask about in turn
START = 120.0  # seconds in which a server has to answer
SECONDS = 10.0  # that a turn lasts
COMPILED = 60.0  # seconds that are waited for compiled programs
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
    "ray": lambda model, port: [PYTHON, "-m", "cluster.bench.ray_serve", model, str(port)],
}


def serving(
    model: str,
    names: Sequence[str],
    say: Callable[[str], None],
    seconds: float = SECONDS,
    forms: Sequence[str] = ("json",),
) -> dict[str, Any]:
    """Each server in turn, asked by 1, 8 and 32 clients about one task a request, after the engine by itself.

    Args:
        model: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        names: of servers in :data:`SERVERS`.
        say: is told how it goes.
        seconds: that a turn lasts.
        forms: of requests, of :data:`cluster.bench.forms.FORMS`; servers other than ours are asked in JSON alone.

    Raises:
        ConfigError: if a name is none, a server is not installed, or the model is of RL tasks.
        MetarayError: if a server does not start, or gives other predictions than the model itself.
    """
    _require_servers(names)
    adaptable, arrays = tasks(model)
    require_forms(forms, adaptable.images)
    each = bench_forms.each(arrays)
    questions = {form: bench_forms.questions(form, each, adaptable.images) for form in {"json", *forms}}
    expected = adaptable.predict(arrays, adaptable.inner_steps, adaptable.inner_lr)
    fix_arithmetic(threads=1)
    keep_freed_memory()
    alone = bound(
        adaptable, adaptable.check(arrays, adaptable.inner_steps, adaptable.inner_lr), available_cores(), seconds
    )
    say(f"the engine by itself: {alone['requests_per_second']:.1f} tasks/s")
    results = []
    for name in names:
        with running(name, model) as (port, process):
            for form in forms if name == "metaray" else ("json",):
                _require_alike(name, port, questions[form], expected)
                if name == "metaray":
                    _compile(port, questions[form])
                for clients in CLIENTS:
                    row = _turn(port, process, questions[form], clients, seconds)
                    ratio = row["requests_per_second"] / alone["requests_per_second"]
                    results.append({"name": name, "form": form, "clients": clients, **row, "ratio_to_engine": ratio})
                    say(f"{name}, {form}, {clients} clients: {row['requests_per_second']:.1f} requests/s")
    return {"model": model, "hardware": hardware(), "versions": versions(), "engine": alone, "results": results}


def _compile(port: int, questions: Questions) -> None:
    """Send requests until our server has compiled a program, or it is clear that it will not."""
    until = time.monotonic() + COMPILED
    while time.monotonic() < until:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            if b"metaray_compiled_programs 0.0" not in answer.read():
                return
        ask(port, questions, 8, 1.0)


def _turn(
    port: int, process: subprocess.Popen[bytes], questions: Questions, clients: int, seconds: float
) -> dict[str, Any]:
    ask(port, questions, clients, seconds / 2)  # records programs, fills caches
    load, spent = os.getloadavg()[0], _spent(process)
    timed = ask(port, questions, clients, seconds).as_json()
    timed["cpu_milliseconds"] = 1e3 * (_spent(process) - spent) / max(timed["requests"], 1)
    return timed | {"load": load, "memory_mb": _memory(process)}


def soak(model: str, minutes: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Resident memory of ``metaray serve`` under the load of 8 clients, sampled.

    Args:
        model: address of the registered model.
        minutes: of load.
        say: called with lines about progress.
    """
    adaptable, arrays = tasks(model)
    questions = bench_forms.questions("json", bench_forms.each(arrays), adaptable.images)
    samples: list[float] = []
    with running("metaray", model) as (port, process):
        ask(port, questions, 8, SAMPLE)
        until, answers = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < until:
            timed = ask(port, questions, 8, SAMPLE)
            if timed.failures:
                raise MetarayError(f"expected answers, received {timed.failures} failures")
            answers += len(timed.seconds)
            samples.append(_memory(process))
            say(f"{samples[-1]:.1f} MB after {answers} answers")
    return {"model": model, "minutes": minutes, "answers": answers, "memory_mb": samples, "hardware": hardware()}


COLUMNS = (
    "server",
    "form",
    "clients",
    "requests/s",
    "of engine",
    "median ms",
    "95 % ms",
    "processor ms",
    "MB",
    "failures",
    "load",
)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table, in the order of :data:`COLUMNS`."""
    return [
        row["name"],
        row["form"],
        str(row["clients"]),
        f"{row['requests_per_second']:.1f}",
        f"{row['ratio_to_engine']:.0%}",
        f"{row['median_milliseconds']:.0f}",
        f"{row['p95_milliseconds']:.0f}",
        f"{row['cpu_milliseconds']:.0f}",
        f"{row['memory_mb']:.0f}",
        str(row["failures"]),
        f"{row['load']:.1f}",
    ]


def engine_cells(alone: dict[str, Any]) -> list[str]:
    """The row of the engine by itself."""
    rate, spent = f"{alone['requests_per_second']:.1f}", f"{alone['cpu_milliseconds']:.0f}"
    return ["the engine alone", "", str(alone["threads"]), rate, "100%", "", "", spent, "", "", ""]


def tasks(model: str) -> tuple[Adaptable, dict[str, np.ndarray[Any, Any]]]:
    """A registered model, and arrays [T, …] of test tasks of its family by field.

    Raises:
        ConfigError: if they are RL tasks.
    """
    registry = Registry(TrackingConfig())
    with registry.open(model) as folder:
        config: Config = folder.config
        adaptable = load_adaptable(folder.path)
    setup = require_episodes(build(config))
    drawn = draw_batch(setup.family, setup.seed, "test", range(TASKS), torch.float64)
    arrays = (*parts(drawn.support.inputs), drawn.support.targets, *parts(drawn.query.inputs))
    examples = {field.name: array.numpy() for field, array in zip(adaptable.inputs, arrays, strict=True)}
    for field in adaptable.inputs:
        if field.dtype == "uint8":  # images as they are stored
            examples[field.name] = np.round(np.moveaxis(examples[field.name], -3, -1) * 255).astype(np.uint8)
    return adaptable, examples


@contextmanager
def running(name: str, model: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server for the time of a block: the port on 127.0.0.1 that it listens on, and its process.

    Args:
        name: of the server.
        model: address of the registered model.

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


def _require_servers(names: Sequence[str]) -> None:
    for name in names:
        if name not in SERVERS:
            raise ConfigError(f"expected servers among {', '.join(SERVERS)}, received '{name}'")
    if "ray" in names and find_spec("grpc_reflection") is None:
        raise ConfigError("server ray: expected Ray Serve, which is not installed; pip install 'ray[serve]'")


def _require_alike(name: str, port: int, questions: Questions, expected: np.ndarray[Any, Any]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        for number in range(len(questions.bodies)):
            status, answer, kind = post(connection, questions, number)
            if status != 200:
                raise MetarayError(f"{name}: expected predictions, received status {status}: {answer[:500]!r}")
            off = float(np.abs(predictions(answer, kind)[0] - expected[number]).max())
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

"""One real local Ray and one real MLflow server for all integration tests, and small configurations to run on them."""

import json
import math
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import mlflow
import psutil
import psycopg2
import pytest
import ray
import yaml

from cluster.config.schema import Config, parse
from cluster.config.sections import ClusterConfig
from cluster.workers.session import ray_session
from helpers.scripts import COMMON
from helpers.waiting import HANGS_AFTER, free_ports

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that start clusters and servers more time before they count as hung."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(3 * HANGS_AFTER))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray session with room for three workers; its files go when it goes."""
    folder = tempfile.mkdtemp(prefix="mr")  # short: Ray puts sockets below it
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder
    try:
        with ray_session(ClusterConfig(workers=3)):
            yield
    finally:
        if before is None:
            os.environ.pop("RAY_TMPDIR")
        else:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
    assert not ray.is_initialized()


@pytest.fixture(scope="session")
def small_settings() -> Callable[[Path], dict[str, Any]]:
    """A small training that keeps everything below a folder."""
    return lambda folder: {
        "task": {"family": "sinusoid", "shot": 5, "query": 5},
        "model": {"name": "mlp", "hidden": [20, 20], "init_std": None},
        "inner": {"lr": 0.01, "steps": 1},
        "outer": {"steps": 20},
        "meta_batch": 7,
        "shard": 2,
        "eval": {"tasks": 10, "val_tasks": 6, "steps": [0, 1], "every": 10},
        "cluster": {"workers": 2},
        "checkpoint": {"root": str(folder / "runs"), "every": 10},
        "tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}", "every": 5},
    }


@pytest.fixture(scope="session")
def small_images(make_store: Callable[..., Path]) -> dict[str, Any]:
    """What a small training on pictures has in the place of those settings."""
    return {
        "task": {"family": "images", "root": str(make_store((8, 8, 1), 6, 6)), "way": 3, "shot": 4, "query": 2},
        "model": {"name": "conv4", "channels": 4, "blocks": 2, "batch_norm": "inductive"},
        "inner": {"lr": 0.4, "steps": 2, "adapt": ["*.weight", "*.bias"]},
        "outer": {"steps": 2},
    }


@pytest.fixture
def settings(small_settings: Callable[[Path], dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """The small training in ``tmp_path``."""
    return small_settings(tmp_path)


@pytest.fixture
def make_config(settings: dict[str, Any]) -> Callable[..., Config]:
    """A configuration from the settings with dotted changes."""

    def make(**changes: Any) -> Config:
        raw = yaml.safe_load(yaml.safe_dump(settings))
        for dotted, value in changes.items():
            *sections, key = dotted.split("__")
            target = raw
            for section in sections:
                target = target.setdefault(section, {})
            target[key] = value
        return parse(raw)

    return make


@pytest.fixture
def outcome(tmp_path: Path) -> Callable[[str, Config], dict[str, Any]]:
    """Output of a script that runs in a process of its own, with a Ray of its own, in ``tmp_path``."""

    def run(script: str, config: Config) -> dict[str, Any]:
        (tmp_path / "config.yaml").write_text(config.to_yaml())
        (tmp_path / "script.py").write_text(COMMON + script)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run(
            [sys.executable, "script.py", "config.yaml"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=2 * HANGS_AFTER,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        *_, last = (line for line in done.stdout.splitlines() if line.startswith("{"))  # Ray may say more when it ends
        result: dict[str, Any] = json.loads(last)
        return result

    return run


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a script in a process of its own, which ends when its input does; nothing below it is left."""
    started: list[subprocess.Popen[str]] = []

    def start(text: str) -> subprocess.Popen[str]:
        script = tmp_path / f"beside_{len(started)}.py"
        script.write_text(text)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen([sys.executable, str(script)], env=environment, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        below = psutil.Process(process.pid).children(recursive=True)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=120)
        process.stdout.close()
        # Some are nobody's children in the end and stay zombies where the first process of the machine reaps none.
        alive = psutil.wait_procs(below, timeout=60)[1]
        assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture
def config_file(settings: dict[str, Any], tmp_path: Path) -> Path:
    """The settings as a file."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def metaray(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command in ``tmp_path``, or another folder, as a user would, output piped."""

    def start(*arguments: str, cwd: Path = tmp_path, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster", *arguments],
            cwd=cwd,
            env=dict(os.environ, PYTHONPATH=str(ROOT), RAY_TMPDIR=tempfile.gettempdir()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return start


@pytest.fixture(scope="session")
def finished() -> Callable[..., tuple[int, str, str]]:
    """Wait for a command's end: its exit status, standard output and standard error."""

    def wait(process: subprocess.Popen[str], seconds: float = HANGS_AFTER) -> tuple[int, str, str]:
        try:
            output, errors = process.communicate(timeout=seconds)
        finally:
            process.kill()
        return process.returncode, output, errors

    return wait


def _wait_until(ready: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Ask until ``ready`` raises no error; the process must live until then."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            ready()
            return
        except (OSError, psycopg2.OperationalError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{process.args}: not ready, exit status {process.returncode}") from error
        time.sleep(0.05)  # between two questions


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL of its own for the time of a block; its address for SQLAlchemy."""
    programs = Path(str(shutil.which("initdb"))).resolve().parent
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = known.get("postgres") or known["nobody"]
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    made = ["-D", "data", "-U", "mlflow", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
    subprocess.run([programs / "initdb", *made], cwd=folder, check=True, capture_output=True, **user)
    port = free_ports(1)[0]
    with (folder / "postgres.log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"],
            cwd=folder,
            stdout=log,
            stderr=log,
            **user,
        )
    try:
        where = {"host": "127.0.0.1", "port": port, "user": "mlflow", "dbname": "postgres"}
        _wait_until(lambda: psycopg2.connect(**where).close(), server)
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # a fast, clean shutdown
        server.wait(timeout=60)


class MlflowServer:
    """An ``mlflow server`` over HTTP that can be killed, frozen and started again, its database untouched."""

    def __init__(self, database: str, folder: Path) -> None:
        self.database = database
        self._folder = folder
        self._port = free_ports(1)[0]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, or let it go on; returns when it answers."""
        if self._process is None:
            arguments = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
            stores = ["--backend-store-uri", self.database, "--artifacts-destination", str(self._folder / "artifacts")]
            with (self._folder / "server.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "mlflow", "server", *arguments, *stores],
                    cwd=self._folder,
                    # No helpers beside the server, which would outlive its being killed.
                    env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        os.killpg(self._process.pid, signal.SIGCONT)
        _wait_until(lambda: urllib.request.urlopen(f"{self.uri}/health", timeout=10).close(), self._process)

    def freeze(self) -> None:
        """Stop the server's processes: connections are taken and never answered. ``start`` lets it go on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def stop(self) -> None:
        """Kill the server."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=60)
            self._process = None


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[MlflowServer]:
    """An MLflow server, on PostgreSQL where that is installed, else on SQLite. Who stops it starts it again."""
    folder = Path(tempfile.mkdtemp(prefix="mrml"))
    try:
        embedded = f"sqlite:///{folder / 'mlflow.db'}"
        with _postgresql(folder) if shutil.which("initdb") else nullcontext(embedded) as database:
            server = MlflowServer(database, folder)
            try:
                server.start()
                yield server
            finally:
                server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def assert_all_arrived() -> Callable[..., mlflow.MlflowClient]:
    """Compare what a run's folder and MLflow hold of each metric: the same values at the same steps, each once."""

    def compare(path: Path, uri: str) -> mlflow.MlflowClient:
        client = mlflow.MlflowClient(tracking_uri=uri)
        run_id = json.loads(next(path.glob("[rs]*.json")).read_text())["mlflow_run_id"]
        recorded: dict[str, list[tuple[int, str]]] = {}
        for file in ("metrics.jsonl", "system.jsonl"):
            lines = (path / file).read_text().splitlines() if (path / file).exists() else []
            for record in map(json.loads, lines):
                for name, value in record["values"].items():
                    number = math.nan if value is None else float(value)
                    recorded.setdefault(name, []).append((record["step"], str(number)))
        assert recorded
        for name, history in recorded.items():
            there = [(metric.step, str(metric.value)) for metric in client.get_metric_history(run_id, name)]
            assert sorted(there) == sorted(history), name
        assert client.get_run(run_id).data.metrics.keys() == recorded.keys()
        return client

    return compare

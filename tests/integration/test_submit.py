"""Jobs on a real head node that asks for a token: submitted, followed, stopped, killed, gone on with; and the guide."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster.commands import submit as submit_command
from cluster.errors import ClusterError
from cluster.jobs.client import JobServer
from helpers.waiting import free_ports, wait_for

ROOT = Path(__file__).parents[2]
SECTION = "## From nothing to answers over HTTP"
LASTING = "checkpoint.root={shared}/runs"


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def guide_blocks() -> list[str]:
    """The blocks of commands in the guide's first section."""
    section = (ROOT / "docs" / "cluster.md").read_text().split(SECTION)[1].split("\n## ")[0]
    found = re.findall(r"(?:^    .*\n)+", section, flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]


@dataclass(frozen=True)
class Head:
    """A head node, the folder that its jobs share with the test, and the environment of who submits."""

    address: str
    shared: Path
    environment: dict[str, str]

    def start(self, *words: str, cwd: Path, **more: str) -> subprocess.Popen[str]:
        """Begin ``metaray submit``."""
        return subprocess.Popen(
            [sys.executable, "-m", "cluster", "submit", *words],
            cwd=cwd,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def base_environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("METARAY_CACHE", "LANG") if name in os.environ}
    return kept | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(home / "ray"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # binds to the loopback interface alone
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def require_gone(folder: Path) -> None:
    """No process is left whose command names the folder."""

    def left() -> list[list[str]]:
        commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return [command for command in commands if any(str(folder) in word for word in command)]

    wait_for(lambda: not left(), 30)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head node, started by the guide's own commands, on ports that are free."""
    folder = Path(tempfile.mkdtemp(prefix="mr"))  # short: Ray puts sockets below it
    (folder / "ray").mkdir()
    (folder / "shared").mkdir()
    server, port, agent = free_ports(3)
    environment = base_environment(folder)
    options = f"--port {port} --dashboard-port {server} --dashboard-agent-listen-port {agent} --num-cpus 3"
    script = re.sub(r"(?m)^ray start --head --block.*$", rf"exec \g<0> {options}", guide_blocks()[0])
    assert script.count("exec ") == 1
    log = folder / "head.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(["bash", "-ec", script], env=environment, cwd=folder, stdout=stream, stderr=stream)
    try:
        # The job server takes jobs once the node's agent, which starts them, is there.
        wait_for(lambda: (answers(server) and answers(agent)) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        submitting = {
            "RAY_AUTH_MODE": "token",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'shared' / 'mlflow.db'}",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{server}",
        }
        yield Head(submitting["RAY_API_SERVER_ADDRESS"], folder / "shared", environment | submitting)
    finally:
        process.terminate()
        process.wait(timeout=60)
        require_gone(folder)
        wait_for(lambda: removed(folder), "the last of Ray's processes to leave its folder")


def removed(folder: Path) -> bool:
    """Whether a folder could be removed; a process that ends may still write there."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.fixture
def tree(tmp_path: Path, small_settings: Callable[[Path], dict[str, Any]]) -> Path:
    """A working tree with a small training, which says nothing of where runs lie."""
    settings = small_settings(tmp_path)
    settings["checkpoint"] = {"every": 20}
    settings["tracking"] = {"every": 5}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def command_of(name: str) -> psutil.Process | None:
    """The process that a job's command runs in."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if {"train", "--name", name} <= set(words) and "submit" not in words:
            return process
    return None


def saved(run: Path) -> int:
    """The newest checkpoint's step, or 0."""
    return max((int(path.stem[-9:]) for path in run.glob("checkpoints/step-*.safetensors")), default=0)


@pytest.mark.timeout(900)
def test_a_job_that_was_stopped_and_killed_goes_on_to_the_same_bits(head, tree, finished):
    # `auto` picks the engine by the length of a training, which changes here.
    command = ("train", "small.yaml", "engine=trace", "eval.every=0", "--json")
    lasting = (LASTING.format(shared=head.shared), "outer.steps=1000000")
    run = head.shared / "runs" / "disturbed"
    following = head.start("--name", "disturbed", "--", *command, *lasting, cwd=tree)
    wait_for(lambda: saved(run) or following.poll() is not None)

    # Ctrl-C ends the following alone.
    following.send_signal(signal.SIGINT)
    status, _, errors = finished(following)
    assert status == 1, errors
    assert "job disturbed goes on" in errors
    second = head.start("--name", "disturbed", "--", *command, *lasting, cwd=tree)
    stopping = head.start("--stop", "disturbed", "--json", cwd=tree)
    status, _, errors = finished(second)
    assert (status, "follow it with: metaray submit --name disturbed" in errors) == (2, True), errors
    status, output, errors = finished(stopping)
    assert status == 0, errors
    assert json.loads(output) == {
        "name": "disturbed",
        "job": "disturbed-1",
        "status": "STOPPED",
        "exit_status": None,
        "result": None,
        "left_out": [],
    }
    status, output, errors = finished(head.start("--name", "disturbed", cwd=tree))
    assert status == 1
    assert "was stopped by SIGTERM after step" in output  # the log of the command, which saved before it left
    assert "go on from its last checkpoint by submitting the same command with --name disturbed" in errors

    stopped = saved(run)
    following = head.start("--name", "disturbed", "--", *command, *lasting, cwd=tree)
    wait_for(lambda: saved(run) > stopped or following.poll() is not None)
    killed = command_of("disturbed")
    assert killed is not None
    killed.kill()
    status, _, errors = finished(following)
    assert status == 1
    assert "job disturbed: its command was killed (status -9)" in errors

    killed_at = saved(run)
    assert 0 < stopped < killed_at
    last = (*command, f"outer.steps={killed_at + 50}")  # a training may be made longer or shorter
    status, output, errors = finished(
        head.start("--name", "disturbed", "--json", "--", *last, lasting[0], cwd=tree), 120
    )
    assert status == 0, errors
    assert f"step {killed_at + 50} of {killed_at + 50}" in errors
    found = json.loads(output)
    assert (found["job"], found["status"], found["exit_status"]) == ("disturbed-3", "SUCCEEDED", 0)
    assert Path(found["result"]["run_dir"]) == run

    alone = subprocess.run(
        [sys.executable, "-m", "cluster", *last, "cluster.workers=0"],
        cwd=tree,
        env=head.environment,
        check=True,
        capture_output=True,
    )
    assert json.loads(alone.stdout)["theta_sha256"] == found["result"]["theta_sha256"]


FAMILY = '''
"""A family of somebody's own, outside the working tree."""

import os
from dataclasses import dataclass

from tasks.sinusoid import Sinusoid
from their_tasks.curves import BAD


@dataclass(frozen=True, kw_only=True)
class Mine:
    """Sinusoids of which one task cannot be drawn."""

    @property
    def spec(self):
        return Sinusoid().spec

    def draw(self, key):
        if key.split == "train" and key.index == BAD:
            raise RuntimeError(f"no such curve, {os.environ['PASSED_ON']}, {os.environ.get('NOT_PASSED_ON')}")
        return Sinusoid().draw(key)
'''


def test_the_job_s_exit_status_and_the_user_s_own_modules(head, tree, finished):
    own = tree / "elsewhere" / "their_tasks"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("")
    (own / "curves.py").write_text("BAD = 16\n")
    (own / "family.py").write_text(FAMILY)
    inside = tree / "inside"
    inside.mkdir()
    settings = yaml.safe_load((tree / "small.yaml").read_text())
    settings["task"] = {"family": "their_tasks.family:Mine"}
    (inside / "own.yaml").write_text(yaml.safe_dump(settings))
    path = f"{own.parent}{os.pathsep}{ROOT}"
    lasting = LASTING.format(shared=head.shared)
    words = ("--name", "fails", "--env", "PASSED_ON", "--", "train", "own.yaml", lasting)
    variables = {"PASSED_ON": "a value", "NOT_PASSED_ON": "another"}
    failing = head.start(*words, cwd=inside, PYTHONPATH=path, **variables)
    refused = head.start("--name", "refused", "--", "train", "small.yaml", cwd=tree)

    status, output, errors = finished(failing)
    assert status == 1, errors
    # A worker on the cluster found the module, and drew from it until the third step.
    assert "RuntimeError: no such curve, a value, None" in output
    status, output, errors = finished(refused)
    assert status == 2, errors
    assert "checkpoint.root: expected a folder that outlives the job" in output
    assert sorted(path.name for path in tree.iterdir()) == ["elsewhere", "inside", "small.yaml"]
    assert not (head.shared / "runs" / "refused").exists()


TOKENS = [
    ({"RAY_AUTH_TOKEN": "0" * 64}, "wants a token, received another; set RAY_AUTH_MODE=token"),
    ({"RAY_AUTH_MODE": "disabled"}, "wants a token, received none; set RAY_AUTH_MODE=token"),
    ({"RAY_AUTH_TOKEN_PATH": "nowhere"}, "wants a token"),
]


@pytest.mark.parametrize(("changes", "message"), TOKENS)
def test_another_token_or_none_is_refused(head, tree, finished, changes, message):
    words = ("--", "train", "small.yaml", LASTING.format(shared=head.shared))
    status, output, errors = finished(head.start(*words, cwd=tree, **changes))
    assert (status, output) == (1, ""), errors
    assert message in errors
    assert "Traceback" not in errors
    token = (Path(head.environment["HOME"]) / ".ray" / "auth_token").read_text().strip()
    assert token not in errors


@pytest.fixture
def open_server() -> Iterator[str]:
    """Stands for the job server of a cluster without tokens, as far as it is asked here: it answers anybody."""
    program = (
        "import http.server, json\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "        self.wfile.write(json.dumps({'ray_version': '2.60.0', 'version': '4', 'ray_commit': ''}).encode())\n"
        "    def log_message(self, *_): pass\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Answer)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def test_a_cluster_elsewhere_that_asks_for_no_token_gets_a_warning(head, open_server, monkeypatch, capsys):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")  # which the client sets; restored afterwards
    submit_command._connected(open_server)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("cluster.jobs.client.is_local", lambda host: False)
    submit_command._connected(open_server)
    assert "takes jobs without a token, from whoever reaches it" in capsys.readouterr().err
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError, match="wants a token"):
        JobServer(head.address)


@pytest.mark.timeout(900)
def test_the_guide(head, tree, finished):
    """The commands of the guide, one after the other, in a working tree that holds the configuration."""
    (tree / "tune_configs").mkdir()
    shutil.copy(ROOT / "tune_configs" / "sinusoid_demo.yaml", tree / "tune_configs")
    script = guide_blocks()[1]
    assert script.count("metaray submit") == 3
    environment = {key: value for key, value in head.environment.items() if key not in ("MLFLOW_TRACKING_URI",)}
    process = subprocess.Popen(
        ["bash", "-ec", script.replace("/shared", str(head.shared))],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    status, output, errors = finished(process)
    assert status == 0, output + errors
    assert "models:/sinusoid/1" in output
    assert "mse after inner steps" in output
    assert (head.shared / "runs" / "first" / "report.html").is_file()
    assert_served(head, tree)


def assert_served(head: Head, tree: Path) -> None:
    """The guide's last two blocks, on a port that is free: the server, and the question that curl asks."""
    (port,) = free_ports(1)
    serve, ask = guide_blocks()[2:]
    server = subprocess.Popen(
        ["bash", "-ec", f"exec {serve.strip()} --port {port}"],
        cwd=tree,
        env=head.environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: answers(port) or server.poll() is not None)
        asked = subprocess.run(
            ["bash", "-ec", ask.replace(":8000/", f":{port}/")], env=head.environment, capture_output=True, check=True
        )
        (task,) = json.loads(asked.stdout)["predictions"]
        assert [len(point) for point in task] == [1, 1]
        assert all(abs(value) < 10 for (value,) in task)
    finally:
        server.terminate()
    assert server.wait(timeout=60) == 0


SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
if [[ $1 == hostname ]]; then echo 127.0.0.1; else exec "$@"; fi
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) echo "$3" ;;
    requeue) echo "$2" >> requeued ;;
esac
"""


@pytest.mark.timeout(900)
def test_the_slurm_script_with_slurm_s_commands_stood_in_for(tree, finished):
    """One node: a cluster comes up, the command is stopped as Slurm would, queued again, goes on, and all is gone."""
    home = Path(tempfile.mkdtemp(prefix="mr"))
    try:
        programs = home / "bin"
        programs.mkdir()
        (home / "ray").mkdir()
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        environment = base_environment(home)
        environment |= {
            "PATH": f"{programs}:{environment['PATH']}",
            "SLURM_JOB_ID": str(free_ports(1)[0]),
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_CPUS_PER_TASK": "3",
        }
        words = ["train", "--name", "batch", "small.yaml", "eval.every=0", "--json"]
        script = ["bash", str(ROOT / "cluster" / "manifests" / "slurm.sh"), *words]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([*script, "outer.steps=1000000"], cwd=tree, env=environment, **pipes)
        run = tree / "runs" / "batch"
        wait_for(lambda: saved(run) or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        status, _, errors = finished(process)
        assert "was stopped by SIGTERM after step" in errors
        assert (tree / "requeued").read_text() == environment["SLURM_JOB_ID"] + "\n"
        steps = saved(run) + 20
        again = subprocess.Popen([*script, f"outer.steps={steps}"], cwd=tree, env=environment, **pipes)
        status, output, errors = finished(again)
        assert status == 0, errors
        assert f'"steps": {steps}' in output
        require_gone(home)
    finally:
        shutil.rmtree(home)


BAD = [
    (("--stop", "nobody"), 2, "expected the name of a job at"),
    (("--name", "no/name", "--", "train", "small.yaml"), 2, "name: expected letters, digits"),
    (("--env", "NOT_SET_ANYWHERE", "--", "train", "small.yaml"), 2, "expected the name of an environment variable"),
    (("--address", "ray://127.0.0.1:10001", "--", "train", "small.yaml"), 2, "expected http://HOST:8265"),
    (("--address", "http://127.0.0.1:1", "--", "train", "small.yaml"), 1, "nothing answers"),
]


@pytest.mark.parametrize(("words", "expected", "message"), BAD)
def test_bad_input_sends_nothing(head, tree, finished, words, expected, message):
    status, output, errors = finished(head.start(*words, cwd=tree))
    assert (status, output) == (expected, ""), errors
    assert message in errors
    assert "Traceback" not in errors

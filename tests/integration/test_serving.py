"""``metaray serve`` as a process: answers, limits, malformed requests, and its end under load."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config.schema import parse
from cluster.config.sections import TrackingConfig
from cluster.errors import ConfigError
from cluster.interrupts import stop_on_signals
from cluster.registry.adapting import Adaptable
from cluster.registry.client import Registry
from cluster.registry.loading import load_adaptable
from cluster.registry.register import register
from cluster.serving.limits import Limits
from cluster.serving.loading import load
from cluster.training import run as training
from cluster.training.start import resume
from helpers.folders import new_run
from helpers.waiting import wait_for

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
NAVIGATION = {
    "task": {"family": "navigation", "horizon": 6, "trajectories": 4, "scale": 0.1},
    "model": {"name": "gaussian", "hidden": [7]},
    "inner": {"lr": 0.1, "steps": 1},
    "outer": {"steps": 2, "step": "trpo"},
    "eval": {"tasks": 4, "steps": [0, 1]},
}
JSON = {"Content-Type": "application/json"}


class Served:
    """A server, the model that it serves, and where it listens."""

    def __init__(self, process: subprocess.Popen[str], port: int, model: Adaptable, log: Path) -> None:
        self.process, self.port, self.model, self.log = process, port, model, log

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] = JSON
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, parsed body and headers of one answer."""
        status, text, found = self.receive(method, path, body, headers)
        return status, json.loads(text), found

    def receive(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] = JSON
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of one answer."""
        connection = self.connection()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def ask(self, inputs: dict[str, Any], **params: Any) -> tuple[int, Any]:
        return self.send("POST", "/invocations", written(inputs, **params))[:2]


def written(inputs: dict[str, Any], **params: Any) -> bytes:
    lists = {name: np.asarray(array).tolist() for name, array in inputs.items()}
    return json.dumps({"inputs": lists} | ({"params": params} if params else {})).encode()


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    small_settings: Callable[[Path], dict[str, Any]],
    small_images: dict[str, Any],
) -> Path:
    """A folder whose MLflow has a model of each kind."""
    root = tmp_path_factory.mktemp("serving")
    for name, sections in {"sine": {}, "pictures": small_images, "navigator": NAVIGATION}.items():
        config = parse(small_settings(root) | {"cluster": {"workers": 0}} | sections)
        folder = new_run(config, name)
        with stop_on_signals() as stop:
            training.run(resume(config, folder), stop)
        register(folder, name, alias="champion")
    return root


@contextmanager
def serving(place: Path, name: str, log: Path, *options: str) -> Iterator[Served]:
    """``metaray serve`` for the time of a block, on a port that was free."""
    uri = f"tracking.uri=sqlite:///{place / 'mlflow.db'}"
    address = f"models:/{name}@champion"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster", "serve", address, uri, "--port", "0", *options],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=stream,
            text=True,
        )
    try:
        port = int(eventually(lambda: listening(log), process))
        with Registry(TrackingConfig(uri=uri.partition("=")[2])).open(address) as folder:
            model = load_adaptable(folder.path)
        yield Served(process, port, model, log)
    finally:
        process.kill()
        process.wait()


def listening(log: Path) -> str | None:
    found = re.search(r"^serving .* at https?://127\.0\.0\.1:(\d+)$", log.read_text(), re.MULTILINE)
    return found and found[1]


def eventually(asked: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """The first true answer, while the process lives."""
    until = time.monotonic() + SECONDS
    while not (found := asked()):
        assert process.poll() is None, process.returncode
        assert time.monotonic() < until
        time.sleep(0.01)  # between two questions
    return found


@pytest.fixture(scope="module")
def sine(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of the regression, to which every test leaves no error in the log."""
    log = tmp_path_factory.mktemp("sine") / "log"
    with serving(place, "sine", log, "--max-megabytes", "0.1", "--max-tasks", "8") as served:
        yield served
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(SECONDS) == 0
    assert all(line.startswith("Invalid HTTP request received.") for line in log.read_text().splitlines()[1:])


def points(rng: np.random.Generator, tasks: int = 1, support: int = 5, queries: int = 4) -> dict[str, Any]:
    x, phase = rng.uniform(-4, 4, (tasks, support + queries, 1)), rng.uniform(0, 3, (tasks, 1, 1))
    y = np.sin(x - phase)[:, :support]
    return {"support_inputs": x[:, :support], "support_targets": y, "query_inputs": x[:, support:]}


def pictures(rng: np.random.Generator, tasks: int = 1) -> dict[str, Any]:
    pixels = rng.integers(0, 256, (tasks, 18, 8, 8, 1), dtype=np.uint8)
    labels = np.tile(np.repeat(np.arange(3), 4), (tasks, 1))
    return {"support_inputs": pixels[:, :12], "support_targets": labels, "query_inputs": pixels[:, 12:]}


def trajectories(rng: np.random.Generator, tasks: int = 1) -> dict[str, Any]:
    rows = (tasks, 1, 4)
    return {
        "support_observations": rng.normal(size=(*rows, 7, 2)) * 0.1,
        "support_actions": rng.normal(size=(*rows, 6, 2)) * 0.1,
        "support_rewards": -rng.random((*rows, 6)),
        "support_lengths": rng.integers(2, 7, rows),
        "support_terminated": rng.random(rows) < 0.5,
        "query_observations": rng.normal(size=(tasks, 3, 2)),
    }


KINDS = {"sine": points, "pictures": pictures, "navigator": trajectories}


@pytest.mark.parametrize("name", KINDS)
def test_answers_are_the_models_whoever_else_asks(place: Path, name: str, tmp_path: Path):
    with serving(place, name, tmp_path / "log") as served:
        rng = np.random.default_rng(0)
        asked = [KINDS[name](rng, tasks=1 + number % 3) for number in range(60)]
        model = served.model
        with ThreadPoolExecutor(12) as clients:
            found = list(clients.map(served.ask, asked))
        for inputs, (status, answer) in zip(asked, found, strict=True):
            assert status == 200, answer
            assert answer.keys() == {"predictions"}
            expected = model.predict(inputs, model.inner_steps, model.inner_lr)
            np.testing.assert_allclose(np.array(answer["predictions"]), expected, rtol=1e-3, atol=1e-5)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(SECONDS) == 0


def test_parameters_are_those_of_the_request(sine: Served):
    inputs = points(np.random.default_rng(1))
    found = {}
    for steps, lr in ((0, 0.1), (1, 0.1), (3, 0.1), (3, 0.0)):
        status, answer = sine.ask(inputs, inner_steps=steps, inner_lr=lr)
        assert status == 200
        found[steps, lr] = answer["predictions"]
        np.testing.assert_allclose(answer["predictions"], sine.model.predict(inputs, steps, lr), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[3, 0.0], found[0, 0.1], rtol=1e-4)
    assert not np.allclose(found[3, 0.1], found[0, 0.1], rtol=1e-2)


def test_a_task_that_diverges_fails_alone(sine: Served):
    rng = np.random.default_rng(2)
    asked = [points(rng) for _ in range(24)]
    for lost in asked[::3]:
        lost["support_targets"] = lost["support_targets"] + 3e38
    with ThreadPoolExecutor(24) as clients:
        found = list(clients.map(lambda inputs: sine.ask(inputs, inner_steps=2), asked))
    for number, (status, answer) in enumerate(found):
        assert status == (200 if number % 3 else 400), answer
        if number % 3 == 0:
            assert "adaptation diverged for tasks [0]" in answer["message"]


def test_what_is_served_is_described(sine: Served, place: Path):
    assert sine.send("GET", "/health")[:2] == (200, {"status": "ok"})
    assert sine.send("GET", "/ping")[:2] == (200, {"status": "ok"})
    assert sine.send("GET", "/ready")[:2] == (200, {"ready": True, "requests": 0, "arriving": 0})
    status, found, _ = sine.send("GET", "/model")
    assert (status, found["name"], found["version"]) == (200, "sine", 1)
    assert "# sinusoid, maml" in found["card"]
    schema = sine.send("GET", "/openapi.json")[1]
    for described in schema["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(described)
    inputs = {name: array.tolist() for name, array in points(np.random.default_rng(3), tasks=2).items()}
    jsonschema.validate({"inputs": inputs, "params": {"inner_steps": 1}}, resolved(schema, "Question"))
    jsonschema.validate(sine.ask(inputs)[1], resolved(schema, "Answer"))
    jsonschema.validate(sine.ask({"support_inputs": 1})[1], resolved(schema, "Error"))
    jsonschema.validate(sine.send("GET", "/health")[1], resolved(schema, "Health"))
    jsonschema.validate(sine.send("GET", "/ready")[1], resolved(schema, "Ready"))


def resolved(description: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema of a body, which may refer to others of the description."""
    return {"$ref": f"#/components/schemas/{name}", "components": description["components"]}


def test_what_is_refused_by_the_protocol(sine: Served):
    inputs = points(np.random.default_rng(4))
    for path, method, headers, body, status in (
        ("/elsewhere", "GET", {}, None, 404),
        ("/invocations", "GET", {}, None, 405),
        ("/health", "POST", JSON, b"{}", 405),
        ("/invocations", "POST", {"Content-Type": "text/csv"}, b"1,2", 415),
        ("/invocations", "POST", {}, written(inputs), 415),
        ("/invocations", "POST", JSON, b" " * 104_858, 413),
        ("/invocations", "POST", JSON, b" " * 5_000_000, 413),
        ("/invocations", "POST", JSON | {"Content-Length": "abc"}, None, 400),
    ):
        if "Content-Length" in headers:
            connection = sine.connection()
            connection.request(method, path, body, headers)
            assert connection.getresponse().status == status
            connection.close()
            continue
        found, answer, _ = sine.send(method, path, body, headers)
        assert (found, set(answer)) == (status, {"error_code", "message"})
    status, answer = sine.ask(points(np.random.default_rng(4), tasks=9))
    assert (status, "at most 8 tasks" in answer["message"]) == (400, True)
    # Chunks announce no size.
    connection = sine.connection()
    connection.request("POST", "/invocations", iter([b" " * 60_000] * 2), JSON, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, 10**400, -1]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["\ud800", "1", "\x00"]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=12,
)
NAMES = ("inputs", "params", "support_inputs", "support_targets", "query_inputs", "inner_steps", "inner_lr", "other")


@st.composite
def questions(draw: st.DrawFn) -> bytes:
    """A good question with one to three places spoilt, or something else altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.one_of(st.binary(max_size=60), ANYTHING.map(lambda value: json.dumps(value).encode())))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    inputs = {name: array.tolist() for name, array in points(rng, draw(st.integers(1, 3)), 3, 2).items()}
    question: Any = {"inputs": inputs, "params": {"inner_steps": 1, "inner_lr": 0.01}}
    for _ in range(draw(st.integers(1, 3))):
        _spoil(draw, question)
    body = json.dumps(question).encode()
    return body[: draw(st.integers(0, len(body)))] if draw(st.integers(0, 19)) == 0 else body


def _spoil(draw: st.DrawFn, question: Any) -> None:
    """Replace, remove or add something somewhere."""
    where = question
    for _ in range(draw(st.integers(0, 5))):
        inner = [one for one in (where.values() if isinstance(where, dict) else where) if isinstance(one, list | dict)]
        if not inner:
            break
        where = draw(st.sampled_from(inner))
    value = draw(ANYTHING)
    if isinstance(where, dict):
        where[draw(st.sampled_from(NAMES))] = value
    elif where and draw(st.booleans()):
        where[draw(st.integers(0, len(where) - 1))] = value
    elif where and draw(st.booleans()):
        where.pop()
    else:
        where.append(value)


def test_a_thousand_malformed_requests_are_answered_without_a_fault(sine: Served):
    schema = resolved(sine.send("GET", "/openapi.json")[1], "Question")
    validator = jsonschema.Draft202012Validator(schema)
    statuses: list[int] = []
    connection = sine.connection()

    @settings(
        max_examples=1000, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(questions())
    def send(body: bytes) -> None:
        connection.request("POST", "/invocations", body, JSON)
        response = connection.getresponse()
        answer = json.loads(response.read())
        statuses.append(response.status)
        assert response.status in (200, 400), answer
        if response.status == 200:
            assert np.isfinite(answer["predictions"]).all()
        else:
            assert answer["message"]
        if not is_valid(validator, body):
            assert response.status == 400, answer

    try:
        send()
    finally:
        connection.close()
    assert len(statuses) >= 1000
    assert statuses.count(400) > 700
    assert 200 in statuses
    assert sine.ask(points(np.random.default_rng(5)))[0] == 200


def is_valid(validator: Any, body: bytes) -> bool:
    try:
        return bool(validator.is_valid(json.loads(body)))
    except (ValueError, OverflowError):
        return False


@contextmanager
def half_sent(served: Served, body: bytes) -> Iterator[http.client.HTTPConnection]:
    """A connection on which half of a question has been sent."""
    connection = served.connection()
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: len(body) // 2])
    try:
        yield connection
    finally:
        connection.close()


def test_time_is_limited(place: Path, tmp_path: Path):
    body = written(points(np.random.default_rng(7)))
    many = points(np.random.default_rng(8), tasks=64, support=6000)
    long = written({name: array.round(1) for name, array in many.items()}, inner_steps=100)
    with serving(place, "sine", tmp_path / "log", "--timeout", "0.5", "--threads", "1") as served:
        with half_sent(served, body) as connection:
            response = connection.getresponse()
            assert (response.status, "within 0.5 s" in json.loads(response.read())["message"]) == (408, True)

        def too_long() -> str | None:
            """The answer once the computation was begun: on a busy machine a request may wait too long before."""
            status, answer, _ = served.send("POST", "/invocations", long)
            assert status in (408, 503, 504)
            return str(answer["message"]) if status == 504 else None

        assert "take fewer tasks or inner_steps" in str(wait_for(too_long))
        # Work that nobody waits for is broken off: whoever comes next need not wait for it.
        eventually(lambda: served.send("POST", "/invocations", body)[0] == 200, served.process)

        def late() -> list[tuple[str, str]]:
            """Of eight at once, those that waited too long; on a busy machine some do not arrive in time."""
            with ThreadPoolExecutor(8) as others:
                answers = list(others.map(lambda _: served.send("POST", "/invocations", long), range(8)))
            assert {status for status, _, _ in answers} <= {408, 503, 504}
            return [(answer["message"], headers["retry-after"]) for status, answer, headers in answers if status == 503]

        assert all("waited 0.5 s" in message and again == "1" for message, again in wait_for(late))


def test_no_answer_is_lost_when_it_is_told_to_stop(place: Path, tmp_path: Path):
    rng = np.random.default_rng(9)
    bodies = [written(pictures(rng)) for _ in range(16)]
    answered: list[int] = []
    lost: list[str] = []
    with serving(place, "pictures", tmp_path / "log") as served:

        def client(body: bytes) -> None:
            """Ask until nobody listens any more."""
            connection = served.connection()
            while True:
                try:
                    connection.connect() if connection.sock is None else None
                except ConnectionRefusedError:
                    return
                try:
                    connection.request("POST", "/invocations", body, JSON)
                    response = connection.getresponse()
                    json.loads(response.read())["predictions"]
                    answered.append(response.status)
                except (OSError, http.client.HTTPException, KeyError) as error:
                    lost.append(repr(error))
                    return

        threads = [threading.Thread(target=client, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        eventually(lambda: len(answered) > 100, served.process)
        served.process.send_signal(signal.SIGTERM)
        before = len(answered)
        for thread in threads:
            thread.join(SECONDS)
        assert served.process.wait(SECONDS) == 0
        assert not lost
        assert len(answered) >= before + len(bodies) - 1
        assert set(answered) == {200}
    assert (tmp_path / "log").read_text().count("\n") == 1


def test_a_body_on_its_way_is_awaited_when_it_is_told_to_stop(place: Path, tmp_path: Path):
    body = written(points(np.random.default_rng(10)))
    with serving(place, "sine", tmp_path / "log") as served, half_sent(served, body) as connection:
        eventually(lambda: served.send("GET", "/ready")[1]["arriving"] == 1, served.process)
        served.process.send_signal(signal.SIGTERM)
        eventually(lambda: is_refused(served.port), served.process)
        connection.send(body[len(body) // 2 :])
        assert connection.getresponse().status == 200
        assert served.process.wait(SECONDS) == 0


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_address_that_is_taken(place: Path, metaray: Callable[..., Any], finished: Callable[..., Any]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        uri = f"tracking.uri=sqlite:///{place / 'mlflow.db'}"
        status, output, errors = finished(metaray("serve", "models:/sine/1", uri, "--port", port))
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert "error: --host, --port: expected an address of this machine that is free, received 127.0.0.1" in errors


@pytest.mark.parametrize(
    ("address", "overrides", "limits", "message"),
    [
        ("models:/nobody@champion", [], {}, "expected a model at models:/nobody@champion"),
        ("sine", [], {}, "expected models:/NAME@ALIAS"),
        ("models:/sine/1", ["inner.lr=3"], {}, "expected tracking.uri=… alone, received 'inner'"),
        ("models:/sine/1", [], {"steps": 0}, "--max-steps: expected at least the 1 inner steps"),
    ],
)
def test_what_cannot_be_served(place: Path, address: str, overrides: list[str], limits: dict[str, int], message: str):
    with pytest.raises(ConfigError, match=message):
        load(address, [f"tracking.uri=sqlite:///{place / 'mlflow.db'}", *overrides], Limits(**limits))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_commands_of_the_guide(sine: Served):
    text = (ROOT / "docs" / "serving.md").read_text()
    found = re.findall(r"^    (curl (?:(?:.+\\\n)+.+\n|.+'\{\n(?:.*\n)*?.*\}'\n|.+\n))", text, re.MULTILINE)
    # Those that send files need a model of pictures: test_serving_forms.py runs them.
    commands = [command for command in found if " -F " not in command]
    assert len(commands) >= 4
    for command in commands:
        line = command.replace("127.0.0.1:8000", f"127.0.0.1:{sine.port}")
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert "error_code" not in answer, (line, answer)

"""``metaray serve`` under attack: ambiguous HTTP, slow callers, memory, and who may ask."""

import gzip
import http.client
import json
import selectors
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.integration.test_serving import JSON, SECONDS, Served, eventually, place, points, serving, written

__all__ = ["place"]
MIB = 2**20


@pytest.fixture(scope="module")
def attacked(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the default limits but for memory; its log stays short whatever is done to it."""
    folder = tmp_path_factory.mktemp("attacked")
    log = folder / "log"
    with serving(place, "sine", log, "--memory", "512", "--access-log", str(folder / "access")) as served:
        yield served
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(SECONDS) == 0
    lines = log.read_text().splitlines()
    assert len(lines) < 60, lines[:60]
    assert not any("Traceback" in line for line in lines), lines


def raw(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """Everything that comes back until the connection is closed or nothing more comes."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        try:
            while part := connection.recv(65536):
                found += part
        except (TimeoutError, ConnectionResetError):
            pass
    return found


def header(*lines: str, target: str = "/health", method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: x", *lines, "", ""]).encode()


POST = {"method": "POST", "target": "/invocations"}
TYPE = "Content-Type: application/json"
CLOSE = "Connection: close"
REFUSED = {
    "both lengths": (header(TYPE, "Content-Length: 4", "Transfer-Encoding: chunked", **POST) + b"0\r\n\r\n", 400),
    "two lengths": (header(TYPE, "Content-Length: 4", "Content-Length: 5", **POST) + b"1234", 400),
    "signed length": (header(TYPE, "Content-Length: +4", **POST) + b"1234", 400),
    "encoding in 1.0": (header(TYPE, "Transfer-Encoding: chunked", version="1.0", **POST) + b"0\r\n\r\n", 400),
    "other encoding": (header(TYPE, "Transfer-Encoding: gzip, chunked", **POST) + b"0\r\n\r\n", 501),
    "continued line": (header("X-One: 1\r\n two"), 400),
    "bare LF": (b"GET /health HTTP/1.1\nHost: x\n\n", 400),
    "space before colon": (header("X-One : 1"), 400),
    "NUL in path": (header(target="/hea\x00lth"), 400),
    "NUL in value": (header("X-One: a\x00b"), 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "many lines": (header(*(f"X-{n}: 1" for n in range(200))), 431),
    "long line": (header("X-One: " + "a" * 50_000), 431),
    "HTTP/2": (b"PRI * HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "other expectation": (header("Expect: coffee", "Content-Length: 2", **POST), 417),
    "bad chunk": (header(TYPE, "Transfer-Encoding: chunked", **POST) + b"zz\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_ambiguous_requests_are_refused_and_the_connection_closed(attacked: Served, name: str):
    sent, status = REFUSED[name]
    found = raw(attacked.port, sent + header())  # the second must not be taken for a request
    assert found.startswith(f"HTTP/1.1 {status} ".encode()), found
    assert b"connection: close" in found.lower()
    assert found.count(b"HTTP/1.1 ") == 1
    assert json.loads(found.partition(b"\r\n\r\n")[2])["message"]


ANSWERED = {
    "absolute": (header(CLOSE, target="http://elsewhere:81/health?x=1"), [200]),
    "absolute, no path": (header(CLOSE, target="HTTP://x"), [404]),
    "HTTP/1.0": (header(version="1.0"), [200]),
    "HEAD": (header(CLOSE, method="HEAD"), [200]),
    "OPTIONS": (header(CLOSE, method="OPTIONS"), [405]),
    "OPTIONS *": (header(CLOSE, method="OPTIONS", target="*"), [404]),
    "pipelined": (header() + header(target="/nowhere") + header(CLOSE), [200, 404, 200]),
    "NUL as %00": (header(CLOSE, target="/%00"), [404]),
    "equal lengths": (header(TYPE, CLOSE, "Content-Length: 2", "Content-Length: 2", **POST) + b"{}", [400]),
    "upgrade": (header("Upgrade: h2c", "Connection: upgrade, close"), [200]),
    "expect": (header(TYPE, CLOSE, "Expect: 100-continue", "Content-Length: 2", **POST) + b"{}", [100, 400]),
    "expect, too large": (header(TYPE, CLOSE, "Expect: 100-continue", "Content-Length: 99999999", **POST), [413]),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_unusual_requests_are_answered(attacked: Served, name: str):
    sent, statuses = ANSWERED[name]
    found = raw(attacked.port, sent)
    lines = [line for line in found.split(b"\r\n") if b"HTTP/1.1 " in line]
    assert [int(line.partition(b"HTTP/1.1 ")[2][:3]) for line in lines] == statuses, found


def test_compressed_bodies(attacked: Served):
    body = written(points(np.random.default_rng(0)))
    packed = gzip.compress(body)

    def send(content: bytes, encoding: str) -> tuple[int, Any]:
        return attacked.send("POST", "/invocations", content, JSON | {"Content-Encoding": encoding})[:2]

    assert send(packed, "gzip") == send(body, "identity") == attacked.send("POST", "/invocations", body)[:2]
    assert send(gzip.compress(body[:50]) + gzip.compress(body[50:]), "GZIP")[0] == 200
    assert send(body, "gzip")[0] == send(packed[:-9], "gzip")[0] == send(packed + b"more", "gzip")[0] == 400
    for encoding in ("br", "deflate", "gzip, gzip", "x" * 5000):
        status, answer = send(packed, encoding)
        assert (status, "Content-Encoding: expected gzip" in answer["message"]) == (415, True)
    status, answer = send(gzip.compress(b" " * (100 * MIB)), "gzip")
    assert (status, "unpacked" in answer["message"]) == (413, True)


def test_a_name_twice_is_refused(attacked: Served):
    body = written(points(np.random.default_rng(0)), inner_steps=1)
    twice = body.replace(b'"inner_steps": 1', b'"inner_steps": 1, "inner_steps": 2')
    status, answer, _ = attacked.send("POST", "/invocations", twice)
    assert (status, 'each name once, received "inner_steps" twice' in answer["message"]) == (400, True)


def idle(port: int, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    connection.sendall(sent)
    return connection


def closed(connections: list[socket.socket], seconds: float) -> int:
    """How many of some connections are closed by the other side within a time."""
    found = 0
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        until = time.monotonic() + seconds
        while selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                try:
                    gone = not key.fileobj.recv(65536)  # type: ignore[union-attr]
                except ConnectionError:
                    gone = True
                if gone:
                    found += 1
                    selector.unregister(key.fileobj)
    return found


def test_honest_callers_are_answered_beside_a_thousand_idle_and_two_hundred_slow_ones(attacked: Served):
    body = written(points(np.random.default_rng(1)))
    half = header(TYPE, "Content-Length: 1000000", **POST) + body[:100]
    statuses: list[int] = []

    def client(_: int) -> list[int]:
        with closing(attacked.connection()) as connection:
            found = []
            for _ in range(5):
                connection.request("POST", "/invocations", body, JSON)
                response = connection.getresponse()
                json.loads(response.read())
                found.append(response.status)
            return found

    with ExitStack() as stack:
        silent = [stack.enter_context(idle(attacked.port, b"" if n % 2 else b"GET /hea")) for n in range(1000)]
        slow = [stack.enter_context(idle(attacked.port, half)) for _ in range(200)]
        eventually(lambda: attacked.send("GET", "/ready")[1]["arriving"] == 200, attacked.process)
        with ThreadPoolExecutor(64) as clients:
            for found in clients.map(client, range(64)):
                statuses += found
        assert statuses == [200] * 64 * 5
        assert attacked.send("GET", "/health")[0] == 200
        assert closed(silent + slow, 30.0) == 1200
    assert attacked.send("GET", "/ready")[1] == {"ready": True, "requests": 0, "arriving": 0}
    with closing(attacked.connection()) as connection:  # a caller that takes a pause is no attacker
        for _ in range(2):
            connection.request("GET", "/health")
            assert connection.getresponse().read()


def test_too_many_connections_make_room_for_each_other(place: Path, tmp_path: Path):
    with serving(place, "sine", tmp_path / "log", "--max-connections", "20") as served, ExitStack() as stack:
        waiting = [stack.enter_context(idle(served.port, b"")) for _ in range(60)]
        assert served.ask(points(np.random.default_rng(2)))[0] == 200
        assert closed(waiting, 1.0) >= 40


def work(support: int, steps: int, tasks: int = 1) -> bytes:
    many = points(np.random.default_rng(8), tasks=tasks, support=support)
    return written({name: array.round(1) for name, array in many.items()}, inner_steps=steps)


def test_work_whose_caller_has_gone_is_broken_off(place: Path, tmp_path: Path):
    long = work(6000, 100, tasks=64)
    body = written(points(np.random.default_rng(3)))
    with serving(place, "sine", tmp_path / "log", "--max-requests", "2", "--threads", "1") as served:
        sent = header(TYPE, f"Content-Length: {len(long)}", **POST) + long
        with idle(served.port, sent), idle(served.port, sent):
            eventually(lambda: served.send("GET", "/ready")[1]["requests"] == 2, served.process)
            status, answer, headers = served.send("POST", "/invocations", body)
            assert (status, headers["retry-after"], answer["error_code"]) == (503, "1", "TEMPORARILY_UNAVAILABLE")
            assert served.send("GET", "/health")[0] == 200
        began = time.monotonic()
        eventually(lambda: served.send("GET", "/ready")[1]["requests"] == 0, served.process)
        assert served.send("POST", "/invocations", body)[0] == 200
        assert time.monotonic() - began < 15  # one inner step, not the minutes that the rest would take


def memory(served: Served) -> float:
    return float(psutil.Process(served.process.pid).memory_info().rss / MIB)


def highest(served: Served) -> float:
    """MiB at most since :func:`forget`, as the kernel counts."""
    text = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def forget(served: Served) -> None:
    Path(f"/proc/{served.process.pid}/clear_refs").write_text("5")


def test_memory_is_bounded_and_returns(attacked: Served):
    """Half a megabyte each with 100 steps took 5.8 GB; 64 of 5 MiB left 4.7 GB."""
    assert attacked.send("POST", "/invocations", work(1000, 100))[0] == 200
    before = memory(attacked)
    forget(attacked)
    for _ in range(4):
        assert attacked.send("POST", "/invocations", work(1000, 100))[0] == 200
    assert highest(attacked) - before < 150
    large = work(12_000, 1, tasks=24)
    assert 4 * MIB < len(large) < 6 * MIB
    with ThreadPoolExecutor(64) as clients:
        statuses = [
            found[0] for found in clients.map(lambda _: attacked.send("POST", "/invocations", large), range(64))
        ]
    assert set(statuses) <= {200, 503, 504}
    assert 200 in statuses
    assert highest(attacked) - before < 512
    eventually(lambda: memory(attacked) < before + 150, attacked.process)


def test_what_can_never_be_computed_is_refused_with_the_figure(place: Path, tmp_path: Path):
    with serving(place, "sine", tmp_path / "log", "--memory", "64") as served:
        before = memory(served)
        assert served.ask(points(np.random.default_rng(4)))[0] == 200
        forget(served)
        status, answer, _ = served.send("POST", "/invocations", work(200_000, 1))
        assert status == 413
        assert "MiB" in answer["message"]
        assert "--memory" in answer["message"]
        assert highest(served) - before < 128
        assert served.ask(points(np.random.default_rng(4)))[0] == 200


def test_each_request_is_a_line_without_secrets(attacked: Served):
    path = attacked.log.parent / "access"
    before = len(path.read_text().splitlines())
    headers = {"X-Request-ID": "mine-1", "Authorization": "Bearer sesame"}
    assert attacked.send("GET", "/health?token=sesame", None, headers)[2]["x-request-id"] == "mine-1"
    odd = attacked.send("GET", "/%0a%1b[31m", None, {"X-Request-ID": 'x" \t{}'})[2]["x-request-id"]
    assert len(odd) == 32
    eventually(lambda: len(path.read_text().splitlines()) >= before + 2, attacked.process)
    text = path.read_text()
    assert "sesame" not in text
    assert all(letter == "\n" or " " <= letter <= "~" for letter in text)
    first, second = (json.loads(line) for line in text.splitlines()[-2:])
    assert (first["request_id"], first["path"], first["status"]) == ("mine-1", "/health", 200)
    assert (second["request_id"], second["status"]) == (odd, 404)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    options = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", *options.split(), "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def test_a_token_is_asked_for_over_tls(place: Path, tmp_path: Path, certificate: tuple[Path, Path]):
    made, key = certificate
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    options = ["--token-file", str(token), "--certificate", str(made), "--key", str(key)]
    trusting = ssl.create_default_context(cafile=str(made))
    body = written(points(np.random.default_rng(5)))
    with serving(place, "sine", tmp_path / "log", *options) as served:

        def status(method: str, path: str, authorization: str | None) -> int:
            connection = http.client.HTTPSConnection("127.0.0.1", served.port, timeout=SECONDS, context=trusting)
            headers = JSON | ({"Authorization": authorization} if authorization else {})
            with closing(connection):
                connection.request(method, path, body if method == "POST" else None, headers)
                response = connection.getresponse()
                assert response.status != 401 or response.headers["www-authenticate"] == "Bearer"
                return response.status

        for shown in (None, "Bearer 0123456789abcdeF", "Bearer", "Basic 0123456789abcdef", "Bearer é"):
            encoded = shown and shown.encode().decode("latin-1")
            assert status("POST", "/invocations", encoded) == status("GET", "/model", encoded) == 401
            assert status("GET", "/health", encoded) == status("GET", "/ready", encoded) == 200
        assert status("POST", "/invocations", "bearer 0123456789abcdef") == 200
        assert status("GET", "/openapi.json", "Bearer 0123456789abcdef") == 200
        assert raw(served.port, header()) in (b"", b"HTTP/1.1 400 ")  # plain HTTP is closed
    assert "0123456789abcdef" not in (tmp_path / "log").read_text()

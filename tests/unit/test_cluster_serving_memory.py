"""Memory of the server: budgets, estimates, programs within bytes, bodies that were compressed, and who may ask."""

import gzip
import threading
from pathlib import Path
from typing import Any

import h11
import pytest
import torch

from cluster.errors import ConfigError
from cluster.serving.auth import is_allowed, read_token, tls_context
from cluster.serving.batching import Batcher, Dropped
from cluster.serving.connections import StrictConnection
from cluster.serving.encoding import unpacked
from cluster.serving.estimates import Meter, Need
from cluster.serving.limits import Refused
from cluster.serving.memory import Budget, Held, container_memory, reading_bytes
from cluster.serving.programs import RECORDED_AT, Programs, Watched
from cluster.serving.requests import Question

SECONDS = 20.0


def proceed() -> None:
    pass


def test_nobody_holds_more_than_there_is_and_those_who_wait_come_in_order():
    budget, order = Budget(10), list[int]()
    entered = [threading.Event() for _ in range(3)]

    def hold(number: int, count: int) -> None:
        with budget.held(count, lambda: entered[number].set()):
            order.append(number)

    assert budget.try_hold(6)
    threads = []
    for number, count in enumerate((8, 1, 5)):
        threads.append(threading.Thread(target=hold, args=(number, count)))
        threads[-1].start()
        assert entered[number].wait(SECONDS)
    assert not budget.try_hold(1)  # others wait
    budget.release(6)
    for thread in threads:
        thread.join(SECONDS)
    assert order[0] == 0
    assert budget.used == 0
    with budget.held(99, proceed):
        assert budget.used == 10


def test_waiting_for_memory_ends_when_nobody_waits_for_the_answer():
    budget = Budget(1)
    assert budget.try_hold(1)

    def gone() -> None:
        raise Dropped

    with pytest.raises(Dropped), budget.held(1, gone):
        pass
    budget.release(1)
    assert budget.try_hold(1)


def test_a_request_gives_back_what_it_holds_even_if_a_thread_asks_for_more_later():
    budget = Budget(10)
    with Held(budget) as held:
        assert held.try_set(7)
        assert not held.try_set(11)
        assert held.try_set(3)
        assert budget.used == 3
        other = held.moved()
    assert budget.used == 3
    assert not held.try_set(1)
    with other:
        pass
    assert budget.used == 0


def test_the_containers_memory_counts(tmp_path: Path):
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert container_memory(tmp_path, own) == 2**62
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("1000\n")
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    assert container_memory(tmp_path, own) == 1000
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("500")
    own.write_text("5:cpu,memory:/nowhere\n1:cpu:/a\n")
    assert container_memory(tmp_path, own) == 500


@pytest.mark.parametrize(
    "text", ["[" + "0," * 999 + "0]", "[" + "[]," * 999 + "[]]", "[" + "1.25," * 999 + "0]", '"é😀"']
)
def test_reading_takes_no_more_than_is_held(text: str):
    import json
    import tracemalloc

    body = text.encode()
    tracemalloc.start()
    try:
        found = json.loads(body)
        assert tracemalloc.get_traced_memory()[1] <= reading_bytes(body) + 2000
    finally:
        tracemalloc.stop()
    assert found


def test_fewer_tasks_at_a_time_where_memory_is_scarce():
    need = Need(each=10 * 2**20, kept=2**20)
    assert need.chunk(32, 2**40) == 32
    assert need.chunk(32, 200 * 2**20) == 4
    assert need.chunk(32, 1) == 1
    assert need.work(32, 4) < need.work(32, 8)


def test_the_meter_counts_storages_once_and_forgets_those_that_are_gone():
    with Meter() as meter:
        first = torch.ones(1000)
        view = first[:10].view(2, 5)
        del first, view
        torch.ones(500)
    assert meter.peak == 4000


def function(params: Any, task: Any) -> Any:
    return task * params["w"]


def test_programs_stay_within_their_bytes():
    one = Programs()
    for _ in range(RECORDED_AT):
        one(0, function, {"w": torch.ones(())}, torch.ones(1, 1))
    size = one.nbytes
    assert size > 0
    few = Programs(3 * size)
    for number in range(1, 9):
        for _ in range(RECORDED_AT):
            few(0, function, {"w": torch.ones(())}, torch.ones(1, number))
        assert few.nbytes <= 3 * size
    none = Programs(size - 1)
    for _ in range(RECORDED_AT + 1):
        none(0, function, {"w": torch.ones(())}, torch.ones(1, 1))
    assert none.nbytes == 0


def test_work_is_broken_off_between_inner_steps():
    from cluster.registry.adapting import InnerLoop

    taken: list[int] = []

    def step(params: Any, support: Any) -> Any:
        taken.append(1)
        return {"w": params["w"] + support.sum()}

    def enough() -> None:
        if len(taken) == 3:
            raise Dropped

    path = InnerLoop(step, lambda params, task: params["w"] * task[1])
    tasks = (torch.ones(2, 3), torch.ones(2, 4))
    found = Watched(Programs()).adapt(0, path, {"w": torch.zeros(())}, tasks, 5)
    torch.testing.assert_close(found, torch.full((2, 4), 15.0))
    taken.clear()
    with pytest.raises(Dropped):
        Watched(Programs(), enough).adapt(0, path, {"w": torch.zeros(())}, tasks, 100)
    assert len(taken) == 3


def test_a_dropped_question_is_not_computed():
    import numpy as np

    class Slow:
        entered, go_on, calls = threading.Event(), threading.Event(), list[int]()

        def adapted(self, arrays: Any, steps: int, lr: float, run: Any = None) -> Any:
            self.calls.append(1)
            self.entered.set()
            assert self.go_on.wait(SECONDS)
            run.proceed()
            return arrays["x"]

    model: Any = Slow()
    batcher = Batcher(model, threads=1)
    first, second = (
        batcher.ask(Question(arrays={"x": np.ones((1, size))}, inner_steps=1, inner_lr=0.1)) for size in (1, 2)
    )
    assert model.entered.wait(SECONDS)
    assert not batcher.drop(first)
    assert batcher.drop(second)
    model.go_on.set()
    with pytest.raises(Dropped):
        first.result(SECONDS)
    batcher.close()
    assert len(model.calls) == 1


def test_unpacking_is_bounded():
    assert unpacked(gzip.compress(b"a" * 5000), "gzip", 5000) == b"a" * 5000
    assert unpacked(b"", "gzip", 10) == b""
    assert unpacked(b"plain", "", 10) == b"plain"
    bomb = gzip.compress(gzip.compress(b"\0" * 2**26))
    assert len(unpacked(bomb, "gzip", 2**20)) < 2**18  # once only
    with pytest.raises(Refused) as caught:
        unpacked(gzip.compress(b"\0" * 2**26), "gzip", 2**20)
    assert caught.value.status == 413


def test_who_may_ask(tmp_path: Path):
    assert is_allowed(None, None)
    token = b"0123456789abcdef"
    assert is_allowed("Bearer 0123456789abcdef", token)
    for shown in (
        None,
        "",
        "Bearer",
        "Bearer 0123456789abcde",
        "Basic 0123456789abcdef",
        "Bearer \xe9",
        "0123456789abcdef",
    ):
        assert not is_allowed(shown, token)
    file = tmp_path / "token"
    file.write_text(" 0123456789abcdef\n")
    assert read_token(file, {"METARAY_TOKEN": "x"}) == token
    assert read_token(None, {"METARAY_TOKEN": token.decode()}) == token
    assert read_token(None, {}) is None
    for text in ("", "short", "with a space in it", "not-ascii-é-not-ascii"):
        with pytest.raises(ConfigError, match="METARAY_TOKEN: expected a token") as caught:
            read_token(None, {"METARAY_TOKEN": text})
        assert not text or text not in str(caught.value)
    with pytest.raises(ConfigError, match="--token-file"):
        read_token(tmp_path / "none", {})
    with pytest.raises(ConfigError, match="both or neither"):
        tls_context(file, None)
    with pytest.raises(ConfigError, match="expected a certificate and its key"):
        tls_context(file, file)
    assert tls_context(None, None) is None


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_a_header_is_checked_however_it_arrives(pieces: int):
    sent = b"POST http://x/invocations?a=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    connection = StrictConnection(h11.SERVER)
    events = []
    for first in range(0, len(sent), pieces):
        connection.receive_data(sent[first : first + pieces])
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            events.append(event)
    assert events[0].target == b"/invocations?a=1"
    assert isinstance(events[-1], h11.EndOfMessage)

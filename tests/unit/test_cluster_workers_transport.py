"""Links, greetings, hubs and shared memory on real sockets of this machine."""

import gc
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.workers.transport import greeting
from cluster.workers.transport.hub import GREETING_SECONDS, GREETINGS_AT_ONCE, Hub, connect
from cluster.workers.transport.link import LONGEST_HEADER, PREFIX, Link, LinkClosed, Message
from cluster.workers.transport.memory import AVAILABLE, Segment, Segments, received

linux = pytest.mark.skipif(not AVAILABLE, reason="shared memory without a name is Linux's")
headers = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(params=["unix", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Link, Link]]:
    """Two ends: the first does not block, as the pool's; the second does, as a worker's."""
    if request.param == "unix":
        one, other = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            other = socket.create_connection(server.getsockname())
            one, _ = server.accept()
    one.setblocking(False)
    ends = Link(one), Link(other)
    yield ends
    for end in ends:
        end.close()


def awaited(link: Link) -> Message:
    """The next message on an end that does not block."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if (message := link.receive()) is not None:
            return message
    raise AssertionError("no message came")


@settings(max_examples=40)
@given(st.lists(st.tuples(headers, st.binary(max_size=200)), min_size=1, max_size=5))
def test_messages_come_whole_and_in_order(sent: list[tuple[Any, bytes]]) -> None:
    one, other = socket.socketpair()
    one.setblocking(False)
    pool, worker = Link(one), Link(other)
    for header, numbers in sent:
        pool.send(header, np.frombuffer(numbers, dtype=np.uint8))
    for header, numbers in sent:
        message = worker.receive()
        assert message is not None
        assert (message.header, message.numbers.tobytes()) == (header, numbers)
    pool.close()
    worker.close()


def test_what_does_not_fit_is_queued_and_a_slow_reader_holds_up_nobody(pair: tuple[Link, Link]) -> None:
    pool, worker = pair
    numbers = np.arange(6_000_000, dtype=np.uint32).view(np.uint8)
    pool.send({"a": 1}, numbers)  # returns although nobody reads
    assert pool.events & selectors.EVENT_WRITE
    messages: list[Message | None] = []
    reader = threading.Thread(target=lambda: messages.append(worker.receive()))
    reader.start()
    while reader.is_alive():
        pool.flush()
    (message,) = messages
    assert message is not None
    assert np.array_equal(message.numbers, numbers)
    assert not pool.events & selectors.EVENT_WRITE


def test_both_ends_may_send_much_at_once(pair: tuple[Link, Link]) -> None:
    pool, worker = pair
    numbers = np.ones(8_000_000, dtype=np.uint8)
    thread = threading.Thread(target=lambda: worker.send("back", numbers))
    pool.send("there", numbers)
    thread.start()
    assert awaited(pool).header == "back"
    thread.join()


def test_a_closed_end_is_noticed(pair: tuple[Link, Link]) -> None:
    pool, worker = pair
    worker.close()
    with pytest.raises(LinkClosed):
        awaited(pool)


def test_what_is_no_message_closes_the_link(pair: tuple[Link, Link]) -> None:
    pool, worker = pair
    worker._socket.sendall(PREFIX.pack(LONGEST_HEADER + 1, 0))
    with pytest.raises(LinkClosed, match="expected a header of at most"):
        awaited(pool)
    one, other = socket.socketpair()
    one.setblocking(False)
    garbled = Link(one)
    other.sendall(PREFIX.pack(3, 0) + b"{{{")
    with pytest.raises(LinkClosed):
        awaited(garbled)
    garbled.close()
    other.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@linux
def test_shared_memory_is_seen_by_the_other_end_and_frees_itself() -> None:
    before = descriptors()
    one, other = socket.socketpair()
    one.setblocking(False)
    pool, worker = Link(one), Link(other)
    own = Segment(4096)
    own.bytes[:] = 7
    pool.send("here", descriptors=(own.descriptor,))
    message = worker.receive()
    assert message is not None
    theirs = received(message.descriptors[0], 4096)
    assert theirs[0] == 7
    own.bytes[:] = 9
    assert theirs[4095] == 9
    own.close()
    assert theirs[1] == 9, "memory stays while somebody holds it"
    pool.close()
    worker.close()
    del own, theirs
    gc.collect()
    assert descriptors() == before


@linux
def test_descriptors_that_nobody_takes_are_closed_with_the_link() -> None:
    before = descriptors()
    one, other = socket.socketpair()
    receiver, sender = Link(one), Link(other)
    own = Segment(4096)
    sender._socket.sendmsg([b"xx"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, own.descriptor.to_bytes(4, "little"))])
    sender.close()
    with pytest.raises(LinkClosed):
        receiver.receive()
    receiver.close()
    own.close()
    del own
    gc.collect()
    assert descriptors() == before


@linux
def test_a_segment_is_lent_again_only_when_it_was_given_back() -> None:
    segments = Segments()
    first, second = segments.lend(64), segments.lend(64)
    assert first != second
    segments.give_back(first)
    assert segments.lend(128) not in {first, second}
    assert segments.lend(64) == first
    segments.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub("127.0.0.1")
    yield hub
    hub.close()


def events(hub: Hub, count: int, seconds: float = 30) -> list[Any]:
    """The next events, waited for."""
    seen: list[Any] = []
    until = time.monotonic() + seconds
    while len(seen) < count and time.monotonic() < until:
        seen += hub.wait(0.1)
    return seen


@pytest.mark.parametrize("same_machine", [True, False])
def test_a_worker_that_knows_the_secret_is_let_in(hub: Hub, same_machine: bool) -> None:
    link = connect(hub.address, same_machine=same_machine, patience=5)
    link.send({"hello": 1}, np.arange(4, dtype=np.uint8))
    ((far, message),) = events(hub, 1)
    assert (message.header, message.numbers.tolist()) == ({"hello": 1}, [0, 1, 2, 3])
    assert far.shares_memory == (same_machine and bool(hub.address.local))
    far.send("welcome")
    assert (answer := link.receive()) is not None
    assert answer.header == "welcome"
    link.close()
    assert events(hub, 1) == [(far, None)]


@pytest.mark.parametrize("same_machine", [True, False])
def test_whoever_does_not_know_the_secret_is_turned_away(hub: Hub, same_machine: bool) -> None:
    other = replace(hub.address, secret=b"x" * 32)
    with pytest.raises(greeting.Refused):
        connect(other, same_machine=same_machine, patience=5)
    assert events(hub, 1, seconds=0.3) == []


def test_answers_cannot_be_sent_back_to_who_asked() -> None:
    """A stranger that mirrors every byte proves nothing."""
    one, mirror = socket.socketpair()

    def reflect() -> None:
        while data := mirror.recv(4096):
            mirror.sendall(data)

    thread = threading.Thread(target=reflect)
    thread.start()
    with pytest.raises(greeting.Refused, match="does not know the run's secret"):
        greeting.greet(one, b"s" * 32, side=greeting.POOL, timeout=5)
    one.close()
    thread.join()
    mirror.close()


def test_a_silent_connection_holds_up_no_worker(hub: Hub) -> None:
    silent = [socket.create_connection((hub.address.host, hub.address.port)) for _ in range(3)]
    link = connect(hub.address, same_machine=False, patience=5)
    link.send("hello")
    ((_, message),) = events(hub, 1)
    assert message.header == "hello"
    link.close()
    for connection in silent:
        connection.close()


def test_a_hub_leaves_neither_sockets_nor_threads() -> None:
    before, threads = descriptors() if AVAILABLE else 0, set(threading.enumerate())
    hub = Hub("127.0.0.1")
    link = connect(hub.address, same_machine=True, patience=5)
    silent = [socket.create_connection((hub.address.host, hub.address.port)) for _ in range(2 * GREETINGS_AT_ONCE)]
    began = time.monotonic()
    hub.close()
    hub.close()
    assert time.monotonic() - began < GREETING_SECONDS, "those that say nothing hold up nobody"
    for connection in silent:
        connection.close()
    with pytest.raises(LinkClosed):
        link.receive()
    link.close()
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert not AVAILABLE or descriptors() == before


def test_nothing_listens_beyond_the_interface(hub: Hub) -> None:
    assert {listener.getsockname()[0] for listener in hub._listeners if listener.family == socket.AF_INET} == {
        "127.0.0.1"
    }

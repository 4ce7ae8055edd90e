"""Pool, relays and workers over real sockets and shared memory, each in a thread of this process, without Ray.

A thread that is killed has its sockets shut down, as a process that is killed has.
"""

import contextlib
import gc
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import GetTimeoutError

from cluster.config.overrides import with_overrides
from cluster.config.schema import parse
from cluster.training.reduction import GradientSum, sum_gradients
from cluster.workers import held, member, peers, ray_pool, relay, relays, serving, tree
from cluster.workers.messages import (
    FisherProduct,
    FisherReply,
    Flat,
    GradientReply,
    GradientRequest,
    Reply,
    Request,
    ScoresReply,
    ScoresRequest,
    SummedReply,
    gradient_requests,
    scores_requests,
)
from cluster.workers.post import Post
from cluster.workers.ray_pool import RayPool
from cluster.workers.relayed import RelayedLink
from cluster.workers.transport.hub import Address, connect
from cluster.workers.transport.link import Link, LinkClosed
from cluster.workers.transport.memory import AVAILABLE
from helpers.waiting import wait_for
from meta.reduce import tree_sum

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="relays share memory as Linux does")

SIZE = 500  # parameters
BASE: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 27,
    "shard": 2,  # 14 of them, the last one short
}
THETA = np.random.default_rng(7).standard_normal(SIZE).astype(np.float32)


class Answering:
    """A worker whose gradients depend on θ, and in their last bits on the order of additions."""

    def __init__(self) -> None:
        self.before: Callable[[Request], None] = lambda request: None

    def run(self, request: Request, theta: Flat, second: Flat | None = None) -> Reply:
        """As :meth:`cluster.workers.worker.Worker.run`."""
        theta = np.array(theta)
        self.before(request)
        if isinstance(request, ScoresRequest):
            return ScoresReply(request=request, buffer=theta[: len(request.tasks.indices)])
        if isinstance(request, FisherProduct):
            assert second is not None
            return FisherReply(request=request, buffer=theta + second * request.shard)
        assert isinstance(request, GradientRequest)
        parts = []
        for tasks in request.parts:
            rng = np.random.default_rng(tasks.start)
            parts.append((theta * rng.standard_normal(SIZE) * 10.0 ** rng.integers(-4, 5, SIZE)).astype(np.float32))
        metric = np.array([1 / (3 + index) for index in request.tasks.indices], dtype=np.float32)
        unlike = tuple(index for index in request.tasks.indices if index % 11 == 5)
        return GradientReply(
            request=request, buffer=np.concatenate([tree_sum(parts), metric]), metrics=("loss",), nonfinite=unlike
        )

    def between_requests(self) -> bool:
        """Prepare nothing."""
        return False


@dataclass(eq=False)
class Process:
    """A thread in the place of a process."""

    node: str
    work: Callable[[], None]
    worker: Answering = field(default_factory=Answering)
    links: list[Link] = field(default_factory=list)
    killed: bool = False

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.work, daemon=True)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return not self.thread.is_alive()

    def end(self) -> None:
        """Kill it."""
        self.killed = True
        for link in self.links:
            with contextlib.suppress(OSError):  # closed already
                link._socket.shutdown(socket.SHUT_RDWR)


class House:
    """Nodes that are threads, and the pool's Ray that is none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: list[Process] = []
        self.relays: list[Process] = []
        self.nodes: list[str] = []  # of the workers to come
        self.deaf: set[int] = set()  # numbers of relays that connect and say nothing more
        self.late = 0.0  # seconds until a relay connects
        self.by_thread: dict[int, Process] = {}
        monkeypatch.setattr(serving, "connect", self.connect)
        monkeypatch.setattr(member, "ray", SimpleNamespace(get=self.get))
        monkeypatch.setattr(ray_pool, "start_actor", lambda setup: SimpleNamespace(serve=self, kill=None))
        monkeypatch.setattr(ray_pool, "RelayProcess", self.start_relay)
        fake = SimpleNamespace(
            get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "driver"),
            util=SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1"),
            kill=lambda actor: None,
            wait=lambda calls, **_: ([call for call in calls if call.ended], []),
            cluster_resources=lambda: {"CPU": 100.0},
        )
        monkeypatch.setattr(ray_pool, "ray", fake)
        nodes = SimpleNamespace(changes=list, close=lambda: None)
        monkeypatch.setattr(ray_pool, "Nodes", lambda: nodes)

    def get(self, serving: Process, timeout: float) -> None:
        del timeout
        if not serving.ended:
            raise GetTimeoutError

    def connect(self, address: Address, **options: Any) -> Link:
        """As a process's own :func:`connect`."""
        own = self.by_thread[threading.get_ident()]
        if own.killed:
            raise OSError("killed")
        own.links.append(connect(address, **options))
        return own.links[-1]

    def start(self, process: Process) -> Process:
        process.thread.start()
        while process.thread.ident is None:
            time.sleep(0.001)
        return process

    def remote(self, address: Address, node: str, number: int, start: int) -> Process:
        """Start a worker."""
        made = object.__new__(serving.Server)

        def work() -> None:
            self.by_thread[threading.get_ident()] = process
            made._worker = process.worker  # type: ignore[assignment]
            made._data, made._dtype = "", np.dtype("float32")
            made.serve(Post(address=address, pool_node=node, node=process.node, number=number, start=start))

        process = Process(self.nodes[number % len(self.nodes)], work)
        self.workers.append(process)
        return self.start(process)

    def start_relay(self, address: Address, node: str) -> Process:
        """Start a relay."""

        def work() -> None:
            self.by_thread[threading.get_ident()] = process
            time.sleep(self.late)
            with contextlib.suppress(OSError, LinkClosed):
                up = self.connect(address, same_machine=False, patience=5)
                if self.relays.index(process) in self.deaf:
                    up.send({"relay": node, "local": "nobody", "at": [node, "127.0.0.1", 1]})
                    while up.receive():
                        pass
                relay.Relay(up, node, address.secret, "127.0.0.1").run()
            for link in process.links:
                link.close()

        process = Process(node, work)
        self.relays.append(process)
        return self.start(process)


def descriptors() -> list[str]:
    """Descriptors that this process has open."""
    names = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            names.append(str(path.readlink()))
    return sorted(names)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """Nodes, at the end of which no thread and no descriptor is left."""
    gc.collect()
    before, threads = descriptors(), set(threading.enumerate())
    monkeypatch.setattr(serving, "BEAT", 0.05)
    monkeypatch.setattr(relay, "BEAT", 0.05)
    monkeypatch.setattr(ray_pool, "LONGEST_WAIT", 0.05)
    made = House(monkeypatch)
    yield made
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=30)
        assert not thread.is_alive(), thread
    made.workers.clear()
    made.relays.clear()
    made.by_thread.clear()
    gc.collect()
    assert descriptors() == before


@pytest.fixture
def opened(house: House) -> Iterator[Callable[..., RayPool]]:
    """A pool whose workers are all there, one for each of the nodes that are named."""
    pools: list[RayPool] = []

    def ready(nodes: list[str], *overrides: str) -> RayPool:
        house.nodes = nodes
        config = parse(with_overrides(BASE, [f"cluster.workers={len(nodes)}", *overrides]))
        setup: Any = SimpleNamespace(config=config, data="", adds_shards=True)
        pool = RayPool(setup)
        pools.append(pool)
        everybody(pool)
        return pool

    yield ready
    while pools:
        pools.pop().close()


def everybody(pool: RayPool) -> None:
    """Wait for all workers."""

    def there() -> bool:
        pool.poll()
        return len(pool.pids) == pool.workers

    wait_for(there, "all workers", seconds=60)


def summed(pool: RayPool, step: int = 0, level: int = 0, theta: Flat = THETA) -> GradientSum:
    """The sums over a meta-batch."""
    return sum_gradients(pool.submit(gradient_requests(step, 27, 2, level), theta), pool)


def expected(step: int = 0, theta: Flat = THETA) -> GradientSum:
    """The same from a single worker."""
    requests = gradient_requests(step, 27, 2)
    replies: list[Any] = [Answering().run(request, theta) for request in requests]
    return GradientSum(
        tasks=27,
        gradient=tree_sum([reply.gradient for reply in replies]),
        metrics={"loss": float(tree_sum([reply.metric_sums for reply in replies])[0])},
        nonfinite=sorted(index for reply in replies for index in reply.nonfinite),
    )


def same(one: GradientSum, other: GradientSum) -> bool:
    """Whether two sums agree in every bit."""
    return (one.gradient.tobytes(), one.metrics, one.nonfinite) == (
        other.gradient.tobytes(),
        other.metrics,
        other.nonfinite,
    )


@pytest.mark.parametrize(
    "nodes", [["a", "a"], ["driver", "a"], ["a", "a", "b", "b"], ["driver", "b", "a", "b", "a", "b", "a"]]
)
def test_sums_are_those_of_a_single_worker_in_every_bit(opened: Callable[..., RayPool], nodes: list[str]) -> None:
    pool = opened(nodes)
    for step in range(6):
        theta = THETA * np.float32(1 + step)
        for level in range(4):
            assert same(summed(pool, step, level, theta), expected(step, theta))
    assert pool.failures == []


def test_a_nodes_workers_send_one_gradient_where_their_shards_are_neighbours(opened: Callable[..., RayPool]) -> None:
    pool = opened(["a", "a", "b", "b"])
    ticket = pool.submit(gradient_requests(0, 16, 2), THETA)  # four shards a node
    replies = list(pool.gather(ticket))
    assert [type(reply) for reply in replies] == [SummedReply, SummedReply]
    requests: list[Any] = [reply.request for reply in replies]
    nodes = sorted((one.level, one.shard, one.tasks.start, one.tasks.stop) for one in requests)
    assert nodes == [(2, 0, 0, 8), (2, 1, 8, 16)]


def test_other_requests_pass_a_relay_unchanged(opened: Callable[..., RayPool]) -> None:
    pool = opened(["a", "a"])
    scores = list(pool.gather(pool.submit(scores_requests(0, "val", 5, 2, (1,)), THETA, background=True)))
    assert sorted(len(reply.buffer) for reply in scores) == [1, 2, 2]
    for reply in scores:
        assert np.array_equal(reply.buffer, THETA[: len(reply.buffer)])
    request = FisherProduct(step=0, shard=3, tasks=gradient_requests(0, 2, 2)[0].tasks)
    (product,) = pool.gather(pool.submit([request], THETA, THETA[::-1]))
    assert np.array_equal(product.buffer, THETA + 3 * THETA[::-1])


def test_a_lost_relays_workers_come_back_by_a_new_one(opened: Callable[..., RayPool], house: House) -> None:
    pool = opened(["a", "a", "b", "driver"])
    first = house.relays[0]

    def kill(request: Request) -> None:
        if isinstance(request, GradientRequest) and request.step == 2 and not first.killed:
            first.end()

    for process in house.workers:
        process.worker.before = kill
    for step in range(6):
        assert same(summed(pool, step), expected(step))
    everybody(pool)
    assert [relay.node for relay in house.relays[2:]] == [first.node]
    assert len(house.workers) == 4, "no worker was replaced"
    (failure,) = pool.failures
    (event,) = pool.events
    assert failure == event.text
    assert event.text.startswith(
        f"the relay of node {platform.node()} ({first.node}) was lost (its connection was lost)"
    )
    assert (event.kind, event.node) == ("relay lost", f"{platform.node()} ({first.node})")
    assert same(summed(pool, 7), expected(7))


def test_what_a_lost_relay_held_is_computed_again(opened: Callable[..., RayPool], house: House) -> None:
    """One of a node's two workers has computed its half and waits for the other's when the relay is lost."""
    pool = opened(["a", "a"], "cluster.copies=false")
    blocked, computed = threading.Event(), []

    def wait(request: Request) -> None:
        computed.append(request.shard)
        if request.shard == 1 and not house.relays[0].killed:
            blocked.wait(30)

    for process in house.workers:
        process.worker.before = wait
    ticket = pool.submit(gradient_requests(0, 27, 2, 3), THETA)  # two blocks
    held = pool._relays._held._held

    def first_computed() -> bool:
        pool.poll()
        return bool(held)

    wait_for(first_computed, "the first block", seconds=30)
    assert (ticket.computed, ticket.delivered) == (1, 0)
    (job,) = held[min(held)].jobs[next(iter(held[min(held)].jobs))].values()
    assert job.ended is not None
    least = time.monotonic() - job.ended
    house.relays[0].end()
    blocked.set()
    assert same(sum_gradients(ticket, pool), expected())
    assert [event.kind for event in pool.events] == ["relay lost"]
    assert pool.events[0].seconds >= least, "since the oldest job behind it was given out"
    assert sorted(computed) == [0, 0, 1, 1]
    assert held == {}


def test_a_lost_workers_block_goes_to_another_and_counts_once(opened: Callable[..., RayPool], house: House) -> None:
    pool = opened(["a", "a", "b"])
    victim = house.workers[1]

    def die(request: Request) -> None:
        if request.step == 1 and not victim.killed:
            victim.end()

    victim.worker.before = die
    for step in range(4):
        assert same(summed(pool, step), expected(step))
    everybody(pool)
    assert len(house.workers) == 4
    assert len(house.relays) == 2
    (failure,) = pool.failures
    assert failure.startswith("worker 1 was lost at step 1")


def test_a_copy_elsewhere_ends_the_wait_for_a_slow_worker(opened: Callable[..., RayPool], house: House) -> None:
    pool = opened(["a", "a", "b", "b"])
    for step in range(8):  # so that the pool knows what is late
        summed(pool, step)
    go_on = threading.Event()

    def block(request: Request) -> None:
        if isinstance(request, GradientRequest) and request.step == 20:
            go_on.wait(60)

    slow = next(one for one in house.workers if one.node == "a")
    slow.worker.before = block
    began = time.monotonic()
    assert same(summed(pool, 20), expected(20))
    assert time.monotonic() - began < 30
    assert pool._schedule.copied >= 1
    go_on.set()
    for step in range(21, 25):
        assert same(summed(pool, step), expected(step))
    assert pool.failures == []


def test_a_silent_relay_is_replaced_and_its_workers_are_not(opened: Callable[..., RayPool], house: House) -> None:
    pool = opened(["driver", "a"], "cluster.heartbeat_timeout=2")
    house.deaf = {1}
    house.relays[0].end()

    def back() -> bool:
        pool.poll()
        return len(house.relays) == 3 and len(pool.pids) == 2

    wait_for(back, "the worker", seconds=60)
    first, second = pool.failures
    assert "connection was lost" in first
    assert "no sign of life for 2 s" in second
    assert len(house.workers) == 2
    assert same(summed(pool), expected())


def test_workers_do_not_wait_long_for_a_relay(
    opened: Callable[..., RayPool], house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "WAITING", 0.1)
    house.late = 3.0
    pool = opened(["a", "a"])
    assert {type(link) for link in pool._by_link} == {Link}
    for step in range(3):
        assert same(summed(pool, step), expected(step))

    def moved() -> bool:
        summed(pool)
        return {type(link) for link in pool._by_link} == {RelayedLink}

    wait_for(moved, "the workers behind the relay", seconds=60)
    everybody(pool)
    assert same(summed(pool), expected())
    assert (pool.failures, len(house.workers)) == ([], 2)


def test_a_node_whose_relays_do_not_start_goes_without(
    opened: Callable[..., RayPool], house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(address: Address, node: str) -> Process:
        process = Process(node, lambda: None)
        house.relays.append(process)
        return house.start(process)

    monkeypatch.setattr(ray_pool, "RelayProcess", fail)
    pool = opened(["a", "driver"])
    assert {type(link) for link in pool._by_link} == {Link}
    assert len(house.relays) == len(pool.failures) == relays.MOST_LOST
    assert same(summed(pool), expected())


def test_a_pool_that_does_not_look_for_long_takes_nobody_for_silent(
    opened: Callable[..., RayPool], house: House
) -> None:
    pool = opened(["a", "a", "driver"], "cluster.heartbeat_timeout=1")
    time.sleep(1.5)  # a checkpoint on a slow disk
    for _ in range(30):
        pool.poll()
    assert same(summed(pool), expected())
    assert pool.failures == []


def test_a_silent_worker_behind_a_relay_is_replaced(
    opened: Callable[..., RayPool], house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = opened(["a", "a"], "cluster.heartbeat_timeout=1")
    silent = house.workers[0].links[-1]
    send = Link.send

    def nothing(link: Link, *message: Any, **more: Any) -> None:
        if link is not silent or link.fileno() < 0:
            send(link, *message, **more)

    monkeypatch.setattr(Link, "send", nothing)

    def missed() -> bool:
        pool.poll()
        return bool(pool.failures)

    wait_for(missed, "the silent worker to be missed", seconds=60)
    everybody(pool)
    (failure,) = pool.failures
    assert failure.startswith("worker 0 was lost (no sign of life for 1 s)")
    assert len(house.relays) == 1
    assert same(summed(pool), expected())


MANY = list("abcdefghi")  # nodes: more than send to the pool themselves


def everybody_relayed(pool: RayPool) -> None:
    """Wait until all workers are behind relays, which are all linked."""

    def there() -> bool:
        pool.poll()
        return [type(link) for link in pool._by_link] == [RelayedLink] * pool.workers

    wait_for(there, "all workers behind relays", seconds=60)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Node and bytes of each message with collected sums that the pool receives."""
    received: list[tuple[str, int]] = []
    on_part = held.HeldSums.on_part

    def noted(self: held.HeldSums, by: Any, header: Any, numbers: Any) -> None:
        received.append((by.node, len(numbers)))
        on_part(self, by, header, numbers)

    monkeypatch.setattr(held.HeldSums, "on_part", noted)
    return received


@pytest.mark.parametrize("chunk", [tree.CHUNK, 600])
def test_many_relays_add_up_among_themselves_to_the_same_bits(
    opened: Callable[..., RayPool], monkeypatch: pytest.MonkeyPatch, parts: list[tuple[str, int]], chunk: int
) -> None:
    monkeypatch.setattr(tree, "CHUNK", chunk)
    pool = opened(MANY, "cluster.copies=false")
    everybody_relayed(pool)
    for step in range(6):
        theta = THETA * np.float32(1 + step)
        for level in range(3):
            parts.clear()
            assert same(summed(pool, step, level, theta), expected(step, theta))
            assert len({node for node, _ in parts}) == tree.FAN_IN
            assert len(parts) == tree.FAN_IN * -(-4 * SIZE // chunk)
    assert pool.failures == []
    scores = list(pool.gather(pool.submit(scores_requests(0, "val", 5, 2, (1,)), THETA, background=True)))
    assert sorted(len(reply.buffer) for reply in scores) == [1, 2, 2]


def test_a_relay_lost_while_others_wait_for_its_sums(
    opened: Callable[..., RayPool], house: House, monkeypatch: pytest.MonkeyPatch, parts: list[tuple[str, int]]
) -> None:
    pool = opened(MANY)
    everybody_relayed(pool)
    for step in range(2):
        assert same(summed(pool, step), expected(step))
    collect, killed = relay.Relay._collect, []

    def die(self: relay.Relay, header: dict[str, Any]) -> None:
        own = house.by_thread[threading.get_ident()]
        if header["below"] and header["to"] is None and not killed:  # others wait for it, and it for others
            killed.append(own.node)
            own.end()
            return
        collect(self, header)

    monkeypatch.setattr(relay.Relay, "_collect", die)
    for step in range(2, 8):
        assert same(summed(pool, step), expected(step))
    everybody(pool)
    (failure,) = pool.failures
    assert f"({killed[0]}) was lost" in failure
    assert parts


def test_relays_that_cannot_reach_each_other_send_to_the_pool(
    opened: Callable[..., RayPool], monkeypatch: pytest.MonkeyPatch, parts: list[tuple[str, int]]
) -> None:
    def refuse(*where: Any, **how: Any) -> Link:
        del where, how
        raise OSError("cut")

    monkeypatch.setattr(peers, "connect", refuse)
    pool = opened(MANY)
    everybody_relayed(pool)
    for step in range(4):
        assert same(summed(pool, step), expected(step))
    assert pool.failures == []
    assert {node for node, _ in parts} == set(MANY)

"""Deadlines, heartbeats and refusals of the pool of Ray actors, with a clock that the test moves."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.config.overrides import with_overrides
from cluster.config.schema import parse
from cluster.errors import ClusterError
from cluster.interrupts import StopFlag
from cluster.progress import forget_warnings
from cluster.workers import ray_pool
from cluster.workers.arithmetic import require_same_arithmetic, require_same_data
from cluster.workers.ledger import Ledger
from cluster.workers.messages import GradientRequest, TaskRange
from cluster.workers.nodes import Change
from cluster.workers.pool import Ticket
from cluster.workers.room import requested
from cluster.workers.schedule import Job, Schedule
from cluster.workers.vectors import Receiver, Vectors

BASE: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 4,
}
NODE = "0b741a54d58f"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pool of one idle worker on a Ray that is none, with a clock that the test moves."""
    monkeypatch.setattr(ray_pool, "ray", SimpleNamespace(kill=lambda actor: None))
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(ray_pool, "time", SimpleNamespace(monotonic=lambda: clock.now))
    made = object.__new__(ray_pool.RayPool)
    made.clock = clock  # type: ignore[attr-defined]
    made._failed_in_a_row, made._stop = 0, None
    made._config = parse(with_overrides(BASE, ["cluster.order_timeout=5"]))
    made.workers = 1
    made._ledger = Ledger(most=20, window=600.0, clock=lambda: clock.now)
    made.failures, made.events = made._ledger.failures, made._ledger.events
    made._schedule = Schedule(clock=lambda: clock.now)
    made._schedule.on_slow = made._on_slow
    made._vectors = Vectors()
    made._relays = SimpleNamespace(  # type: ignore[assignment]
        drop=lambda link: None,
        check=lambda timeout: None,
        flush=lambda: None,
        silence=lambda link, heard: clock.now - heard,
    )
    made._members, made._by_link, made._waiting, made._begun = {}, {}, 0, True

    def start(number: int) -> None:
        link: Any = Sink()
        member = ray_pool.Member(number, None, None, clock.now, link=link, heard=clock.now, node=NODE, host="one")
        member.receiver = Receiver(shares_memory=True)
        made._members[number] = member
        made._by_link[link] = member
        made._schedule.join(number)

    monkeypatch.setattr(made, "_start", start)
    start(0)
    return made


class Sink:
    """A link to nowhere."""

    def send(self, *message: object) -> None:
        del message


def job(pool: Any) -> Job:
    request = GradientRequest(step=7, shard=0, tasks=TaskRange(split="train", start=0, stop=4))
    return Job(Ticket([request]), request, pool._vectors.pack(np.zeros(3), None, 1))


def heard(pool: Any) -> None:
    for member in pool._by_link.values():
        member.heard = pool.clock.now


def test_the_time_for_an_order_begins_when_it_is_sent(pool: Any) -> None:
    pool.clock.now += 3600  # idle for an hour
    heard(pool)
    pool._schedule.add(job(pool))
    pool._hand_out()
    pool._check_deadlines()
    assert pool.failures == []


def test_an_order_that_nobody_answers_in_time_is_given_up(pool: Any) -> None:
    pool._schedule.add(job(pool))

    def time_passes() -> None:
        pool._hand_out()
        pool.clock.now += 6
        heard(pool)
        pool._check_deadlines()

    time_passes()
    time_passes()
    with pytest.raises(ClusterError, match=r"cluster.order_timeout: .* 5 s, received none from 3 workers.* step 7"):
        time_passes()
    assert len(pool.failures) == 2


def test_a_worker_without_a_sign_of_life_is_replaced_long_before_its_order_is_due(pool: Any) -> None:
    pool._config = parse(with_overrides(BASE, ["cluster.order_timeout=600", "cluster.heartbeat_timeout=2"]))
    pool._schedule.add(job(pool))
    pool._hand_out()
    pool.clock.now += 1.9
    pool._check_deadlines()
    assert pool.failures == []
    pool.clock.now += 0.2
    pool._check_deadlines()
    assert pool.failures == ["worker 0 was lost at step 7 (no sign of life for 2 s); its shards were computed again"]
    assert [one.request.step for _, _, one in pool._schedule.assign()] == [7]
    (event,) = pool.events
    assert (event.kind, event.worker, event.node, event.step) == ("worker hung", 0, "one (0b741a54)", 7)
    assert event.seconds == pytest.approx(2.1), "since the job was given to it"


def test_an_idle_worker_that_is_lost_costs_nothing(pool: Any) -> None:
    pool.clock.now += 100
    pool._replace(pool._members[0], "ActorDiedError")
    assert [(event.kind, event.seconds, event.step) for event in pool.events] == [("worker lost", 0.0, None)]


def test_a_lost_node_takes_its_workers_with_it(pool: Any) -> None:
    changes = [Change("a1b2c3d4e5", "two", joined=True), Change(NODE, "one", joined=False)]
    pool._nodes = SimpleNamespace(changes=lambda: changes)
    pool._schedule.add(job(pool))
    pool._hand_out()
    pool.clock.now += 3
    pool._look_at_nodes()
    assert [event.kind for event in pool.events] == ["node joined", "worker lost", "node lost"]
    assert [event.node for event in pool.events] == ["two (a1b2c3d4)", "one (0b741a54)", "one (0b741a54)"]
    assert [event.seconds for event in pool.events] == pytest.approx([0, 3, 3])
    assert len(pool.failures) == 1


def test_a_lost_node_takes_those_with_it_that_were_to_come_back_by_another_relay(pool: Any) -> None:
    member = pool._members[0]
    pool._let_return(member)
    assert pool._by_link == {}
    pool._nodes = SimpleNamespace(changes=lambda: [Change(NODE, "one", joined=False)])
    pool._look_at_nodes()
    assert [event.kind for event in pool.events] == ["worker lost", "node lost"]
    assert pool._members[0] is not member


def test_a_lost_relay_costs_what_its_workers_held(pool: Any) -> None:
    (link,) = pool._by_link
    pool._schedule.add(job(pool))
    pool._hand_out()
    pool.clock.now += 3
    relay: Any = SimpleNamespace(node=NODE, host="one", seats={0: link, 1: Sink()})  # the second has not greeted yet
    pool._on_relay_lost(relay, "its connection was lost", 2.0)
    pool._on_relay_lost(relay, "its connection was lost", 4.0)
    assert [(event.kind, event.node, event.seconds) for event in pool.events] == [
        ("relay lost", "one (0b741a54)", 3.0),
        ("relay lost", "one (0b741a54)", 4.0),
    ]


def test_workers_may_come_back_by_a_relay_while_others_wait_for_room(pool: Any) -> None:
    pool._members[1] = ray_pool.Member(1, None, None, pool.clock.now)
    pool.clock.now += pool._config.cluster.start_timeout + 1
    heard(pool)
    pool._let_return(pool._members[0])
    pool._check_deadlines()
    pool.clock.now += ray_pool.RETURN - 1
    pool._check_deadlines()
    assert pool.events == []
    pool.clock.now += 2
    pool._check_deadlines()
    assert [event.kind for event in pool.events] == ["worker hung"]


def lose_in_turn(pool: Any, count: int, every: float) -> None:
    """Lose a worker now and then, with a result between."""
    for _ in range(count):
        pool._failed_in_a_row = 0
        pool.clock.now += every
        pool._replace(pool._members[0], "OutOfMemoryError")


def test_too_many_failures_within_the_window_stop_the_run_after_its_step(pool: Any) -> None:
    pool._ledger._most, pool._stop = 3, StopFlag()
    lose_in_turn(pool, 3, every=1)
    assert not pool._stop
    lose_in_turn(pool, 1, every=600)  # the first ones are forgotten
    assert not pool._stop
    lose_in_turn(pool, 3, every=1)
    assert pool._stop.reason.startswith("the loss of 4 workers within 600 s (the last: worker 0, OutOfMemoryError")
    lose_in_turn(pool, 1, every=1)  # what is under way is finished all the same
    pool._stop = None
    with pytest.raises(ClusterError, match=r"6 workers within 600 s.*raise cluster\.max_failures"):
        lose_in_turn(pool, 1, every=1)


@pytest.mark.parametrize(("workers", "most"), [(1, 3), (8, 16)])
def test_a_run_gives_up_when_workers_are_lost_in_a_row_but_not_for_one_node(pool: Any, workers: int, most: int) -> None:
    pool._config, pool.workers = parse(with_overrides(BASE, ["cluster.max_failures=3"])), workers
    for _ in range(most):
        pool._replace(pool._members[0], "NodeDiedError")
    with pytest.raises(ClusterError, match=f"lost {most + 1} workers without one result between"):
        pool._replace(pool._members[0], "NodeDiedError")


def test_workers_on_machines_of_two_kinds_are_refused_unless_asked_for() -> None:
    one = {"processor": "x86_64", "instructions": "AVX2", "torch": "2.13.0"}
    require_same_arithmetic(one, dict(one), mixed=False)
    other = one | {"instructions": "AVX512"}
    with pytest.raises(ClusterError, match=r"instructions: AVX2 and AVX512.*cluster\.mixed=true"):
        require_same_arithmetic(one, other, mixed=False)
    require_same_arithmetic(one, other, mixed=True)


def test_workers_with_other_data_are_refused() -> None:
    require_same_data("a1", "a1")
    with pytest.raises(ClusterError, match="fingerprint a1 on every machine, a worker found none"):
        require_same_data("a1", "")


def test_a_cluster_with_room_for_fewer_workers_is_a_warning_with_both_numbers(pool: Any) -> None:
    pool._config, pool.workers = parse(with_overrides(BASE, ["cluster.workers=3", "cluster.threads=2"])), 3
    pool._most = 1
    ray_pool.ray.cluster_resources = lambda: {"CPU": 5.0}
    (warning,) = pool.warnings
    assert warning.startswith("cluster.workers: 3 workers were asked for, the cluster has room for 2 (5 CPU and 0 GPU")
    ray_pool.ray.cluster_resources = lambda: {"CPU": 6.0}
    assert "3 workers were asked for, 1 took part" in pool.warnings[0]
    pool._most = 3
    assert pool.warnings == []


def test_on_a_cluster_auto_asks_for_a_worker_a_shard_without_a_warning(pool: Any) -> None:
    config = parse(with_overrides(BASE, ["meta_batch=40", "cluster.address=10.0.0.1:6379"]))
    assert requested(config) == 14  # shards of three
    pool._config, pool.workers, pool._most = config, 14, 2
    ray_pool.ray.cluster_resources = lambda: {"CPU": 2.0}
    assert pool.warnings == []
    assert pool._short_of_room() is None


@pytest.mark.parametrize(
    ("overrides", "workers"),
    [
        (["cluster.max_workers=5"], 5),
        (["cluster.max_workers=50"], 14),
        (["cluster.min_workers=3"], 14),
        (["cluster.min_workers=20"], 20),
        (["cluster.workers=9", "cluster.min_workers=3"], 9),
    ],
)
def test_an_elastic_pool_asks_for_a_worker_a_shard_within_its_bounds(overrides: list[str], workers: int) -> None:
    assert requested(parse(with_overrides(BASE, ["meta_batch=40", *overrides]))) == workers


def test_a_run_waits_for_the_fewest_workers_that_it_may_have(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool._config = parse(with_overrides(BASE, ["cluster.min_workers=2", "cluster.start_timeout=60"]))
    ray_pool.ray.cluster_resources = lambda: {"CPU": 1.0}
    ray_pool.ray.available_resources = lambda: {"CPU": 0.0}
    began = pool.clock.now

    def advance(timeout: float) -> None:
        pool.clock.now += timeout
        if pool.clock.now - began > 30:
            pool._start(1)

    monkeypatch.setattr(pool, "_advance", lambda timeout: setattr(pool.clock, "now", pool.clock.now + timeout))
    with pytest.raises(ClusterError, match=r"min_workers: expected 2 workers within 60 s, received 1; .* 1 CPU"):
        pool._wait_for_workers()
    began = pool.clock.now
    monkeypatch.setattr(pool, "_advance", advance)
    pool._wait_for_workers()
    assert 30 < pool.clock.now - began < 32


def test_going_on_with_fewer_than_the_fewest_is_said(pool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    forget_warnings()
    pool._config, pool.workers = parse(with_overrides(BASE, ["cluster.min_workers=2"])), 2
    pool._members[1] = ray_pool.Member(1, None, None, pool.clock.now)  # waits for room
    pool._check_deadlines()
    assert capsys.readouterr().err == ""
    pool.clock.now += 31
    heard(pool)
    pool._check_deadlines()
    assert "cluster.min_workers: 1 of 2 workers have room; going on with fewer" in capsys.readouterr().err


def test_blocks_are_finer_where_workers_are_missing_or_slow(pool: Any) -> None:
    config = parse(with_overrides(BASE, ["meta_batch=64", "shard=4"]))
    pool._setup = SimpleNamespace(config=config, adds_shards=True)
    pool.workers = 1
    assert pool.level == 4
    pool.workers = 2  # of which one is there
    assert pool.level == 2
    pool._waiting = 1  # for room: it will not come soon
    assert pool.level == 4
    pool._waiting = 0
    pool._setup.adds_shards = False
    assert pool.level == 0

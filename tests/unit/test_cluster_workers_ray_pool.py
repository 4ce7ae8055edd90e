"""Deadlines, heartbeats and refusals of the pool of Ray actors, with a clock that the test moves."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.config.schema import parse, with_overrides
from cluster.errors import ClusterError
from cluster.workers import ray_pool
from cluster.workers.messages import GradientRequest, TaskRange
from cluster.workers.pool import Ticket
from cluster.workers.schedule import Job, Schedule
from cluster.workers.vectors import Receiver, Vectors

BASE: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 4,
}


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pool of one idle worker on a Ray that is none, with a clock that the test moves."""
    monkeypatch.setattr(ray_pool, "ray", SimpleNamespace(kill=lambda actor: None))
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(ray_pool, "time", SimpleNamespace(monotonic=lambda: clock.now))
    made = object.__new__(ray_pool.RayPool)
    made.clock = clock  # type: ignore[attr-defined]
    made.failures, made._failed_in_a_row = [], 0
    made._config = parse(with_overrides(BASE, ["cluster.order_timeout=5"]))
    made.workers = 1
    made._schedule = Schedule(clock=lambda: clock.now)
    made._vectors = Vectors()
    made._hub = SimpleNamespace(drop=lambda link: None)  # type: ignore[assignment]
    made._members, made._by_link = {}, {}

    def start(number: int) -> None:
        link: Any = Sink()
        member = ray_pool.Member(number, None, None, clock.now, link=link, heard=clock.now)
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


@pytest.mark.parametrize(("workers", "most"), [(1, 3), (8, 16)])
def test_a_run_gives_up_when_workers_are_lost_in_a_row_but_not_for_one_node(pool: Any, workers: int, most: int) -> None:
    pool._config, pool.workers = parse(with_overrides(BASE, ["cluster.max_failures=3"])), workers
    for _ in range(most):
        pool._replace(pool._members[0], "NodeDiedError")
    with pytest.raises(ClusterError, match=f"lost {most + 1} workers without one result between"):
        pool._replace(pool._members[0], "NodeDiedError")


def test_workers_on_machines_of_two_kinds_are_refused_unless_asked_for(pool: Any) -> None:
    pool._arithmetic = None
    one = {"processor": "x86_64", "instructions": "AVX2", "torch": "2.13.0"}
    pool._require_same_arithmetic(one)
    pool._require_same_arithmetic(dict(one))
    other = one | {"instructions": "AVX512"}
    with pytest.raises(ClusterError, match=r"instructions: AVX2 and AVX512.*cluster\.mixed=true"):
        pool._require_same_arithmetic(other)
    pool._config = parse(with_overrides(BASE, ["cluster.mixed=true"]))
    pool._require_same_arithmetic(other)


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
    assert ray_pool._number(config) == 14  # shards of three
    pool._config, pool.workers, pool._most = config, 14, 2
    assert pool.warnings == []
    assert pool._short_of_room() is None


def test_blocks_are_finer_where_workers_are_missing_or_slow(pool: Any) -> None:
    config = parse(with_overrides(BASE, ["meta_batch=64", "shard=4"]))
    pool._setup = SimpleNamespace(config=config, adds_shards=True)
    pool.workers = 1
    assert pool.level == 4
    pool.workers = 2  # of which one is there
    assert pool.level == 2
    pool._setup.adds_shards = False
    assert pool.level == 0

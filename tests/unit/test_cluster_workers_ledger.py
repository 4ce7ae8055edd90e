"""Cost of lost workers, under a clock that the test moves."""

from types import SimpleNamespace

import pytest

from cluster.workers.ledger import SLOW_EVERY, Ledger
from cluster.workers.messages import GradientRequest, TaskRange
from cluster.workers.pool import Ticket
from cluster.workers.schedule import ENOUGH, Job, Schedule


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=50.0)


@pytest.fixture
def ledger(clock: SimpleNamespace) -> Ledger:
    return Ledger(most=2, window=100.0, clock=lambda: clock.now)


def lose(ledger: Ledger, worker: int = 0, seconds: float = 2.0) -> None:
    ledger.lost(worker, "ActorDiedError", hung=False, step=4, node="a", seconds=seconds)


def test_a_replacement_costs_the_seconds_that_its_place_was_empty(ledger: Ledger, clock: SimpleNamespace) -> None:
    ledger.joined(0, "a")
    assert ledger.events == [], "the first in its place replaces nobody"
    lose(ledger)
    clock.now += 3
    lose(ledger)  # the replacement, before it was ready
    clock.now += 4
    ledger.joined(0, "b")
    (*_, replaced) = ledger.events
    assert (replaced.kind, replaced.worker, replaced.node, replaced.seconds) == ("worker replaced", 0, "b", 7.0)


def test_a_node_costs_what_its_workers_cost(ledger: Ledger) -> None:
    lose(ledger, 0, 2.0)
    lose(ledger, 1, 3.0)
    ledger.node_lost("a")
    ledger.node_lost("a")  # come back and lost again
    assert [event.seconds for event in ledger.events if event.kind == "node lost"] == [5.0, 0.0]


def test_a_lost_relay_is_a_failure_of_its_node_but_of_no_worker(ledger: Ledger) -> None:
    for _ in range(5):
        ledger.relay_lost("a", "it did not start", 1.5)
    assert ledger.too_many is None
    assert ledger.failures == ["the relay of node a was lost (it did not start); what it held was computed again"] * 5
    lose(ledger, 0, 2.0)
    ledger.node_lost("a")
    assert (ledger.events[0].kind, ledger.events[-1].seconds) == ("relay lost", 9.5)


def test_failures_are_too_many_within_a_window_only(ledger: Ledger, clock: SimpleNamespace) -> None:
    for _ in range(5):
        lose(ledger)
        assert ledger.too_many is None
        clock.now += 60
    lose(ledger)
    lose(ledger)
    assert ledger.too_many is not None
    assert "3 workers within 100 s" in ledger.too_many
    clock.now += 101
    assert ledger.too_many is None


def test_a_slow_worker_is_an_event_a_minute_with_all_that_it_cost(ledger: Ledger, clock: SimpleNamespace) -> None:
    ledger.slow(1, 5, 0.6, "a")
    assert ledger.events == []
    ledger.slow(1, 6, 0.6, "a")
    ledger.slow(1, 7, 5.0, "a")  # within the minute
    clock.now += SLOW_EVERY
    ledger.slow(1, 8, 1.0, "a")
    assert [(event.kind, event.step, event.seconds) for event in ledger.events] == [
        ("worker slow", 6, pytest.approx(1.2)),
        ("worker slow", 8, pytest.approx(6.0)),
    ]


def test_the_schedule_says_by_how_much_a_job_took_longer_than_usual(clock: SimpleNamespace) -> None:
    schedule = Schedule(clock=lambda: clock.now)
    told: list[tuple[int, int, float]] = []
    schedule.on_slow = lambda worker, job, excess: told.append((worker, job.request.step, excess))
    schedule.join(0)
    for step in range(ENOUGH + 1):
        request = GradientRequest(step=step, shard=0, tasks=TaskRange(split="train", start=0, stop=2))
        schedule.add(Job(Ticket([request]), request, None))
        ((worker, number, _),) = schedule.assign()
        took = 0.1 if step < ENOUGH else 1.0
        clock.now += took
        schedule.settle(worker, number, took)
    assert told == [(0, ENOUGH, pytest.approx(0.9))]


def test_a_lost_worker_costs_no_more_than_until_another_worker_had_its_job(clock: SimpleNamespace) -> None:
    schedule = Schedule(clock=lambda: clock.now)
    request = GradientRequest(step=0, shard=0, tasks=TaskRange(split="train", start=0, stop=2))
    schedule.join(0)
    schedule.add(Job(Ticket([request]), request, None))
    ((worker, _, job),) = schedule.assign()
    schedule.join(1)
    _, copy, _ = schedule._give(1, job)
    clock.now += 2
    assert schedule.waited(worker) == 2
    schedule.settle(1, copy, 1.0)
    clock.now += 5
    assert schedule.waited(worker) == 2
    assert schedule.waited(1) == 0

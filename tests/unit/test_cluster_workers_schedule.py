"""Who computes what: every request is settled once, whatever workers come, go, lag or answer twice."""

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.workers.messages import FisherProduct, GradientRequest, Request, ScoresRequest, TaskRange
from cluster.workers.pool import Ticket
from cluster.workers.schedule import DEPTH, ENOUGH, LATE, LEAST, SLOW, Job, Schedule

TASKS = TaskRange(split="train", start=0, stop=4)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def job(kind: type[Request] = GradientRequest, shard: int = 0, step: int = 0) -> Job:
    further: dict[str, Any] = {"inner_steps": (1,)} if kind is ScoresRequest else {}
    request = kind(step=step, shard=shard, tasks=TASKS, **further)
    return Job(Ticket([request]), request, None)


def jobs(count: int) -> list[Job]:
    """Jobs of one ticket, a shard each."""
    requests = [GradientRequest(step=0, shard=shard, tasks=TASKS) for shard in range(count)]
    ticket = Ticket(requests)
    return [Job(ticket, request, None) for request in requests]


def made(workers: int, *, copies: bool = True) -> tuple[Schedule, Clock]:
    clock = Clock()
    schedule = Schedule(copies=copies, clock=clock)
    for worker in range(workers):
        schedule.join(worker)
    return schedule, clock


def experienced(workers: int, seconds: float = 1.0) -> tuple[Schedule, Clock]:
    """A schedule that knows how long a gradient takes."""
    schedule, clock = made(workers)
    for step in range(ENOUGH):
        schedule.add(job(step=step))
        ((worker, number, _),) = list(schedule.assign())
        clock.now += seconds
        assert schedule.settle(worker, number, seconds)
    return schedule, clock


def test_each_worker_gets_its_own_shards_and_two_at_most() -> None:
    schedule, _ = made(2)
    for one in jobs(6):
        schedule.add(one)
    given_out = [(worker, one.request.shard) for worker, _, one in schedule.assign()]
    assert sorted(given_out) == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert len(given_out) == 2 * DEPTH
    assert list(schedule.assign()) == []


def test_neighbouring_shards_go_to_workers_of_one_node() -> None:
    schedule, _ = made(0)
    for worker, node in enumerate("abcabc"):
        schedule.join(worker, node)
    for one in jobs(12):
        schedule.add(one)
    nodes = {one.request.shard: "abcabc"[worker] for worker, _, one in schedule.assign()}
    assert [nodes[shard] for shard in range(12)] == list("aaaabbbbcccc")


def test_jobs_whose_results_were_lost_are_computed_once_more() -> None:
    schedule, clock = experienced(2)
    lost = job()
    schedule.add(lost)
    ((worker, number, _),) = list(schedule.assign())
    clock.now += LATE + 0.01
    ((other, second, _),) = list(schedule.assign())
    assert schedule.settle(worker, number, 1.0) is lost
    clock.now += 0.5
    assert schedule.again([lost]) == 0.5
    assert list(schedule.assign()) == [], "another worker still computes it"
    assert schedule.settle(other, second, 1.0) is lost
    assert lost.ticket.computed == 1
    schedule.again([lost])
    assert [one for _, _, one in schedule.assign()] == [lost]


def test_background_jobs_wait_for_idle_workers() -> None:
    schedule, _ = made(1)
    schedule.add(job(ScoresRequest), background=True)
    schedule.add(job())
    ((_, number, first),) = list(schedule.assign())
    assert isinstance(first.request, GradientRequest)
    assert schedule.settle(0, number, 0.1) is first
    ((_, _, second),) = list(schedule.assign())
    assert isinstance(second.request, ScoresRequest)


def test_requests_about_rollouts_go_to_the_worker_that_has_them() -> None:
    schedule, _ = made(3)
    own = {}
    for shard in (2, 0, 1):
        schedule.add(job(shard=shard))
        ((worker, number, _),) = list(schedule.assign())
        own[shard] = worker
        schedule.settle(worker, number, 0.1)
    schedule.leave(0)
    schedule.join(3)
    for shard in range(3):
        schedule.add(job(FisherProduct, shard=shard))
        ((worker, number, _),) = list(schedule.assign())
        assert worker == own[shard] or own[shard] == 0
        schedule.settle(worker, number, 0.1)


def test_a_lost_workers_jobs_go_first() -> None:
    schedule, _ = made(1)
    for shard in range(4):
        schedule.add(job(shard=shard))
    held = [one for _, _, one in schedule.assign()]
    assert schedule.leave(0) == held
    schedule.join(1)
    assert [one for _, _, one in schedule.assign()] == held


def test_a_late_job_is_computed_by_an_idle_worker_too_and_counts_once() -> None:
    schedule, clock = experienced(2)
    late = job()
    schedule.add(late)
    ((worker, number, _),) = list(schedule.assign())
    assert list(schedule.assign()) == []
    assert schedule.next_look() == pytest.approx(LATE)
    clock.now += LATE + 0.01
    ((other, second, copy),) = list(schedule.assign())
    assert (copy, {worker, other}) == (late, {0, 1})
    assert schedule.copied == 1
    assert list(schedule.assign()) == [], "two workers are enough"
    assert schedule.settle(other, second, 0.5) is late
    assert schedule.settle(worker, number, 9.0) is None


def test_a_request_that_waits_for_its_worker_is_no_reason_to_look_again_at_once() -> None:
    schedule, clock = experienced(2)
    schedule.add(job(shard=0))
    ((worker, number, _),) = list(schedule.assign())
    schedule.settle(worker, number, 1.0)
    for _ in range(DEPTH + 1):
        schedule.add(job(FisherProduct, shard=0))
    assert {worker for worker, _, _ in schedule.assign()} == {worker}
    clock.now += 1000
    assert schedule.next_look() == float("inf")


def test_no_copies_where_they_are_switched_off_or_nobody_knows_what_late_is() -> None:
    for copies, rounds in ((False, ENOUGH), (True, ENOUGH - 1)):
        schedule, clock = made(2, copies=copies)
        for step in range(rounds):
            schedule.add(job(step=step))
            ((worker, number, _),) = list(schedule.assign())
            clock.now += 1
            schedule.settle(worker, number, 1.0)
        schedule.add(job())
        list(schedule.assign())
        clock.now += 1000
        assert list(schedule.assign()) == []
        assert schedule.next_look() == float("inf")


def test_a_slow_worker_gets_copies_alone_until_it_is_fast_again() -> None:
    schedule, clock = experienced(2)
    for one in jobs(2):
        schedule.add(one)
    (_, fast, _), (worker, number, _) = list(schedule.assign())
    assert worker == 1
    clock.now += 1
    schedule.settle(0, fast, 1.0)
    clock.now += 2 * SLOW
    schedule.settle(worker, number, 2 * SLOW)
    for one in jobs(3):
        schedule.add(one)
    given_out = list(schedule.assign())
    assert [worker for worker, _, _ in given_out] == [0, 0], "one waits, and the slow worker has nothing"
    schedule.settle(0, given_out[0][1], 1.0)
    given_out = list(schedule.assign())
    assert given_out[0][0] == 0
    ((worker, number, copy),) = given_out[1:]
    assert worker == 1
    assert schedule.copied == 0, "the job was not late"
    assert schedule.settle(1, number, 1.0) is copy
    schedule.add(jobs(2)[1])
    assert next(iter(schedule.assign()))[0] == 1


def test_all_workers_slow_is_none_slow() -> None:
    schedule, clock = experienced(1)
    schedule.add(job())
    ((_, number, _),) = list(schedule.assign())
    clock.now += 100
    schedule.settle(0, number, 100.0)
    schedule.add(job())
    assert len(list(schedule.assign())) == 1


def test_jobs_of_microseconds_are_never_late() -> None:
    schedule, clock = experienced(2, seconds=1e-5)
    schedule.add(job())
    list(schedule.assign())
    clock.now += LEAST * 0.9
    assert list(schedule.assign()) == []


class Running(RuleBasedStateMachine):
    """Any order of submissions, replies, losses and returns."""

    @initialize(copies=st.booleans())
    def begin(self, copies: bool) -> None:
        self.clock = Clock()
        self.schedule = Schedule(copies=copies, clock=self.clock)
        self.workers: dict[int, deque[tuple[int, Job]]] = {}
        self.fresh = 0
        self.jobs: list[Job] = []
        self.settled: list[Job] = []

    def assign(self) -> None:
        for worker, number, one in list(self.schedule.assign()):
            self.workers[worker].append((number, one))
            assert len(self.workers[worker]) <= DEPTH

    @rule(count=st.integers(1, 5), kind=st.sampled_from([GradientRequest, ScoresRequest, FisherProduct]))
    def submit(self, count: int, kind: type[Request]) -> None:
        for shard in range(count):
            one = job(kind, shard=shard)
            self.jobs.append(one)
            self.schedule.add(one, background=kind is ScoresRequest)
        self.assign()

    @rule()
    def come(self) -> None:
        self.workers[self.fresh] = deque()
        self.schedule.join(self.fresh)
        self.fresh += 1
        self.assign()

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0))
    def go(self, which: int) -> None:
        worker = sorted(self.workers)[which % len(self.workers)]
        held = [one for _, one in self.workers.pop(worker) if one not in self.settled]
        assert self.schedule.leave(worker) == held
        self.assign()

    @precondition(lambda self: any(self.workers.values()))
    @rule(which=st.integers(0), seconds=st.sampled_from([1e-4, 0.01, 1.0, 30.0]))
    def reply(self, which: int, seconds: float) -> None:
        busy = [worker for worker in sorted(self.workers) if self.workers[worker]]
        worker = busy[which % len(busy)]
        number, one = self.workers[worker].popleft()
        self.clock.now += seconds
        counted = self.schedule.settle(worker, number, seconds)
        assert (counted is one) == (one not in self.settled)
        if counted:
            self.settled.append(counted)
        self.assign()

    @rule(seconds=st.sampled_from([0.001, 1.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.assign()

    @invariant()
    def nothing_counts_twice(self) -> None:
        if hasattr(self, "settled"):
            assert len({id(one) for one in self.settled}) == len(self.settled)

    def teardown(self) -> None:
        """In the end all is done: nothing was lost."""
        if not hasattr(self, "jobs"):
            return
        self.come()
        for _ in range(10 * len(self.jobs) + 10):
            if not any(self.workers.values()):
                break
            self.reply(0, 0.01)
        assert {id(one) for one in self.settled} == {id(one) for one in self.jobs}


Running.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_every_request_is_settled_once = Running.TestCase


@given(st.integers(1, 6), st.integers(1, 20))
def test_work_is_spread(workers: int, shards: int) -> None:
    schedule, _ = made(workers)
    for one in jobs(shards):
        schedule.add(one)
    counts = [0] * workers
    for worker, _, _ in schedule.assign():
        counts[worker] += 1
    assert max(counts) <= DEPTH
    assert sum(counts) == min(shards, DEPTH * workers)
    if shards >= workers:
        assert min(counts) >= 1

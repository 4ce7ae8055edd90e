"""Which worker computes which request, and when a second one computes it as well.

A request has one job from submission until its reply is delivered. A job may be held by several workers: when one has
left without a reply, or takes much longer than usual, another computes it too. The first reply counts, further ones are
dropped; whoever computes a job gives the same bits.
"""

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.workers.messages import Request, RolloutRequest, ScoresRequest
from cluster.workers.pool import Ticket

DEPTH = 2  # jobs at one worker: the one it computes and the one it finds when it has finished
REMEMBERED = 64  # times of jobs of one kind
ENOUGH = 8  # of them, before anybody is called late or slow
LATE = 2.5  # times the median: another worker that has nothing to do computes the job as well
SLOW = 3.0  # times the median in its last job: a worker that gets only copies of jobs that others hold
LEAST = 0.002  # seconds; below it, nobody is called late or slow


@dataclass(eq=False)
class Job:
    """A request on its way.

    Attributes:
        ticket: the request's.
        request: what to compute.
        vectors: what travels beside it; the pool's.
        silences: workers that gave no reply to it in time.
        holders: number of workers that hold it.
        settled: whether its reply has been delivered.
    """

    ticket: Ticket
    request: Request
    vectors: Any
    silences: int = 0
    holders: int = 0
    settled: bool = False

    @property
    def background(self) -> bool:
        """Whether other jobs go first."""
        return isinstance(self.request, ScoresRequest)


@dataclass
class _Seat:
    jobs: dict[int, tuple[Job, float]] = field(default_factory=dict)  # by assignment: the job, and since when
    slow: bool = False


class Schedule:
    """Jobs that wait, workers that compute, and what is known of their speed."""

    def __init__(self, *, copies: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without jobs and workers.

        Args:
            copies: whether late jobs are computed by a second worker as well.
            clock: seconds from anywhere on.
        """
        self._copies, self._clock = copies, clock
        self._foreground: deque[Job] = deque()
        self._background: deque[Job] = deque()
        self._seats: dict[int, _Seat] = {}
        self._numbers = itertools.count()
        self._latest: dict[int, int] = {}  # by shard: the worker that had its latest request
        self._waits: dict[str, deque[float]] = {}  # by kind: seconds from assignment to reply
        self._work: dict[str, deque[float]] = {}  # by kind: seconds of computing
        self.copied = 0  # jobs that were given to a second worker while the first still held them

    def add(self, job: Job, *, background: bool = False) -> None:
        """Queue a job."""
        (self._background if background else self._foreground).append(job)

    def join(self, worker: int) -> None:
        """Take a worker in."""
        self._seats[worker] = _Seat()

    def leave(self, worker: int) -> list[Job]:
        """Let a worker go; jobs that nobody else holds go back to the head of their queues.

        Returns:
            The jobs that it held and that are not settled, the oldest first.
        """
        seat = self._seats.pop(worker, None)
        held = [job for job, _ in seat.jobs.values() if not job.settled] if seat else []
        for job in reversed(held):
            job.holders -= 1
            if job.holders == 0:
                (self._background if job.background else self._foreground).appendleft(job)
        return held

    def oldest(self, worker: int) -> tuple[Job, float] | None:
        """The unsettled job that a worker has held longest and the seconds since then, or None."""
        for job, since in self._seats[worker].jobs.values():
            if not job.settled:
                return job, self._clock() - since
        return None

    def assign(self) -> Iterator[tuple[int, int, Job]]:
        """Give out what can be given out; yields worker, number of the assignment, and job."""
        fast = [number for number, seat in self._seats.items() if not seat.slow] or list(self._seats)
        if self._foreground and fast:
            waiting, self._foreground = self._foreground, deque()
            for job in waiting:
                worker = self._worker_for(job.request, fast)
                if len(self._seats[worker].jobs) < DEPTH:
                    self._latest[job.request.shard] = worker
                    yield worker, self._give(worker, job), job
                else:
                    self._foreground.append(job)
        for worker in fast:
            if self._background and not self._seats[worker].jobs:
                job = self._background.popleft()
                yield worker, self._give(worker, job), job
        yield from self._second_holders()

    def _worker_for(self, request: Request, workers: list[int]) -> int:
        """The worker that keeps the request's rollouts, or has drawn its tasks ahead, or has the fewest jobs."""
        holder = self._latest.get(request.shard)
        if isinstance(request, RolloutRequest) and holder in workers:
            return holder
        own = workers[request.shard % len(workers)]
        return own if len(self._seats[own].jobs) < DEPTH else min(workers, key=lambda one: len(self._seats[one].jobs))

    def _give(self, worker: int, job: Job) -> int:
        number = next(self._numbers)
        self._seats[worker].jobs[number] = (job, self._clock())
        job.holders += 1
        return number

    def _second_holders(self) -> Iterator[tuple[int, int, Job]]:
        """Give late jobs to idle workers as well, and slow workers copies of what others hold."""
        if not self._copies or self._foreground or self._background or len(self._seats) < 2:
            return
        for worker, seat in self._seats.items():
            if seat.jobs:
                continue
            since, job = min(self._single(), key=lambda pair: pair[0], default=(0.0, None))
            if job is not None and (seat.slow or self._clock() - since > self._lateness(job.request.kind)):
                self.copied += not seat.slow
                yield worker, self._give(worker, job), job

    def _single(self) -> Iterator[tuple[float, Job]]:
        """Jobs that one worker alone holds, and since when."""
        for seat in self._seats.values():
            for job, since in seat.jobs.values():
                if not job.settled and job.holders == 1:
                    yield since, job

    def _lateness(self, kind: str) -> float:
        """Seconds after which a job of a kind is late."""
        waits = self._waits.get(kind, ())
        return max(LEAST, LATE * statistics.median(waits)) if len(waits) >= ENOUGH else float("inf")

    def next_look(self) -> float:
        """Seconds until a job may be late that an idle worker could compute; infinite if there is none."""
        if not self._copies or len(self._seats) < 2 or all(seat.jobs for seat in self._seats.values()):
            return float("inf")
        now = self._clock()
        return min(
            (since + self._lateness(job.request.kind) - now for since, job in self._single()), default=float("inf")
        )

    def settle(self, worker: int, assignment: int, seconds: float) -> Job | None:
        """Count a reply: the job it settles, or None if another worker's reply has settled it before.

        Args:
            worker: who replied.
            assignment: the number under which the job was given to it.
            seconds: how long it computed.
        """
        seat = self._seats[worker]
        job, since = seat.jobs.pop(assignment)
        job.holders -= 1
        kind = job.request.kind
        waits = self._waits.setdefault(kind, deque(maxlen=REMEMBERED))
        work = self._work.setdefault(kind, deque(maxlen=REMEMBERED))
        if seconds < LEAST:
            seat.slow = False
        elif len(work) >= ENOUGH:
            usual = statistics.median(work)
            seat.slow = seconds > SLOW * usual and seconds - usual > LEAST
        if job.settled:
            return None
        waits.append(self._clock() - since)
        work.append(seconds)
        job.settled = True
        return job

"""Which worker computes which request, and when a second one computes it as well.

A request has one job from submission until it has been computed. A job may be held by several workers: when one has
left without a reply, or takes much longer than usual, another computes it too. The first reply counts, further ones are
dropped; whoever computes a job gives the same bits. Neighbouring shards go to neighbours: workers of one node add their
gradients up before they leave it.
"""

import itertools
import statistics
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import ClusterError
from cluster.workers.messages import Request, RolloutRequest, ScoresRequest
from cluster.workers.pool import Ticket

DEPTH = 2  # jobs at one worker: the one it computes and the one it finds when it has finished
REMEMBERED = 64  # times of jobs of one kind
ENOUGH = 8  # of them, before anybody is called late or slow
LATE = 2.5  # times the median: another worker that has nothing to do computes the job as well
SLOW = 3.0  # times the median in its last job: a worker that gets only copies of jobs that others hold
MOST_SILENCES = 3  # workers in turn that give no reply to one request: then it is the request that takes too long
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
        ended: when a worker had computed it, on the schedule's clock; its result may still be at a relay.
    """

    ticket: Ticket
    request: Request
    vectors: Any
    silences: int = 0
    holders: int = 0
    ended: float | None = None

    @property
    def settled(self) -> bool:
        """Whether it has been computed, by whichever worker."""
        return self.ended is not None

    @property
    def background(self) -> bool:
        """Whether other jobs go first."""
        return isinstance(self.request, ScoresRequest)

    def count_silence(self, timeout: float) -> None:
        """Count a worker that does not reply; after several in turn it is the request that takes too long.

        Args:
            timeout: seconds that each may take.

        Raises:
            ClusterError: naming the request and the key to change.
        """
        self.silences += 1
        if self.silences >= MOST_SILENCES:
            raise ClusterError(
                f"cluster.order_timeout: expected an answer within {timeout:g} s, received none from {self.silences} "
                f"workers in turn for step {self.request.step} on {self.request.tasks}; raise cluster.order_timeout, "
                "or lower shard"
            )


class _Times:
    """Times of jobs of one kind, per task since blocks of shards differ in size."""

    def __init__(self) -> None:
        """Know nothing."""
        self._wait = self._work = float("inf")  # medians: seconds from assignment to reply, and of computing
        self._waits: deque[float] = deque(maxlen=REMEMBERED)
        self._works: deque[float] = deque(maxlen=REMEMBERED)
        self._new = 0

    def add(self, tasks: int, wait: float, work: float) -> None:
        """Learn from a reply: seconds from assignment to reply, and of computing."""
        self._waits.append(wait / tasks)
        self._works.append(work / tasks)
        self._new += 1
        if self._new == ENOUGH:
            self._new = 0
            self._wait, self._work = statistics.median(self._waits), statistics.median(self._works)

    def late(self, tasks: int) -> float:
        """Seconds from assignment after which a job is late."""
        return max(LEAST, LATE * tasks * self._wait)

    def excess(self, tasks: int, work: float) -> float:
        """Seconds by which computing has taken longer than usual if it has taken much longer, else 0."""
        usual = tasks * self._work
        return work - usual if work > SLOW * usual and work - usual > LEAST else 0.0


class Schedule:
    """Jobs that wait, workers that compute, and what is known of their speed.

    What one assignment and one reply take does not grow with the number of workers.
    """

    def __init__(self, *, copies: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without jobs and workers.

        Args:
            copies: whether late jobs are computed by a second worker as well.
            clock: seconds from anywhere on.
        """
        self._copies, self._clock = copies, clock
        self._foreground: deque[Job] = deque()
        self._background: deque[Job] = deque()
        self._jobs: dict[int, dict[int, Job]] = {}  # by worker, by assignment
        self._slow: set[int] = set()
        self._nodes: dict[int, str] = {}  # by worker
        self._fast: list[int] = []  # workers that are not slow, node by node; all, if all are
        self._holding: list[dict[int, None]] = [{} for _ in range(DEPTH)]  # fast workers by the jobs that they hold
        self._idle_slow: dict[int, None] = {}
        self._out: dict[int, tuple[int, Job, float]] = {}  # by assignment, the oldest first: worker, job, since when
        self._numbers = itertools.count()
        self._latest: dict[int, int] = {}  # by shard: the worker that had its latest request
        self._times: dict[str, _Times] = {}  # by kind
        self.copied = 0  # jobs that were given to a second worker because they were late
        self.on_slow: Callable[[int, Job, float], None] | None = None  # worker, job, seconds longer than usual

    @property
    def fast(self) -> int:
        """Number of workers that are not slow; all, if all are."""
        return len(self._fast)

    def add(self, job: Job, *, background: bool = False) -> None:
        """Queue a job."""
        (self._background if background else self._foreground).append(job)

    def join(self, worker: int, node: str = "") -> None:
        """Take a worker in.

        Args:
            worker: its number.
            node: any name of its node.
        """
        self._jobs[worker], self._nodes[worker] = {}, node
        if self._slow:
            self._sort()
        else:
            insort(self._fast, worker, key=self._seat)
            self._place(worker)

    def _seat(self, worker: int) -> tuple[str, int]:
        """A worker's place among all, node by node."""
        return self._nodes[worker], worker

    def leave(self, worker: int) -> list[Job]:
        """Let a worker go; jobs that nobody else holds go back to the head of their queues.

        Returns:
            The jobs that it held and that are not settled, the oldest first.
        """
        jobs = self._jobs.pop(worker, {})
        self._nodes.pop(worker, None)
        self._slow.discard(worker)
        for assignment in jobs:
            del self._out[assignment]
        for job in jobs.values():
            job.holders -= 1
        held = [job for job in jobs.values() if not job.settled]
        self._put_back(held)
        self._sort()
        return held

    def again(self, jobs: Sequence[Job]) -> float:
        """Have jobs computed again whose results were lost.

        Args:
            jobs: that are settled.

        Returns:
            Seconds since the first of them was computed, 0 if there are none.
        """
        since = max((self._clock() - job.ended for job in jobs if job.ended is not None), default=0.0)
        for job in jobs:
            job.ended = None
            job.ticket.computed -= 1
        self._put_back(jobs)
        return since

    def _put_back(self, jobs: Sequence[Job]) -> None:
        """Put jobs that nobody holds back at the head of their queues."""
        for job in reversed(jobs):
            if job.holders == 0:
                (self._background if job.background else self._foreground).appendleft(job)

    def _sort(self) -> None:
        """Tell fast workers from slow ones anew."""
        workers = sorted(self._jobs, key=self._seat)
        self._fast = [worker for worker in workers if worker not in self._slow] or workers
        for listed in (*self._holding, self._idle_slow):
            listed.clear()
        for worker in self._jobs:
            self._place(worker)

    def _place(self, worker: int) -> None:
        """List a worker by the jobs that it holds now."""
        for workers in (*self._holding, self._idle_slow):
            workers.pop(worker, None)
        held = len(self._jobs[worker])
        if worker in self._slow and len(self._fast) < len(self._jobs):
            if held == 0:
                self._idle_slow[worker] = None
        elif held < DEPTH:
            self._holding[held][worker] = None

    def waited(self, worker: int) -> float:
        """Seconds for which the oldest job that a worker holds has waited for it, at most until another's reply."""
        now, jobs = self._clock(), self._jobs.get(worker, {})
        ends = ((now if job.ended is None else job.ended) - self._out[number][2] for number, job in jobs.items())
        return max(ends, default=0.0)

    def oldest(self, worker: int) -> tuple[Job, float] | None:
        """The unsettled job that a worker has held longest and the seconds since then, or None."""
        for assignment, job in self._jobs[worker].items():
            if not job.settled:
                return job, self._clock() - self._out[assignment][2]
        return None

    def assign(self) -> Iterator[tuple[int, int, Job]]:
        """Give out what can be given out; yields worker, number of the assignment, and job."""
        waiting: list[Job] = []  # for the worker that has their rollouts
        while self._foreground and any(self._holding):
            job = self._foreground.popleft()
            worker = self._worker_for(job)
            if len(self._jobs[worker]) < DEPTH:
                self._latest[job.request.shard] = worker
                yield self._give(worker, job)
            else:
                waiting.append(job)
        self._foreground.extendleft(reversed(waiting))
        while self._background and self._holding[0]:
            yield self._give(next(iter(self._holding[0])), self._background.popleft())
        yield from self._copies_of_late_jobs()

    def _worker_for(self, job: Job) -> int:
        """The worker that keeps the request's rollouts, or has drawn its tasks ahead, or has the fewest jobs."""
        request = job.request
        holder = self._latest.get(request.shard, -1)
        if isinstance(request, RolloutRequest) and holder in self._jobs and holder not in self._slow:
            return holder
        own = self._fast[request.shard * len(self._fast) // len(job.ticket.requests) % len(self._fast)]
        if len(self._jobs[own]) < DEPTH:
            return own
        return next(worker for workers in self._holding for worker in workers)

    def _give(self, worker: int, job: Job) -> tuple[int, int, Job]:
        number = next(self._numbers)
        self._jobs[worker][number] = job
        self._out[number] = (worker, job, self._clock())
        job.holders += 1
        self._place(worker)
        return worker, number, job

    @property
    def _may_copy(self) -> bool:
        """Whether nothing else is to be done first; what waits may wait for one certain worker."""
        return self._copies and not self._foreground and not self._background

    def _copies_of_late_jobs(self) -> Iterator[tuple[int, int, Job]]:
        """Give late jobs to idle workers as well, and slow workers copies of what others hold."""
        if not self._may_copy:
            return
        while (oldest := self._oldest_single()) is not None:
            job, since = oldest
            late = self._clock() - since > self._late(job)
            worker = next(iter(self._holding[0] if late and self._holding[0] else self._idle_slow), None)
            if worker is None:
                return
            self.copied += late
            yield self._give(worker, job)

    def _oldest_single(self) -> tuple[Job, float] | None:
        """The job that one worker alone has held longest, and since when."""
        for _, job, since in self._out.values():
            if not job.settled and job.holders == 1:
                return job, since
        return None

    def _times_of(self, job: Job) -> _Times:
        return self._times.setdefault(job.request.kind, _Times())

    def _late(self, job: Job) -> float:
        return self._times_of(job).late(len(job.request.tasks.indices))

    def next_look(self) -> float:
        """Seconds until a job may be late that an idle worker could compute; infinite if there is none."""
        if not self._may_copy or not (self._holding[0] or self._idle_slow):
            return float("inf")
        oldest = self._oldest_single()
        return float("inf") if oldest is None else oldest[1] + self._late(oldest[0]) - self._clock()

    def settle(self, worker: int, assignment: int, seconds: float) -> Job | None:
        """Count a reply: the job it settles, or None if another worker's reply has settled it before.

        Args:
            worker: who replied.
            assignment: the number under which the job was given to it.
            seconds: how long it computed.
        """
        job = self._jobs[worker].pop(assignment)
        _, _, since = self._out.pop(assignment)
        job.holders -= 1
        times, tasks = self._times_of(job), len(job.request.tasks.indices)
        excess = times.excess(tasks, seconds)
        if excess > 0 and self.on_slow is not None:
            self.on_slow(worker, job, excess)
        if (self._copies and excess > 0) != (worker in self._slow):
            self._slow ^= {worker}
            self._sort()
        else:
            self._place(worker)
        if job.settled:
            return None
        times.add(tasks, self._clock() - since, seconds)
        job.ended = self._clock()
        job.ticket.computed += 1
        return job

"""The pool of Ray actors: hands requests out, replaces workers that are lost, repeats what they held.

Every request has one job from submission until its reply is delivered. A lost worker's jobs go back to the head of the
queue; since a worker has no state that matters, whoever computes them gives the same bits.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)

from cluster.errors import ClusterError, MetarayError
from cluster.progress import warn
from cluster.workers.actor import start_actor
from cluster.workers.messages import Flat, Reply, Request, RolloutRequest, ScoresRequest
from cluster.workers.pool import Ticket
from cluster.workers.wire import decode_reply, encode_request, encode_vectors
from cluster.workers.worker import Workable

LOST = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError, RaySystemError)
MOST_SILENCES = 3  # workers in turn that give no reply to one request: then it is the request that takes too long
DEPTH = 2  # requests at one worker: the one it computes and the one it finds when it has finished


@dataclass(eq=False)
class _Job:
    ticket: Ticket
    request: Request
    vectors: Any  # the bytes themselves, or a reference to them in the object store
    silences: int = 0  # workers that gave no reply to it in time


@dataclass(eq=False)
class _Member:
    number: int
    actor: Any
    ready_ref: Any
    asked: float
    ready: bool = False
    pid: int | None = None
    jobs: dict[Any, _Job] = field(default_factory=dict)


class RayPool:
    """``cluster.workers`` actors on the connected Ray cluster."""

    def __init__(self, setup: Workable) -> None:
        """Start the actors and wait until the first of them is ready.

        Raises:
            ClusterError: if none is within ``cluster.start_timeout`` seconds, or one has other data than we have.
        """
        self.failures: list[str] = []
        self._setup, self._config = setup, setup.config
        self._foreground: deque[_Job] = deque()
        self._background: deque[_Job] = deque()
        self._failed_in_a_row = 0
        self._most = 0  # workers that were ready at a time
        self._members: list[_Member] = []
        self._holders: dict[int, _Member] = {}  # by shard: who has its latest request
        try:
            for number in range(self._config.cluster.workers):
                self._members.append(self._start(number))
            while not any(member.ready for member in self._members):
                self._advance(timeout=1.0)
            if warning := self._short_of_room():
                warn(warning)
        except BaseException:
            self.close()
            raise

    @property
    def warnings(self) -> list[str]:
        """Warnings about workers that were asked for and not there."""
        requested = self._config.cluster.workers
        if self._most >= requested:
            return []
        return [
            self._short_of_room()
            or f"cluster.workers: {requested} workers were asked for, {self._most} took part; the others had not "
            "started when the run ended"
        ]

    def _short_of_room(self) -> str | None:
        """A warning if the cluster has room for fewer workers than are asked for."""
        limits = self._config.cluster
        total: Callable[[], dict[str, float]] = ray.cluster_resources
        resources = total()
        room = int(resources.get("CPU", 0) // limits.threads)
        if limits.gpus_per_worker > 0:
            room = min(room, int(resources.get("GPU", 0) / limits.gpus_per_worker))
        if room >= limits.workers:
            return None
        return (
            f"cluster.workers: {limits.workers} workers were asked for, the cluster has room for {room} "
            f"({_resources(lambda: resources)} in all); lower cluster.workers, or add nodes"
        )

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        return [member.pid for member in self._members if member.pid is not None]

    def submit(
        self, requests: Sequence[Request], theta: Flat, second: Flat | None = None, *, background: bool = False
    ) -> Ticket:
        """Queue requests and hand out as many as the workers take.

        Args:
            requests: one for each shard.
            theta: θ [P].
            second: a second vector [P], for requests about rollouts.
            background: whether they run only when no other requests are queued.
        """
        ticket = Ticket(requests)
        payload: Any = encode_vectors(theta, second)
        if not isinstance(payload, bytes):
            payload = ray.put(payload)  # once, for all workers
        queue = self._background if background else self._foreground
        queue.extend(_Job(ticket, request, payload) for request in requests)
        self._hand_out()
        return ticket

    def gather(self, ticket: Ticket) -> Iterator[Reply]:
        """Replies in order of arrival."""
        while ticket.replies or not ticket.complete:
            if ticket.replies:
                yield ticket.replies.popleft()
            else:
                self._advance(timeout=1.0, all_of=self._in_flight_alone(ticket))

    def _in_flight_alone(self, ticket: Ticket) -> int:
        """Number of results to wait for at once: a ticket's last ones if nothing else is under way, else 1."""
        jobs = [job for member in self._members for job in member.jobs.values()]
        alone = not self._foreground and not self._background and all(member.ready for member in self._members)
        return len(jobs) if alone and all(job.ticket is ticket for job in jobs) else 1

    def poll(self) -> None:
        """Deliver the replies that have arrived."""
        self._advance(timeout=0)

    def close(self) -> None:
        """Kill the actors."""
        members, self._members = self._members, []
        for member in members:
            ray.kill(member.actor)

    def _start(self, number: int) -> _Member:
        actor = start_actor(self._setup)
        return _Member(number, actor, actor.ready.remote(), time.monotonic())

    def _hand_out(self) -> None:
        """Give waiting jobs to ready workers, each no more than DEPTH, background ones only to idle workers."""
        ready = [member for member in self._members if member.ready]
        if self._foreground and ready:
            waiting, self._foreground = self._foreground, deque()
            for job in waiting:
                member = self._member_for(job.request, ready)
                if len(member.jobs) < DEPTH:
                    self._holders[job.request.shard] = member
                    self._send(member, job)
                else:
                    self._foreground.append(job)
        for member in ready:
            if self._background and not member.jobs:
                self._send(member, self._background.popleft())

    def _member_for(self, request: Request, ready: list[_Member]) -> _Member:
        """The worker that keeps the request's rollouts, or has drawn its tasks ahead, or has the fewest requests."""
        holder = self._holders.get(request.shard)
        if isinstance(request, RolloutRequest) and holder in ready:
            return holder
        own = ready[request.shard % len(ready)]
        return own if len(own.jobs) < DEPTH else min(ready, key=lambda member: len(member.jobs))

    def _send(self, member: _Member, job: _Job) -> None:
        if not member.jobs:
            member.asked = time.monotonic()  # it was idle; its silence counts from now on
        member.jobs[member.actor.run.remote(encode_request(job.request), job.vectors)] = job

    def _advance(self, timeout: float, *, all_of: int = 1) -> None:
        """Wait up to ``timeout`` seconds for one thing to happen, or for more at once, and act on all that has."""
        waiting = {member.ready_ref: member for member in self._members if not member.ready}
        waiting |= {ref: member for member in self._members for ref in member.jobs}
        if not waiting:
            return
        # Every call of Ray's costs as much as a small shard: one for all that is awaited, where nothing else is due.
        done, _ = ray.wait(list(waiting), num_returns=min(all_of, len(waiting)), timeout=timeout)
        for ref in done:
            if waiting[ref] in self._members:  # else it was replaced, and its jobs are given to others
                self._settle(waiting[ref], ref)
        if not done:
            self._check_deadlines()
        self._hand_out()

    def _settle(self, member: _Member, ref: Any) -> None:
        """Process one finished call of a member."""
        try:
            answer = ray.get(ref, timeout=self._config.cluster.order_timeout)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MetarayError):
                raise cause from error
            raise MetarayError(f"a worker failed: {type(cause).__name__}: {cause}") from error
        except LOST as error:
            if getattr(error, "actor_init_failed", False):
                reason = str(error).strip().splitlines()[-1]
                raise MetarayError(f"a worker could not be built: {reason}") from error
            self._replace(member, type(error).__name__)
            return
        if ref is member.ready_ref:
            pid, data = answer
            self._require_same_data(data)
            member.ready, member.pid, member.asked = True, pid, time.monotonic()
            self._most = max(self._most, sum(one.ready for one in self._members))
            return
        job = member.jobs.pop(ref)
        member.asked = time.monotonic()
        self._failed_in_a_row = 0
        job.ticket.deliver(decode_reply(job.request, answer))

    def _require_same_data(self, data: str) -> None:
        """Refuse a worker whose machine has other data at the place that the configuration names."""
        if data != self._setup.data:
            raise ClusterError(
                f"expected data of fingerprint {self._setup.data or 'none'} on every machine, a worker found "
                f"{data or 'none'}; copy the same store to all of them, or set task.root to an address that all reach"
            )

    def _replace(self, member: _Member, reason: str) -> None:
        """Put a new actor in a lost member's place and its jobs back at the head of their queues."""
        at = next((f" at step {job.request.step}" for job in member.jobs.values()), "")
        self.failures.append(f"worker {member.number} was lost{at} ({reason}); its shards were computed again")
        self._failed_in_a_row += 1
        ray.kill(member.actor)
        for job in reversed(member.jobs.values()):
            queue = self._background if isinstance(job.request, ScoresRequest) else self._foreground
            queue.appendleft(job)
        if self._failed_in_a_row > self._config.cluster.max_failures:
            raise ClusterError(
                f"lost {self._failed_in_a_row} workers without one result between (last: {reason}); look for memory "
                "or node failures, or raise cluster.max_failures"
            )
        self._members[self._members.index(member)] = self._start(member.number)

    def _count_silence(self, job: _Job) -> None:
        """Give up on a request that one worker after another does not reply to: it is too long for its deadline.

        Raises:
            ClusterError: naming the request and the key to change.
        """
        job.silences += 1
        if job.silences >= MOST_SILENCES:
            raise ClusterError(
                f"cluster.order_timeout: expected an answer within {self._config.cluster.order_timeout:g} s, received "
                f"none from {job.silences} workers in turn for step {job.request.step} on {job.request.tasks}; raise "
                "cluster.order_timeout, or lower shard"
            )

    def _check_deadlines(self) -> None:
        """Give up on workers that have been silent for too long, and on a cluster that has room for none."""
        now, limits = time.monotonic(), self._config.cluster
        for member in list(self._members):
            if member.ready and not member.jobs:
                member.asked = now
            elif member.ready and now - member.asked > limits.order_timeout:
                self._count_silence(next(iter(member.jobs.values())))
                self._replace(member, f"no answer for {limits.order_timeout:g} s")
        starting = [member for member in self._members if not member.ready]
        if len(starting) == len(self._members) and now - min(m.asked for m in starting) > limits.start_timeout:
            raise ClusterError(
                f"expected a worker with {limits.threads} CPU and {limits.gpus_per_worker:g} GPU to start within "
                f"{limits.start_timeout:g} s; the cluster has {_resources(ray.cluster_resources)} in all and "
                f"{_resources(ray.available_resources)} free. Lower cluster.threads or cluster.gpus_per_worker, or "
                "add nodes"
            )


def _resources(ask: Callable[[], dict[str, float]]) -> str:
    """CPUs and GPUs out of what Ray tells of its resources."""
    amounts = ask()
    return f"{amounts.get('CPU', 0):g} CPU and {amounts.get('GPU', 0):g} GPU"

"""The pool of Ray actors: hands requests out, replaces workers that are lost, repeats what they held.

Ray starts, places and ends the workers, and says why one has died. Requests, vectors and replies travel over links of
the pool's own (:mod:`cluster.workers.transport`), in a tenth of the time that a call of Ray's takes; those of other
nodes through a relay on each (:mod:`cluster.workers.relays`). Which worker computes what is decided by
:mod:`cluster.workers.schedule`.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from cluster.errors import ClusterError
from cluster.interrupts import StopFlag
from cluster.progress import say, warn
from cluster.workers.activity import activities
from cluster.workers.actor import start_actor
from cluster.workers.arithmetic import Arithmetic, require_same_arithmetic, require_same_data
from cluster.workers.autoscaler import Request as NodesRequest
from cluster.workers.faults import fault
from cluster.workers.ledger import Ledger
from cluster.workers.member import Member
from cluster.workers.messages import Flat, Reply, Request
from cluster.workers.nodes import Nodes, label
from cluster.workers.pool import Ticket, level_of
from cluster.workers.relay_actor import RelayProcess
from cluster.workers.relayed import AnyLink, NodeRelay, RelayedLink
from cluster.workers.relays import Relays
from cluster.workers.room import no_room, requested, resources, short_of_room, too_few, waiting_for_room
from cluster.workers.schedule import Job, Schedule
from cluster.workers.transport.hub import Hub
from cluster.workers.transport.link import Message
from cluster.workers.vectors import Receiver, Vectors
from cluster.workers.wire import decode_reply
from cluster.workers.worker import Workable

ROOM_SECONDS = 30.0  # that a worker takes to start; who takes longer waits for room
REMEDY = "look for memory or node failures, or raise cluster.max_failures"
LONGEST_WAIT = 0.5  # seconds between two looks at what Ray knows and at deadlines
RETURN = 10.0  # seconds that a worker may take to come back by a relay; then it is replaced


class RayPool:
    """``cluster.workers`` actors on the connected Ray cluster."""

    def __init__(self, setup: Workable, stop: StopFlag | None = None) -> None:
        """Start the actors and wait until as many of them are ready as a run begins with.

        Args:
            setup: what workers are built from.
            stop: set when more workers are lost than ``cluster.max_failures`` allows; without it that is an error.

        Raises:
            ClusterError: if ``cluster.min_workers``, or one, are not within ``cluster.start_timeout`` seconds, or one
                has other data than we have.
        """
        self._setup, self._config, self._stop = setup, setup.config, stop
        self.workers = requested(self._config)
        self._ledger = Ledger(most=self._most_failures, window=self._config.cluster.failure_window)
        self.failures, self.events = self._ledger.failures, self._ledger.events
        self._failed_in_a_row, self._most = 0, 0  # the most workers that were ready at a time
        self._members: dict[int, Member] = {}
        self._by_link: dict[AnyLink, Member] = {}
        self._starts = itertools.count()
        self._arithmetic: Arithmetic | None = None
        self._looked = time.monotonic()
        self._node: str = ray.get_runtime_context().get_node_id()
        self._schedule = Schedule(copies=self._config.cluster.copies)
        self._schedule.on_slow = self._on_slow
        self._nodes = Nodes()
        self._vectors = Vectors()
        self._hub = Hub(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        self._begun, self._waiting = False, 0  # workers without room
        self._request: NodesRequest | None = None
        self._relays = Relays(
            self._hub,
            self._schedule,
            self._vectors,
            start=lambda node: RelayProcess(self._hub.address, node),
            on_lost=self._on_relay_lost,
        )
        try:
            for number in range(self.workers):
                self._start(number)
            total = resources(ray.cluster_resources)
            self._request = NodesRequest(self._config.cluster, self.workers, total)
            self._wait_for_workers()
            self._begun = True
            if warning := self._short_of_room():
                warn(warning)
            elif self._request.made:
                say(waiting_for_room(self._config.cluster, self.workers, len(self._by_link), total))
        except BaseException:
            self.close()
            raise

    def _wait_for_workers(self) -> None:
        """Wait until as many workers are ready as the run begins with."""
        began, limits = time.monotonic(), self._config.cluster
        while len(self._by_link) < limits.least:
            self._advance(LONGEST_WAIT)
            if self._by_link and time.monotonic() - began > limits.start_timeout:
                total, free = resources(ray.cluster_resources), resources(ray.available_resources)
                raise ClusterError(too_few(limits, len(self._by_link), total, free))

    @property
    def warnings(self) -> list[str]:
        """Warnings about workers that were asked for and not there."""
        if self._most >= self.workers or self._config.cluster.workers == "auto":
            return []
        return [
            self._short_of_room()
            or f"cluster.workers: {self.workers} workers were asked for, {self._most} took part; the others had not "
            "started when the run ended"
        ]

    def _short_of_room(self) -> str | None:
        return short_of_room(self._config.cluster, self.workers, resources(ray.cluster_resources))

    @property
    def activity(self) -> list[str]:
        """For each worker, what it does now."""
        return activities(self._members.values(), self._schedule)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        return [member.pid for member in self._by_link.values() if member.pid is not None]

    @property
    def level(self) -> int:
        """Blocks as large as keep equal workers busy; finer ones where some are slow, or missing for a moment."""
        return level_of(self._setup, max(1, self.workers - self._waiting), self._schedule.fast)

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
        payload = self._vectors.pack(theta, second, len(requests))
        for request in requests:
            self._schedule.add(Job(ticket, request, payload), background=background)
        self._hand_out()
        return ticket

    def gather(self, ticket: Ticket) -> Iterator[Reply]:
        """Replies in order of arrival."""
        while ticket.replies or not ticket.complete:
            if ticket.replies:
                yield ticket.replies.popleft()
            else:
                self._advance(LONGEST_WAIT)

    def poll(self) -> None:
        """Deliver the replies that have arrived."""
        self._advance(0)

    def close(self) -> None:
        """Kill the actors."""
        members, self._members = self._members, {}
        self._by_link.clear()
        for member in members.values():
            ray.kill(member.actor)
        self._nodes.close()
        self._relays.close()
        self._hub.close()
        self._vectors.close()
        if self._request is not None:
            self._request.withdraw()

    def _start(self, number: int) -> None:
        actor, start = start_actor(self._setup), next(self._starts)
        serving = actor.serve.remote(self._hub.address, self._node, number, start)
        self._members[number] = Member(number, actor, serving, time.monotonic(), start)

    def _hand_out(self) -> None:
        """Send what the schedule gives out."""
        for number, assignment, job in list(self._schedule.assign()):
            self._members[number].give(assignment, job, self._vectors)
        self._relays.flush()

    def _advance(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for something to happen, and act on all that has."""
        timeout = min(timeout, max(0.0, self._schedule.next_look()))
        for link, message in self._relays.wait(timeout):
            self._on_event(link, message)
        if time.monotonic() - self._looked > LONGEST_WAIT:
            self._looked = time.monotonic()
            self._ask_ray()
            self._look_at_nodes()
            self._check_deadlines()
        self._hand_out()

    def _on_event(self, link: AnyLink, message: Message | None) -> None:
        member = self._by_link.get(link)
        if message is None:
            if member is not None and self._relays.returns(link):
                self._let_return(member)
            elif member is not None:
                self._replace(member, member.cause())
            return
        header = message.header
        if member is None:
            if "hello" in header:
                self._welcome(link, header["hello"])
            return
        member.heard = time.monotonic()
        if "job" in header:
            self._on_reply(member, message)

    def _welcome(self, link: AnyLink, hello: dict[str, Any]) -> None:
        """Take in a worker that has connected."""
        member = self._members.get(hello["number"])
        if member is None or member.link is not None or member.start != hello["start"]:
            self._relays.drop(link)  # one that was given up while it started
            return
        require_same_data(self._setup.data, hello["data"])
        self._arithmetic = self._arithmetic or hello["arithmetic"]
        require_same_arithmetic(self._arithmetic, hello["arithmetic"], mixed=self._config.cluster.mixed)
        member.link, member.pid, member.heard = link, hello["pid"], time.monotonic()
        member.receiver, member.returning = Receiver(shares_memory=link.shares_memory), False
        member.node, member.host = hello["node"], hello["host"]
        self._ledger.joined(member.number, label(member.node, member.host))
        self._by_link[link] = member
        self._schedule.join(member.number, hello["node"])
        self._most = max(self._most, len(self._by_link))

    def _on_reply(self, member: Member, message: Message) -> None:
        """Deliver a reply, unless another worker was faster."""
        header = message.header
        job = self._schedule.settle(member.number, header["job"], header["seconds"])
        if "held" in header:  # by its relay, which adds it to others
            if job is not None:
                assert isinstance(member.link, RelayedLink)
                self._failed_in_a_row = 0
                self._relays.hold(member.link, job, header["held"])
            return
        if job is None:
            member.replies.numbers(message)  # a new segment may have come with it
            return
        if "fault" in header:
            raise fault(*header["fault"])
        self._failed_in_a_row = 0
        dtype = header["reply"][0]
        buffer = member.replies.numbers(message).view(dtype)
        self._vectors.settle(job.vectors)
        job.ticket.deliver(decode_reply(job.request, header["reply"], buffer))

    def _ask_ray(self) -> None:
        """Look at workers whose call has ended: one could not be built, or its process has died while it started."""
        calls = {member.serving: member for member in self._members.values() if member.link is None}
        if not calls:
            return
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for ref in done:
            self._replace(calls[ref], calls[ref].cause())

    def _on_relay_lost(self, relay: NodeRelay, reason: str, held_for: float) -> None:
        """Note it, with what it takes from its workers, who may come back."""
        waited = [
            self._schedule.waited(self._by_link[link].number) for link in relay.seats.values() if link in self._by_link
        ]
        self._ledger.relay_lost(label(relay.node, relay.host), reason, max([held_for, *waited]))

    def _let_return(self, member: Member) -> None:
        """Give a worker some time to come back by a relay; its jobs go back to the head of their queues."""
        assert member.link is not None
        self._schedule.leave(member.number)
        del self._by_link[member.link]
        self._relays.drop(member.link)
        member.link, member.returning, member.since = None, True, time.monotonic()

    def _look_at_nodes(self) -> None:
        """Note nodes that have come or gone, and replace the workers of those that have gone."""
        for node, host, joined in self._nodes.changes():
            if joined:
                self._ledger.node_joined(label(node, host))
                continue
            for member in list(self._members.values()):  # those too that were to come back by another relay
                if member.node == node:
                    self._replace(member, "its node was lost")
            self._ledger.node_lost(label(node, host))

    def _on_slow(self, worker: int, job: Job, excess: float) -> None:
        self._ledger.slow(worker, job.request.step, excess, self._members[worker].where)

    def _replace(self, member: Member, reason: str, *, hung: bool = False) -> None:
        """Put a new actor in a lost member's place and its jobs back at the head of their queues."""
        seconds = self._schedule.waited(member.number)
        held = self._schedule.leave(member.number)
        step = next((job.request.step for job in held), None)
        self._ledger.lost(member.number, reason, hung=hung, step=step, node=member.where, seconds=seconds)
        self._failed_in_a_row += 1
        if member.link is not None:
            self._by_link.pop(member.link, None)
            self._relays.drop(member.link)
        ray.kill(member.actor)
        if self._failed_in_a_row > self._most_failures:
            raise ClusterError(
                f"lost {self._failed_in_a_row} workers without one result between (last: {reason}); {REMEDY}"
            )
        self._stop_for_failures()
        self._start(member.number)

    @property
    def _most_failures(self) -> int:
        """Lost workers that a run goes on with: a node takes all of its own with it, and perhaps replacements."""
        return max(self._config.cluster.max_failures, 2 * self.workers)

    def _stop_for_failures(self) -> None:
        """Ask for a stop after the step, or raise an error where nobody can be asked, if too many workers were lost."""
        reason = self._ledger.too_many
        if reason is None or self._stop:
            return
        if self._stop is None:
            raise ClusterError(f"expected fewer failures, received {reason}; {REMEDY}")
        warn(f"{reason}; {REMEDY}; saving the state")
        self._stop.reason = reason

    def _check_deadlines(self) -> None:
        """Give up on workers that have been silent for too long, and on a cluster that has room for none."""
        now, limits = time.monotonic(), self._config.cluster
        self._waiting = sum(one.link is None and now - one.since > ROOM_SECONDS for one in self._members.values())
        if self._begun and (there := self.workers - self._waiting) < limits.min_workers:
            warn(f"cluster.min_workers: {there} of {limits.min_workers} workers have room; going on with fewer")
        self._relays.check(limits.heartbeat_timeout)
        for member in list(self._members.values()):
            if member.returning and now - member.since > RETURN:
                self._replace(member, f"it did not come back by a relay within {RETURN:g} s", hung=True)
        for link, member in list(self._by_link.items()):
            if self._relays.silence(link, member.heard) > limits.heartbeat_timeout:
                self._replace(member, f"no sign of life for {limits.heartbeat_timeout:g} s", hung=True)
                continue
            oldest = self._schedule.oldest(member.number)
            if oldest is not None and oldest[1] > limits.order_timeout:
                oldest[0].count_silence(limits.order_timeout)
                self._replace(member, f"no answer for {limits.order_timeout:g} s", hung=True)
        if not self._by_link and now - max(one.since for one in self._members.values()) > limits.start_timeout:
            raise ClusterError(no_room(limits, resources(ray.cluster_resources), resources(ray.available_resources)))

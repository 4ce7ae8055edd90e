"""Follows a job until its end: its log as it grows, through lost connections, and its result."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from cluster.errors import ClusterError, MetarayError
from cluster.jobs.client import STOP_WITHIN, JobServer, Submitted

LOST_AFTER = 60.0  # seconds without an answer until the server is given up
AGAIN = 0.5  # seconds between two questions
MISSING = 127  # a shell's status for a command that it does not find


class _Log:
    """A job's log, passed on once although every connection begins with its first line."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._shown = self._seen = 0
        self._last = ""

    def begin(self) -> None:
        """A connection begins."""
        self._seen = 0

    def add(self, text: str) -> None:
        """Take the next part that a connection brings."""
        new = text[max(0, self._shown - self._seen) :]
        self._seen += len(text)
        if new:
            self._shown = self._seen
            self._last = (self._last + new)[-(2**20) :]
            self._show(new)

    @property
    def result(self) -> dict[str, Any] | None:
        """The JSON object in the last line that is one, as a command with ``--json`` prints it."""
        for line in reversed(self._last.splitlines()):
            if line.startswith("{"):
                try:
                    content = json.loads(line)
                except ValueError:
                    continue
                return dict(content) if isinstance(content, Mapping) else None
        return None


def follow(server: JobServer, job: Submitted, show: Callable[[str], None]) -> tuple[Submitted, dict[str, Any] | None]:
    """Show a job's log until the job has ended.

    Args:
        server: the job server.
        job: the job.
        show: called with each part of the log.

    Returns:
        The job at its end, and the JSON object that its command printed last, if it printed one.

    Raises:
        ClusterError: if the server, or the job's log, is not there for a minute; the job may go on.
    """
    log = _Log(show)
    lost: float | None = None  # when the server, or the log, was not there for the first time
    while True:
        error = _tail(server, job.id, log)
        try:
            now = server.get(job.id)
            if now.over and error is None:
                return now, log.result
        except ClusterError as failed:
            error = failed
        if error is None:
            lost = None
        elif lost is None:
            lost = time.monotonic()
        elif time.monotonic() - lost > LOST_AFTER:
            raise ClusterError(
                f"{server.address} has not given the log for {LOST_AFTER:.0f} s ({error}); job {job.name} may go on. "
                f"Follow it again with: metaray submit --name {job.name}"
            ) from error
        time.sleep(AGAIN)


def _tail(server: JobServer, job_id: str, log: _Log) -> Exception | None:
    """Pass the log on until the connection ends; what ended it, if that was not the job's end."""
    log.begin()
    try:
        asyncio.run(_pass_on(server, job_id, log))
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        return error
    return None


async def _pass_on(server: JobServer, job_id: str, log: _Log) -> None:
    async for text in server.tail(job_id):
        log.add(text)


def await_end(server: JobServer, job: Submitted) -> Submitted:
    """Wait until a job that was asked to stop has ended.

    Args:
        server: the job server.
        job: the job.

    Raises:
        ClusterError: if it does not.
    """
    deadline = time.monotonic() + STOP_WITHIN + LOST_AFTER
    while not (now := server.get(job.id)).over:
        if time.monotonic() > deadline:
            raise ClusterError(f"job {job.id} was told to stop and is {now.status.lower()} still; look at its node")
        time.sleep(AGAIN)
    return now


def exit_status(job: Submitted) -> int:
    """The exit status of a job that has ended: 0, or 1 or 2 as its command's own.

    Raises:
        MetarayError: if it did not end by itself.
    """
    again = f"go on from its last checkpoint by submitting the same command with --name {job.name}"
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        raise MetarayError(f"job {job.name} was stopped; {again}")
    if job.exit_code in (1, 2):
        return job.exit_code
    if job.exit_code == MISSING:
        raise MetarayError(
            f"job {job.name}: the cluster's head node does not find the command metaray; install it on all nodes, or "
            "use an image that holds it (see the guide, docs/cluster.md)"
        )
    if job.exit_code is not None:
        raise MetarayError(f"job {job.name}: its command was killed (status {job.exit_code}); {again}")
    reason = job.message.strip() or "Ray gives no reason"
    raise MetarayError(f"job {job.name} did not run to its end: {reason}; {again}")

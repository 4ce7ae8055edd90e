"""The job server of a Ray cluster, over HTTP: submit, look up, stop."""

import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from cluster.config.components import nearest
from cluster.errors import ClusterError, ConfigError
from cluster.jobs.command import Job
from cluster.jobs.packaging import write_zip

NAME, NUMBER = "metaray_name", "metaray_number"  # in a job's metadata
STOP_WITHIN = 120  # seconds that a stopped command has for finishing its step and saving
ANSWER_WITHIN = 10.0  # seconds

_T = TypeVar("_T")


@dataclass(frozen=True)
class Submitted:
    """A job on the cluster.

    Attributes:
        name: which it was given; jobs of one name are attempts at one thing.
        number: which attempt it is, from 1 on.
        id: the cluster's name for it, ``NAME-NUMBER``.
        status: ``PENDING``, ``RUNNING``, ``STOPPED``, ``SUCCEEDED`` or ``FAILED``.
        exit_code: of its command, once that has ended by itself.
        message: why it failed, in Ray's words.
    """

    name: str
    number: int
    id: str
    status: str
    exit_code: int | None
    message: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class JobServer:
    """A client of one job server.

    Raises, from every method:
        ClusterError: if it does not answer, wants another token, or refuses something.
    """

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            ConfigError: if the address is none of a job server.
        """
        self.address = address
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigError(f"address: expected http://HOST:8265 or https://…, received '{address}'")
        self.host = parts.hostname
        _require_answer(address, self.host, parts.port or {"http": 80, "https": 443}[parts.scheme])
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # or Ray would prefer RAY_ADDRESS to what it is told
        for name in ("dashboard_sdk", "job.sdk"):
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
        self._client = self._ask(lambda: JobSubmissionClient(address))

    @property
    def open_to_all(self) -> bool:
        """Whether it accepts requests without a token."""
        answer = self._ask(lambda: requests.get(f"{self.address.rstrip('/')}/api/version", timeout=ANSWER_WITHIN))
        return bool(answer.status_code == requests.codes.ok)

    def jobs(self, name: str) -> list[Submitted]:
        """The jobs of a name, oldest first."""
        return sorted((job for job in self._all() if job.name == name), key=lambda job: job.number)

    def latest(self, name: str) -> Submitted:
        """The newest job of a name.

        Raises:
            ConfigError: if there is none.
        """
        jobs = self.jobs(name)
        if not jobs:
            known = sorted({job.name for job in self._all()})
            raise ConfigError(
                f"expected the name of a job at {self.address}, received '{name}'{nearest(name, known)}; there "
                + (f"are: {', '.join(known)}" if known else "is none")
            )
        return jobs[-1]

    def get(self, job_id: str) -> Submitted:
        """A job as it is now."""
        return _submitted(self._ask(lambda: self._client.get_job_info(job_id)))

    def submit(self, job: Job, environment: Mapping[str, str]) -> Submitted:
        """Send a job; Ray starts it when it is unpacked.

        Args:
            job: what to send.
            environment: variables for its command and workers. The cluster stores and logs them as they are.

        Raises:
            ConfigError: if a job of that name is still running.
        """
        before = self.jobs(job.name)
        if before and not before[-1].over:
            raise ConfigError(
                f"job {job.name} is {before[-1].status.lower()} already; follow it with: metaray submit --name "
                f"{job.name}, or stop it with: metaray submit --stop {job.name}"
            )
        number = before[-1].number + 1 if before else 1
        with tempfile.TemporaryDirectory(prefix="metaray-") as folder:
            package = Path(folder) / "tree.zip"
            write_zip(job.files, package)
            variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WITHIN), **environment}
            job_id = self._ask(
                lambda: self._client.submit_job(
                    entrypoint=job.entrypoint,
                    submission_id=f"{job.name}-{number}",
                    runtime_env={"working_dir": str(package), "env_vars": variables},
                    metadata={NAME: job.name, NUMBER: str(number)},
                )
            )
        return self.get(job_id)

    def stop(self, job_id: str) -> None:
        """Ask a job's command to save and leave; after :data:`STOP_WITHIN` seconds it is killed."""
        self._ask(lambda: self._client.stop_job(job_id))

    def tail(self, job_id: str) -> AsyncIterator[str]:
        """The job's log from its beginning, as it grows, until the job has ended."""
        return self._client.tail_job_logs(job_id)

    def _all(self) -> list[Submitted]:
        details = self._ask(self._client.list_jobs)
        return [_submitted(job) for job in details if NAME in (job.metadata or {})]

    def _ask(self, question: Callable[[], _T]) -> _T:
        try:
            return question()
        except AuthenticationError as error:
            wrong = "Authentication failed" in str(error)
            raise ClusterError(
                f"{self.address} wants a token, received {'another' if wrong else 'none'}; set RAY_AUTH_MODE=token "
                "and RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token, to the token "
                "that the head node was started with"
            ) from error
        except (requests.RequestException, ConnectionError, RuntimeError) as error:
            # The server's own trace is in the message; its last line says what happened.
            reason = str(error).strip().splitlines()[-1]
            raise ClusterError(f"the job server at {self.address} did not do what was asked: {reason}") from error


def is_local(host: str) -> bool:
    """Whether a host's name or address is this machine's own, by itself.

    >>> is_local("localhost"), is_local("127.0.0.1"), is_local("10.0.0.1"), is_local("head.example.org")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_answer(address: str, host: str, port: int) -> None:
    """Fail early and clearly where nothing listens; Ray's client itself would wait without end."""
    try:
        socket.create_connection((host, port), timeout=ANSWER_WITHIN).close()
    except OSError as error:
        raise ClusterError(
            f"expected a Ray job server at {address}, nothing answers ({error}); start a head node with: ray start "
            "--head, which needs ray[default], or give another --address"
        ) from error


def _submitted(job: JobDetails) -> Submitted:
    metadata: dict[str, Any] = job.metadata or {}
    return Submitted(
        name=metadata.get(NAME, ""),
        number=int(metadata.get(NUMBER, 0)),
        id=str(job.submission_id),
        status=str(job.status.value),
        exit_code=job.driver_exit_code,
        message=job.message or "",
    )

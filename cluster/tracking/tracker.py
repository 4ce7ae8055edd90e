"""The thread that keeps MLflow in step with a folder while a training or a search runs in it."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.credentials import without_credentials
from cluster.config.sections import TrackingConfig
from cluster.errors import MetarayError
from cluster.tracking.machine import MachineSampler
from cluster.tracking.sender import Sender, WaitingError, flatten
from cluster.tracking.server import tracking_uri
from cluster.tracking.spool import Spool, Tracked, note_begin, note_end

INTERVAL = 5.0  # seconds between sends: each takes some 50 ms of the interpreter
RETRY = 1.0  # seconds between attempts when the training has ended
LONGEST_PAUSE = 30.0  # seconds between attempts while the server is down
IMPATIENT = 10.0  # seconds that a finished run waits for a server that is down
ATTEMPTS = 5  # after the training, at a server that does answer but refuses something each time


class Tracker:
    """Keeps one MLflow run in step with a folder.

    The MLflow run is made by the thread, at the first moment the server answers; a folder that has one already is
    continued in it. The folder is told how the training stands, so that ``metaray tracking replay`` can do later what
    is left to do.
    """

    def __init__(
        self,
        folder: Tracked,
        config: TrackingConfig,
        params: Mapping[str, Any],
        *,
        parent: "Tracker | None" = None,
    ) -> None:
        """Start the thread.

        Args:
            folder: the run's or the search's folder.
            config: where to send to, and how often the machine is sampled. With a parent it is not: the parent
                runs on the same machine.
            params: what to log as parameters, nested or flat.
            parent: tracker of the run that this one is a part of.
        """
        self._folder, self._uri = folder, tracking_uri(config)
        self._spool = Spool(folder.path)
        above = None if parent is None else (lambda: parent.run_id)
        self._sender = Sender(folder, self._spool, self._uri, above, self._heard)
        self._notes = {
            "uri": without_credentials(self._uri),
            "named": config.uri is not None,
            "experiment": config.experiment,
            "params": {key: without_credentials(value) for key, value in flatten(params).items()},
            "reported": None,
        }
        self._ending, self._given_up, self._done = threading.Event(), threading.Event(), threading.Event()
        self._last_heard = time.monotonic()
        self._error: Exception | None = None
        self._notice: str | None = None
        self._failures = 0  # since the training has ended
        note_begin(folder)
        sampled = config.system_every > 0 and parent is None
        self._machine = MachineSampler(folder.path, config.system_every) if sampled else None
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, once the server has answered."""
        return self._sender.run_id

    @property
    def done(self) -> bool:
        """Whether everything has been sent and the run is ended."""
        return self._done.is_set()

    def end(self, status: str, artifacts: Sequence[Path]) -> None:
        """Record how the training ended and make the thread send the rest; returns at once.

        Args:
            status: FINISHED, FAILED or KILLED.
            artifacts: files and folders of the run to upload. Its checkpoints are sent without being named.
        """
        if self._machine is not None:
            self._machine.stop()
        note_end(self._folder, status, artifacts)
        self._ending.set()

    def wait(self, timeout: float = 60.0) -> str | None:
        """Wait until all is sent; the thread then goes, having sent everything or not.

        Args:
            timeout: seconds without an answer after which the server is given up. One that was down when the
                training ended had its chance, and gets ten seconds at most.

        Returns:
            None, or what could not be sent and why, and whether the folder was a copy of another run's.
        """
        texts = [text for text in (self._wait(timeout), self._notice) if text is not None]
        return "; ".join(texts) or None

    def _wait(self, timeout: float) -> str | None:
        began = time.monotonic()
        while self._thread.is_alive():
            down = self._error is not None and self._spool.held  # else somebody else is just sending
            patience = min(timeout, IMPATIENT) if down else timeout
            if time.monotonic() - max(began, self._last_heard) > patience or self._failures >= ATTEMPTS:
                break
            self._thread.join(0.1)
        self._given_up.set()
        if not self.done:
            return without_credentials(
                f"MLflow at {self._uri} did not take everything ({self._error or 'no answer yet'}); nothing is lost: "
                f"what is unsent is in {self._folder.path}; send it with: metaray tracking replay {self._folder.path}"
            )
        if self._machine is not None and self._machine.error is not None:
            return f"system metrics could not be taken ({self._machine.error}); tracking.system_every=0 leaves them out"
        return None

    def close(self, status: str, artifacts: Sequence[Path], timeout: float = 60.0) -> str | None:
        """Call :meth:`end` and then :meth:`wait`; returns the latter's warning.

        Args:
            status: MLflow's FINISHED, FAILED or KILLED.
            artifacts: files and folders to upload.
            timeout: seconds to wait for the server.
        """
        self.end(status, artifacts)
        return self.wait(timeout)

    def _heard(self) -> None:
        self._last_heard = time.monotonic()
        if self._given_up.is_set():
            raise MetarayError("no longer waited for")

    def _run(self) -> None:
        try:
            self._feed()
        finally:
            self._spool.release()

    def _feed(self) -> None:
        pause = INTERVAL
        while not self._given_up.is_set():
            ending = self._ending.is_set()
            try:
                self._send(ending)
                self._error, pause = None, INTERVAL
            except Exception as error:  # whatever a tracking store raises must not reach the training
                self._error, pause = error, RETRY if ending else min(2 * pause, LONGEST_PAUSE)
                self._failures += ending and self._spool.held and not isinstance(error, WaitingError)
            else:
                if ending:
                    self._done.set()
                    return
            (self._given_up if ending else self._ending).wait(pause)

    def _send(self, ending: bool) -> None:
        if not self._spool.take():
            raise MetarayError("another process is sending this run's metrics")
        if self._notes:
            original = self._spool.settle(self._folder)
            if original is not None:
                self._notice = f"{self._folder.path} is a copy of {original}: it goes on as an MLflow run of its own"
            self._spool.note(**self._notes)
            self._notes, self._error = {}, None
        if ending and self._machine is not None:
            self._machine.join()
        self._sender.connect(running=not ending)
        self._sender.send()
        if ending:
            self._sender.finish()

"""Another version of the model in place of the one that is served, when its alias moves: no request notices."""

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from cluster.config.credentials import without_credentials

logger = logging.getLogger(__name__)

WAIT = 10.0  # seconds
LONGEST = 64  # looks that are let pass at most before a version that failed to load is tried again


class Source(Protocol):
    """Source of versions of a registered model."""

    def resolve(self) -> tuple[str, int]:
        """Name and version that the address stands for now."""
        ...

    def load(self, name: str, version: int) -> Any:
        """A version, ready to adapt.

        Args:
            name: of the registered model.
            version: its number.
        """
        ...


class Reloader:
    """Looks every few seconds which version an alias stands for, in a thread of its own.

    A version that cannot be loaded changes nothing but :attr:`failure`; it is tried again, less and less often.

    Attributes:
        failure: why the version that the alias stands for is not the one that is served; None: it is.
    """

    def __init__(
        self,
        source: Source,
        version: int,
        swap: Callable[[Any], None],
        seconds: float,
        noted: Callable[[bool], object] = bool,
    ) -> None:
        """Begin to look.

        Args:
            source: of versions.
            version: that is served.
            swap: takes what the source loaded, makes it ready and serves it from then on.
            seconds: between two looks.
            noted: is told of every version that was tried, whether it is served.
        """
        self._noted = noted
        self._source, self._version, self._swap, self._seconds = source, version, swap, seconds
        self._failed: int | None = None
        self._pause = self._passed = 0
        self.failure: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. What is being loaded is waited for, but not a registry that does not answer."""
        self._stop.set()
        self._thread.join(WAIT)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._look()
            except Exception as error:  # the registry may be down, a version damaged, its classes missing
                self._report(without_credentials(str(error) or type(error).__name__))

    def _look(self) -> None:
        name, version = self._source.resolve()
        if version == self._version:
            self._failed, self.failure, self._pause = None, None, 0
            return
        if version == self._failed and self._passed < self._pause:
            self._passed += 1
            return
        try:
            self._swap(self._source.load(name, version))
        except Exception as error:
            self._pause = min(2 * self._pause + 1, LONGEST) if version == self._failed else 1
            self._failed, self._passed = version, 0
            self._noted(False)
            self._report(f"version {version}: {without_credentials(str(error) or type(error).__name__)}")
            return
        self._noted(True)
        logger.warning("serving %s, version %d, in place of version %d", name, version, self._version)
        self._version, self._failed, self.failure, self._pause = version, None, None, 0

    def _report(self, reason: str) -> None:
        if reason != self.failure:  # once, not at every look
            logger.warning("version %d is served on: %s", self._version, reason)
        self.failure = reason

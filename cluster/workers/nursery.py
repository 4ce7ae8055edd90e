"""The process of a node from which workers are forked: it has imported all that they need, which takes seconds.

It has one thread and builds nothing, so that forked processes share no lock, no thread and no place in an open file.
Each worker has an actor (:mod:`cluster.workers.nurture`), connected for as long as both live: when the actor ends, its
worker is killed; when the worker ends, its actor hears how. Without actors the nursery ends after some seconds.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
from collections.abc import Callable
from typing import Any

from cluster.config.schema import parse
from cluster.errors import MetarayError
from cluster.workers import serving
from cluster.workers.faults import described
from cluster.workers.nurture import peer
from cluster.workers.post import Post
from cluster.workers.transport.hub import Address

LINGERING = 10.0  # seconds that it waits for another actor
ASKING = 10.0  # seconds that an actor may take to say what it wants
NAME = "metaray-worker"  # at most 15 bytes
SET_DEATH_SIGNAL, SET_NAME = 1, 15  # of prctl(2)


def main(listener: int, builder: str, config: str) -> None:
    """Fork workers for as long as there are actors.

    Args:
        listener: descriptor of a listening Unix socket.
        builder: ``module:function`` that builds the set-up from its configuration.
        config: that, as JSON.
    """
    with contextlib.suppress(Exception):  # each worker meets it too, and says so
        importlib.import_module(builder.partition(":")[0])
        parse(json.loads(config))  # imports the components that it names
    gc.collect()
    gc.freeze()  # memory that workers share as long as nobody writes to it
    nursery = Nursery(socket.socket(fileno=listener), lambda post: _serve(builder, config, post))
    nursery.run()


def _serve(builder: str, config: str, post: Post) -> None:
    serving.Server(serving.built(builder, config)).serve(post)


class Nursery:
    """Forks processes for actors, and has each end with its actor."""

    def __init__(self, listener: socket.socket, serve: Callable[[Post], None]) -> None:
        """Accept nobody yet.

        Args:
            listener: a listening Unix socket.
            serve: what a forked process does.
        """
        self._listener, self._serve = listener, serve
        self._actors: dict[int, socket.socket] = {}  # by process id of the worker
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = socket.socketpair()
        for end in (self._bell, self._ringer):
            end.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)

    def run(self) -> None:
        """Go on until no actor has been there for some seconds."""
        before = signal.signal(signal.SIGCHLD, _nothing)
        signal.set_wakeup_fd(self._ringer.fileno())
        try:
            while True:
                ready = self._selector.select(None if self._actors else LINGERING)
                if not ready and not self._actors:
                    return
                for key, _ in ready:
                    self._on_event(key.fileobj)
                self._reap()
        finally:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, before)
            self._selector.close()
            for end in (self._listener, self._bell, self._ringer):
                end.close()

    def _on_event(self, source: Any) -> None:
        if source is self._listener:
            connection, _ = self._listener.accept()
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # an actor that has gone, or is none
                if (post := _order(connection)) is not None:
                    self._fork(connection, post)
                    return
            connection.close()
        elif source is self._bell:
            with contextlib.suppress(BlockingIOError):
                self._bell.recv(4096)
        else:  # an actor sends nothing more: it has ended
            self._selector.unregister(source)
            for pid, connection in self._actors.items():
                if connection is source:
                    os.kill(pid, signal.SIGKILL)

    def _fork(self, connection: socket.socket, post: Post) -> None:
        own = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_worker(own, connection, post)
        self._actors[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ)

    def _become_worker(self, nursery: int, connection: socket.socket, post: Post) -> None:
        """Serve in a forked process, which ends here."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            libc = ctypes.CDLL(None)
            libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
            libc.prctl(SET_NAME, NAME.encode())
            if os.getppid() != nursery:  # it has died meanwhile
                return
            self._selector.close()
            for other in (self._listener, self._bell, self._ringer, *self._actors.values()):
                other.close()
            self._serve(post)
            status = 0
        except MetarayError as error:
            _say(connection, {"fault": described(error)})
        except BaseException as error:
            name, text, trace = described(error)
            _say(connection, {"fault": ["MetarayError", f"a worker failed: {name}: {text}", trace]})
        finally:
            os._exit(status)

    def _reap(self) -> None:
        """Tell the actors of processes that have ended."""
        while self._actors:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self._actors.pop(pid)
            with contextlib.suppress(KeyError):
                self._selector.unregister(connection)
            _say(connection, {"ended": _ending(status)})
            connection.close()


def _nothing(number: int, frame: object) -> None:
    """Handler of a signal that is noticed by what it writes to the ringer."""


def _order(connection: socket.socket) -> Post | None:
    """The post of the worker that an actor asks for; None if it is another user's process."""
    if peer(connection)[1] != os.getuid():
        return None
    connection.settimeout(ASKING)
    with connection.makefile("rb") as lines:
        plain = json.loads(lines.readline())
    connection.settimeout(None)
    where = plain.pop("address")
    return Post(address=Address(**where | {"secret": bytes.fromhex(where["secret"])}), **plain)


def _say(connection: socket.socket, line: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the actor has gone
        connection.sendall(json.dumps(line).encode() + b"\n")


def _ending(status: int) -> str:
    """How a process has ended, for a message."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return "it ended its connection"
    return f"its process was ended by {signal.Signals(-code).name}"

"""An actor's side of the nursery of its node: asks for a worker's process, and waits for its end."""

import dataclasses
import errno
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import time

from cluster.errors import ClusterError
from cluster.workers.faults import fault
from cluster.workers.post import Post

STARTING = 60.0  # seconds for which a nursery that cannot be reached is tried
PAUSE = 0.05  # seconds between two tries
NURSERY = """
import json, os, sys
order = json.load(sys.stdin)
if os.fork():
    os._exit(0)
sys.path[:] = order["path"]
from cluster.workers.nursery import main
main(order["listener"], order["builder"], order["config"])
"""


def forked(builder: str, config: str, post: Post) -> str:
    """Have the node's nursery fork a worker, and wait until that has ended; it ends with this process at the latest.

    Args:
        builder: ``module:function`` that builds the set-up from its configuration.
        config: that, as JSON.
        post: the worker's.

    Returns:
        How it has ended, for a message.

    Raises:
        MetarayError: that the worker's start has raised.
        ClusterError: if there is no nursery.
    """
    with _connected(builder, config, post) as nursery:
        nursery.sendall(json.dumps(_plain(post)).encode() + b"\n")
        with nursery.makefile("rb") as lines:
            last = "its nursery was lost"
            for line in lines:
                said = json.loads(line)
                if "fault" in said:
                    raise fault(*said["fault"])
                last = said["ended"]
            return last


def _plain(post: Post) -> dict[str, object]:
    """A post in what JSON holds."""
    plain = dataclasses.asdict(post)
    return plain | {"address": plain["address"] | {"secret": post.address.secret.hex()}}


def name_of(post: Post) -> str:
    """Name of the Unix socket of a pool's nursery on a node; who knows it cannot tell the secret.

    Args:
        post: of any worker there.
    """
    digest = hashlib.sha256(b"nursery" + post.address.secret + post.node.encode()).hexdigest()
    return f"\0metaray-nursery-{digest[:32]}"


def _connected(builder: str, config: str, post: Post) -> socket.socket:
    """A connection to the nursery; who is the first to bind its socket starts it."""
    name, until = name_of(post), time.monotonic() + STARTING
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(name)
            if peer(connection)[1] == os.getuid():
                return connection
            connection.close()
            raise ClusterError("expected the nursery of this run, received an answer by another user's process")
        except ConnectionRefusedError:
            connection.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                listener.bind(name)
                listener.listen(socket.SOMAXCONN)
                _start(listener, builder, config)
            except OSError as error:  # another actor is about to start it
                if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                    raise ClusterError(f"a worker's process could not be started: {error}") from error
                time.sleep(PAUSE)


def _start(listener: socket.socket, builder: str, config: str) -> None:
    """Start a nursery that accepts on a listening socket. It is nobody's child, so that it outlives this process."""
    order = {"path": sys.path, "listener": listener.fileno(), "builder": builder, "config": config}
    started = subprocess.run(
        [sys.executable, "-c", NURSERY],
        input=json.dumps(order),
        text=True,
        pass_fds=[listener.fileno()],
        start_new_session=True,
        check=False,
    )
    if started.returncode != 0:
        raise ClusterError(f"the nursery of a node did not start: exit status {started.returncode}")


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a Unix socket.

    Args:
        connection: connected.
    """
    fields = struct.Struct("3i")
    pid, user, _ = fields.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, fields.size))
    return pid, user

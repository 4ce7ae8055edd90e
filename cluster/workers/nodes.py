"""Watching which nodes a Ray cluster has, in a thread: asking Ray may take long, and for ever once the head is lost."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ray

from cluster.workers.head import answers

EVERY = 2.0  # seconds between two looks
ENDING = 5.0  # seconds that a look under way is waited for


class Change(NamedTuple):
    """A node that has come or gone."""

    node: str
    host: str
    joined: bool


class Nodes:
    """The nodes of the connected cluster, from the first look on."""

    def __init__(self) -> None:
        """Look once, then every two seconds until closed."""
        self._changes: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self._address: str = ray.get_runtime_context().gcs_address
        self._alive = alive()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)
        self._thread.start()

    def changes(self) -> Iterator[Change]:
        """Nodes that have come or gone since the last call."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._changes.get_nowait()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY):
            if not answers(self._address):
                continue  # the head's own watch says so
            try:
                now = alive()
            except Exception:  # whatever Ray raises where its head is lost meanwhile
                continue
            for node in self._alive.keys() - now.keys():
                self._changes.put(Change(node, self._alive[node], joined=False))
            for node in now.keys() - self._alive.keys():
                self._changes.put(Change(node, now[node], joined=True))
            self._alive = now

    def close(self) -> None:
        """End the thread, unless it waits for a head that is lost."""
        self._ended.set()
        self._thread.join(ENDING)


def alive() -> dict[str, str]:
    """Host names of the nodes that are alive, by Ray's identity of the node."""
    nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return {one["NodeID"]: one["NodeManagerHostname"] for one in nodes() if one["Alive"]}


def described() -> str:
    """Nodes, cores and GPUs of the connected cluster, in words."""
    resources: Callable[[], dict[str, float]] = ray.cluster_resources
    total, nodes = resources(), len(alive())
    gpus = f", {total['GPU']:.0f} GPUs" if total.get("GPU") else ""
    return f"Ray {ray.__version__}: {nodes} node{'s' if nodes > 1 else ''}, {total.get('CPU', 0):.0f} cores{gpus}"


def label(node: str, host: str) -> str:
    """A node in messages and events.

    Args:
        node: Ray's identity of it.
        host: its name.

    >>> label("0b741a54d58fe9458dce", "gpu-7")
    'gpu-7 (0b741a54)'
    """
    return f"{host} ({node[:8]})"

"""Watching the head of a Ray cluster: without it no worker can be replaced, and Ray ends the driver after a minute."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import ray

from cluster.interrupts import StopFlag
from cluster.progress import warn

EVERY = 2.0  # seconds between two looks
PATIENCE = 10.0  # seconds without an answer after which the head counts as lost


@contextlib.contextmanager
def stop_without_head(stop: StopFlag) -> Iterator[None]:
    """Ask for a stop, which saves the state, once the head of the connected cluster no longer answers.

    Args:
        stop: set with the reason.
    """
    ended = threading.Event()
    address: str = ray.get_runtime_context().gcs_address
    watch = threading.Thread(target=_watch, args=(address, stop, ended), name="head", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch(address: str, stop: StopFlag, ended: threading.Event) -> None:
    answered = time.monotonic()
    while not ended.wait(EVERY):
        if answers(address):
            answered = time.monotonic()
        elif time.monotonic() - answered > PATIENCE and not stop:
            stop.head_lost = time.monotonic() - answered
            stop.reason = f"the loss of the cluster's head at {address}"
            warn(f"the head of the Ray cluster at {address} has not answered for {PATIENCE:g} s; saving the state")
            return


def answers(address: str) -> bool:
    """Whether anything accepts a connection at ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=EVERY).close()
    except OSError:
        return False
    return True

"""The server's process: it listens, and when it is told to stop it answers first whatever has been asked."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address
from types import FrameType

import uvicorn

from cluster.errors import ConfigError, MetarayError
from cluster.serving.app import Service
from cluster.serving.limits import Limits

GRACE = 1.0  # seconds in which connections that are open may ask once more, when the server stops


class Draining(uvicorn.Server):
    """A server that tells its callers before it closes their connections."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        """Not yet listening."""
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; leave undone what is not done at the second Ctrl-C. uvicorn's own ends the process by the signal."""
        del frame
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, answer on those that are open and close them, then end the threads.

        A connection that is closed at once might carry a question that has been sent and not been read.
        """
        self._service.is_stopping = True
        await asyncio.sleep(0)  # takes the connections that wait to be accepted
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        try:
            async with asyncio.timeout(GRACE):
                while self.server_state.connections:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass  # the rest is idle, or being answered
        await super().shutdown(sockets)


def serve(service: Service, host: str, port: int, limits: Limits, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Main thread only.

    Args:
        service: what answers.
        host: address to listen on.
        port: to listen on, 0 for any that is free.
        limits: how long a request may take to be drained.
        started: called with the address once it is listened on.

    Raises:
        ConfigError: if the address is none of this machine, or taken.
    """
    listener = _listening(host, port)
    with listener:
        config = uvicorn.Config(
            service.app(),
            lifespan="on",
            ws="none",
            http="h11",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(2 * limits.seconds) + 5,
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        name, number = listener.getsockname()[:2]
        started(f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}")
        server = Draining(config, service)
        server.run(sockets=[listener])
    if not server.started:
        raise MetarayError("expected a server that starts, it did not; see the log above")


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host: expected an address of this machine, received '{host}' ({error})") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"--host, --port: expected an address of this machine that is free, received {host} {port} ({error})"
        ) from error
    if warning := exposed(listener.getsockname()[0]):
        print(warning, file=sys.stderr)
    return listener


def exposed(address: str) -> str | None:
    """A warning if other machines reach an address."""
    if ip_address(address).is_loopback:
        return None
    return (
        f"warning: {address} can be reached from other machines, and whoever reaches it may ask: there is no "
        "authentication; put a proxy in front that has"
    )

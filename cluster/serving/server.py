"""The server's process: it listens, and when it is stopped it first answers the requests it has."""

import asyncio
import logging
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from types import FrameType

import uvicorn

from cluster.errors import ConfigError, MetarayError
from cluster.serving.app import Service
from cluster.serving.connections import Seldom, guarded
from cluster.serving.limits import Limits

SPARE = 128  # files that are open beside connections
GRACE = 1.0  # seconds in which connections that are open may ask once more, when the server stops


class Draining(uvicorn.Server):
    """A server that announces to its callers that it closes their connections."""

    def __init__(self, config: uvicorn.Config, service: Service, seconds: float, tls: ssl.SSLContext | None) -> None:
        """Not yet listening; ``seconds`` are given to agree on TLS."""
        super().__init__(config)
        self._service, self._tls = service, tls
        self._seconds = None if tls is None else seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. uvicorn's own gives callers a minute to agree on TLS."""
        await self.lifespan.startup()
        self.servers = []
        if self.lifespan.should_exit:
            return

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        for listener in sockets or []:
            server = await asyncio.get_running_loop().create_server(
                protocol,
                sock=listener,
                ssl=self._tls,
                backlog=self.config.backlog,
                ssl_handshake_timeout=self._seconds,
                ssl_shutdown_timeout=self._seconds,
            )
            self.servers.append(server)
        self.started = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; stop without finishing at the second Ctrl-C.

        uvicorn's own method ends the process by the signal.

        Args:
            sig: number of the signal.
            frame: not used.
        """
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


def serve(
    service: Service,
    host: str,
    port: int,
    limits: Limits,
    started: Callable[[str], None],
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Main thread only.

    Args:
        service: what answers.
        host: address to listen on.
        port: to listen on, 0 for any that is free.
        limits: how long a request may take to be drained.
        started: called with the address once it is listened on.
        tls: how connections are encrypted, if they are.

    Raises:
        ConfigError: if the address is none of this machine, or taken.
    """
    listener = _listening(host, port)
    if warning := exposed(listener.getsockname()[0], has_token=service.has_token, has_tls=tls is not None):
        print(warning, file=sys.stderr)
    limits = replace(limits, connections=_openable(limits.connections))
    with listener:
        config = uvicorn.Config(
            service.app(),
            lifespan="on",
            ws="none",
            http=guarded(limits, service.log),
            timeout_keep_alive=max(1, round(limits.idle_seconds)),
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(2 * limits.seconds) + 5,
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        for name in ("uvicorn.error", "asyncio", "cluster.serving.batching"):
            logging.getLogger(name).addFilter(Seldom())
        name, number = listener.getsockname()[:2]
        scheme = "http" if tls is None else "https"
        started(f"{scheme}://[{name}]:{number}" if ":" in name else f"{scheme}://{name}:{number}")
        server = Draining(config, service, limits.header_seconds, tls)
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
    return listener


def _openable(connections: int) -> int:
    """Number of connections that can be open at a time: ``connections``, or fewer if the system allows fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            fewer = max(1, soft - SPARE)
            print(
                f"warning: --max-connections is {fewer} instead of {connections}: ulimit -n is {soft}", file=sys.stderr
            )
            return fewer
    return connections


def exposed(address: str, *, has_token: bool, has_tls: bool) -> str | None:
    """A warning if other machines reach an address, and requests need no token or are not encrypted; None otherwise.

    Args:
        address: that the server listens on.
        has_token: whether requests need a token.
        has_tls: whether they are encrypted.
    """
    missing = [
        *([] if has_token else ["no authentication (--token-file), whoever reaches it may ask"]),
        *([] if has_tls else ["no encryption (--certificate, --key)"]),
    ]
    if ip_address(address).is_loopback or not missing:
        return None
    there = " and there is ".join(missing)
    return f"warning: {address} can be reached from other machines: there is {there}"

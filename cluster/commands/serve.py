"""``metaray serve``: a registered model behind HTTP."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.console import Debug, Trust, reports_errors
from cluster.interrupts import interrupt_on_signals


@reports_errors
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS or models:/NAME/VERSION.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="tracking.uri=….")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores that adapt; without it all.")] = None,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Size of a request at most.")] = 16.0,
    max_tasks: Annotated[int, typer.Option(min=1, help="Tasks of a request at most.")] = 64,
    max_steps: Annotated[int, typer.Option(min=0, help="Inner steps at most.")] = 100,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests at a time; more are told to come again.")] = 128,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds in which a request is answered.")] = 30.0,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections at a time.")] = 2048,
    memory: Annotated[float | None, typer.Option(min=1, help="MiB for all requests; without it half of all.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="Token to ask for; or METARAY_TOKEN.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="For TLS: certificate chain, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="For TLS: its key, PEM.")] = None,
    reload: Annotated[float, typer.Option(min=0, help="Seconds between looks at a moved alias; 0: none.")] = 30.0,
    access_log: Annotated[str | None, typer.Option(help="File for a line a request; - is standard error.")] = None,
    trust: Trust = None,
    debug: Debug = False,
) -> None:
    """Serve a registered model over HTTP: it adapts to each caller's examples and answers.

    POST /invocations takes and gives what `mlflow models serve` does. /openapi.json describes it, /health and /ready
    tell how it is, /model what it is. SIGTERM and Ctrl-C let it answer first what has been asked.
    """
    del debug
    from cluster.serving.access import writer
    from cluster.serving.app import Service
    from cluster.serving.auth import read_token, tls_context
    from cluster.serving.limits import Limits
    from cluster.serving.loading import load
    from cluster.serving.memory import default_memory
    from cluster.serving.server import serve as serving
    from meta.engine.machine import available_cores

    limits = Limits(
        body_bytes=int(max_megabytes * 2**20),
        tasks=max_tasks,
        steps=max_steps,
        requests=max_requests,
        seconds=timeout,
        memory=default_memory() if memory is None else int(memory * 2**20),
        connections=max_connections,
    )
    token, tls, log = read_token(token_file), tls_context(certificate, key), writer(access_log)
    with interrupt_on_signals():  # until the server listens to them
        served = load(model, overrides or [], limits, trust or ())

        def started(address: str) -> None:
            print(f"serving {served.name}, version {served.version}, at {address}", file=sys.stderr, flush=True)

        service = Service(served, limits, threads or available_cores(), token, log, reload)
        serving(service, host, port, limits, started, tls)

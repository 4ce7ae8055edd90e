"""``metaray submit``: any command as a job on a Ray cluster."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.console import AsJson, Debug, print_json, print_lines, print_part, reports_errors
from cluster.errors import ConfigError, Interrupted
from cluster.interrupts import interrupt_on_signals

if TYPE_CHECKING:
    from cluster.jobs.client import JobServer, Submitted

TRACKING = "MLFLOW_TRACKING_URI"  # goes with every job, unless it holds a password


@reports_errors
def submit(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND [ARGUMENT]...", help="e.g. train tune_configs/glyphs.yaml")
    ] = None,
    address: Annotated[
        str, typer.Option(envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], metavar="URL", help="Of the job server.")
    ] = "http://127.0.0.1:8265",
    name: Annotated[
        str | None, typer.Option(help="Of the job and its run. One that was interrupted goes on under its name.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Pass an environment variable on; the cluster stores it.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Show the log until the job has ended.")] = True,
    stop: Annotated[str | None, typer.Option(metavar="NAME", help="Let a job save and leave.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a command as a job on a Ray cluster: send the working tree, follow the log, leave with the job's exit status.

    Without a command, --name follows a job that was submitted before.
    """
    del debug
    if not words and (stop is None) == (name is None):
        raise ConfigError(
            "expected a command to run, --name of a job to follow, or --stop with the name of one; for example: "
            "metaray submit --name first -- train tune_configs/sinusoid.yaml checkpoint.root=/shared/runs"
        )
    if words and stop is not None:
        raise ConfigError(f"expected a command or --stop, received both; the command: {' '.join(words)}")
    left_out: Mapping[str, str] = {}
    with interrupt_on_signals():
        if words:
            server, job, left_out = _submitted(ctx, words, address, name, env or [])
        else:
            server = _connected(address)
            job = server.latest(str(name or stop))
        if stop is not None:
            _stop(server, job, as_json=as_json)
        else:
            _follow(server, job, left_out, follow=follow, as_json=as_json)


def _submitted(
    ctx: typer.Context, words: list[str], address: str, name: str | None, env: list[str]
) -> "tuple[JobServer, Submitted, Mapping[str, str]]":
    """Check everything that can be checked here, then send the job; also why files are not sent, by name."""
    from cluster.jobs.command import prepare, require_no_secrets

    require_no_secrets(words)  # first: other complaints repeat what they received
    _require_command(ctx, words)
    environment = _environment(env)
    job = prepare(words, name, Path.cwd())
    server = _connected(address)
    submitted = server.submit(job, environment)
    print(
        f"job {submitted.id} is sent to {address}: {len(job.files)} files, {job.size / 2**20:.1f} MiB", file=sys.stderr
    )
    for file, reason in sorted(job.left_out.items()):
        print(f"not sent: {file} {reason}", file=sys.stderr)
    return server, submitted, job.left_out


def _require_command(ctx: typer.Context, words: list[str]) -> None:
    """Let the command line's own parser look at the command, before a cluster is troubled with it."""
    group: Any = ctx.find_root().command
    known = [command for command in group.commands if command != "submit"]
    if words[0] not in known:
        from cluster.config.components import nearest

        raise ConfigError(
            f"expected one of the commands {', '.join(sorted(known))}, received '{words[0]}'{nearest(words[0], known)}"
        )
    group.commands[words[0]].make_context(words[0], words[1:], parent=ctx)


def _environment(names: list[str]) -> dict[str, str]:
    """The values of the variables that go with a job; none of them is shown here from now on."""
    from cluster.config.credentials import has_credentials, hide

    variables = {}
    for name in names:
        if "=" in name:
            raise ConfigError(
                f"--env: expected the name of an environment variable alone, received '{name.partition('=')[0]}' with "
                "a value: whoever may list processes sees it; export the variable and give its name"
            )
        if name not in os.environ:
            raise ConfigError(f"--env: expected the name of an environment variable that is set, received '{name}'")
        variables[name] = os.environ[name]
        hide(variables[name])
    tracking = os.environ.get(TRACKING)
    if tracking is not None and TRACKING not in variables:
        if has_credentials(tracking):
            raise ConfigError(
                f"{TRACKING} holds a user or a password, which whoever may use the cluster could read; leave them out "
                f"and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster, or add --env {TRACKING}"
            )
        variables[TRACKING] = tracking
    return variables


def _connected(address: str) -> "JobServer":
    from cluster.jobs.client import JobServer, is_local

    server = JobServer(address)
    if not is_local(server.host) and server.open_to_all:
        print(
            f"warning: {address} takes jobs without a token, from whoever reaches it; start the cluster with "
            "RAY_AUTH_MODE=token (see docs/cluster.md)",
            file=sys.stderr,
        )
    return server


def _stop(server: "JobServer", job: "Submitted", *, as_json: bool) -> None:
    from cluster.jobs.follow import await_end

    if not job.over:
        server.stop(job.id)
        job = await_end(server, job)
    _print(job, None, None, {}, as_json=as_json)


def _follow(server: "JobServer", job: "Submitted", left_out: Mapping[str, str], *, follow: bool, as_json: bool) -> None:
    """Show the log and leave with the job's exit status, or only say what the job is called."""
    from cluster.jobs.follow import exit_status
    from cluster.jobs.follow import follow as followed

    result = None
    if follow:
        try:
            job, result = followed(server, job, _show_beside if as_json else print_part)
        except KeyboardInterrupt:
            raise Interrupted(
                f"no longer following; job {job.name} goes on. Follow it again with: metaray submit --name {job.name}, "
                f"stop it with: metaray submit --stop {job.name}"
            ) from None
    status = exit_status(job) if job.over else None
    _print(job, status, result, left_out, as_json=as_json)
    if status:
        raise typer.Exit(status)


def _show_beside(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _print(
    job: "Submitted", status: int | None, result: dict[str, Any] | None, left_out: Mapping[str, str], *, as_json: bool
) -> None:
    plain = {
        "name": job.name,
        "job": job.id,
        "status": job.status,
        "exit_status": status,
        "result": result,
        "left_out": [{"file": file, "reason": reason} for file, reason in sorted(left_out.items())],
    }
    if as_json:
        print_json(plain)
    else:
        print_lines({"job": job.id, "status": job.status.lower()})

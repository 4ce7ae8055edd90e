"""Output of all commands: results on standard output, one message per error, and the exit status of its kind."""

import contextlib
import functools
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import ConfigError, MetarayError
from cluster.progress import forget_warnings, show_as

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")]


Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress; warnings and errors alone.")]
Plain = Annotated[bool, typer.Option("--plain", help="Show progress in lines, on a terminal too.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. inner.lr=0.02")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, its name under runs/, or its MLflow run id.")]
Trust = Annotated[
    list[str] | None,
    typer.Option(metavar="PACKAGE", help="Of your own, whose classes a registered model may name; also METARAY_TRUST."),
]


_results: list[TextIO] = []  # standard output while a command runs


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one message and the exit status of their kind.

    Standard output is for results alone: whatever else writes there, Ray about a lost worker for one, comes out on
    standard error.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        _results.append(sys.stdout)
        forget_warnings()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                command(*args, debug=debug, **kwargs)
        except (MetarayError, OSError) as error:
            print(f"error: {_shown(error, debug=debug)}", file=sys.stderr)
            raise typer.Exit(getattr(error, "exit_status", 1)) from error
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            raise typer.Exit(1) from None
        finally:
            _results.pop()

    return wrapped


def _shown(error: Exception, *, debug: bool) -> str:
    """An error's message, or its stack trace, without secrets."""
    from cluster.config.credentials import without_credentials  # loaded for errors alone: it takes its time

    return without_credentials("".join(traceback.format_exception(error)) if debug else str(error))


def show_progress(*, quiet: bool, plain: bool) -> None:
    """Choose how this command shows progress.

    Args:
        quiet: not at all.
        plain: in lines.

    Raises:
        ConfigError: if both are asked for.
    """
    if quiet and plain:
        raise ConfigError("expected --quiet or --plain, received both")
    show_as("quiet" if quiet else "plain" if plain else "auto")


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(data, allow_nan=False), file=_output())


def print_part(text: str) -> None:
    """Text as it comes, on standard output at once."""
    print(text, end="", file=_output(), flush=True)


def print_lines(lines: Mapping[str, Any]) -> None:
    """Names and values, one a line, in two columns."""
    width = max(len(name) for name in lines)
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}", file=_output())


def print_table(table: Table) -> None:
    """A table as wide as the terminal, or wide enough for a file."""
    output = _output()
    Console(width=None if output.isatty() else 160, file=output).print(table)


def _output() -> TextIO:
    return _results[-1] if _results else sys.stdout

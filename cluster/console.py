"""What the commands share: results on standard output, one message an error, and the exit status of its kind."""

import functools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import MetarayError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")]


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one message and the exit status of their kind."""

    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            command(*args, debug=debug, **kwargs)
        except (MetarayError, OSError) as error:
            if debug:
                raise
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(getattr(error, "exit_status", 1)) from error
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            raise typer.Exit(1) from None

    return wrapped


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(data, allow_nan=False))


def print_lines(lines: Mapping[str, Any]) -> None:
    """Names and values, one a line, in two columns."""
    width = max(len(name) for name in lines)
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")


def print_table(table: Table) -> None:
    """A table as wide as the terminal, or wide enough for a file."""
    Console(width=None if sys.stdout.isatty() else 160).print(table)

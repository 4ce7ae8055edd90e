"""``metaray config``: a configuration with its defaults spelled out, and the schema for editors."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.commands.console import AsJson, Debug, Overrides, print_json, print_part, reports_errors

config = typer.Typer(help="Show a configuration whole, or the schema that editors check it by.", no_args_is_help=True)


@config.command()
@reports_errors
def show(
    file: Annotated[Path, typer.Argument(metavar="CONFIG", help="A configuration.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print a configuration with every default, and where each value comes from."""
    del debug
    from cluster.config.json_schema import origins
    from cluster.config.overrides import with_overrides
    from cluster.config.schema import load, read_yaml
    from cluster.config.shipped import locate

    words = overrides or []
    plain = load(file, words).model_dump(mode="json")
    where = origins(plain, read_yaml(locate(file)), with_overrides({}, words))
    if as_json:
        print_json({"config": plain, "origins": where})
    else:
        lines = list(_lines(plain, where))
        width = max(len(text) for text, _ in lines)
        print_part("".join(f"{text:<{width}}  # {origin}\n" if origin else f"{text}\n" for text, origin in lines))


def _lines(plain: Mapping[str, Any], where: Mapping[str, str], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The lines of a YAML file, each with the origin of its value; a section has none."""
    from cluster.config.strict_yaml import write

    indent = "  " * prefix.count(".")
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:", ""
            yield from _lines(value, where, f"{prefix}{key}.")
        else:
            text = write({key: value}, flow=True, width=float("inf")).strip().removeprefix("{").removesuffix("}")
            yield f"{indent}{text}", where[f"{prefix}{key}"]


@config.command()
@reports_errors
def schema(debug: Debug = False) -> None:
    """Print the JSON schema of configurations, for a first line ``# yaml-language-server: $schema=FILE``."""
    del debug
    from cluster.config.json_schema import json_schema

    print_json(json_schema())

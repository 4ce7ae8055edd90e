"""``metaray check``: a configuration, or a class of one's own, tried before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cluster.commands.console import AsJson, Debug, Overrides, print_json, print_lines, print_table, reports_errors

if TYPE_CHECKING:
    from cluster.training.checks import Checked


@reports_errors
def check(
    target: Annotated[str, typer.Argument(metavar="CONFIG|MODULE:NAME", help="A configuration, or a class.")],
    overrides: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="Whose tasks a model or an algorithm is tried on.")] = None,
    inputs: Annotated[str, typer.Option(metavar="SIZES", help="Of one input of a model, such as 3,84,84.")] = "",
    outputs: Annotated[int, typer.Option(min=0, help="Outputs of a model.")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a configuration, or a class of your own (its keys as KEY=VALUE), without training."""
    del debug
    from cluster.config.schema import load
    from cluster.errors import ConfigError
    from cluster.training.checks import check_class, check_configuration, is_configuration

    if is_configuration(target):
        if config is not None or inputs or outputs:
            raise ConfigError("--config, --inputs, --outputs: expected none beside a configuration")
        checked = check_configuration(load(Path(target), overrides or []))
    else:
        settings = load(config) if config is not None else None
        checked = check_class(target, overrides or [], settings, _sizes(inputs), outputs or None)
    if as_json:
        print_json({"target": target, **checked.as_json()})
    else:
        _print(target, checked)


def _sizes(text: str) -> tuple[int, ...] | None:
    from cluster.errors import ConfigError

    if not text:
        return None
    sizes = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in sizes):
        raise ConfigError(f"--inputs: expected sizes above 0 such as 3,84,84, received '{text}'")
    return tuple(map(int, sizes))


def _print(target: str, checked: "Checked") -> None:
    if checked.layers:
        table = Table("layer", "type", "parameters", "computed", title=target)
        for layer in checked.layers:
            table.add_row(layer["name"], layer["type"], str(layer["parameters"]), layer["handled"])
        print_table(table)
    engines = {f"engine {name}": f"not: {reason}" if reason else "runs" for name, reason in checked.engines.items()}
    print_lines({**checked.facts, **engines, target: f"{checked.kind}: nothing wrong"})

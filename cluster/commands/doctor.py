"""``metaray doctor``: whether this machine has what trainings need, and what to do where it has not."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cluster.commands.console import AsJson, Debug, Overrides, print_json, print_table, reports_errors
from cluster.errors import MetarayError

if TYPE_CHECKING:
    from cluster.doctor.findings import Finding

LOOKS = {"ok": "green", "warning": "yellow", "error": "red"}


@reports_errors
def doctor(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="Whose cluster, MLflow and data.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Look at versions, compiler, devices, memory, disk, Ray, MLflow and data; say what to do where something is wrong.

    Ray is started, or joined at cluster.address, for some seconds. Without CONFIG the defaults are looked at.
    """
    del debug
    findings = _findings(config, overrides or [])
    failed = [finding.name for finding in findings if finding.status == "error"]
    if as_json:
        print_json({"ok": not failed, "findings": [finding.as_json() for finding in findings]})
    else:
        _print(findings)
    if failed:
        raise MetarayError(f"{', '.join(failed)}: trainings do not run here until this is mended, see above")


def _findings(config: str | None, overrides: list[str]) -> "list[Finding]":
    from cluster.config.overrides import is_override
    from cluster.config.schema import load
    from cluster.doctor.machine import machine
    from cluster.doctor.services import data, sections, services

    if config is not None and not is_override(config):
        whole = load(Path(config), overrides)
        cluster, tracking, root = whole.cluster, whole.tracking, whole.checkpoint.root
    else:
        whole = None
        cluster, tracking, root = sections([*([] if config is None else [config]), *overrides])
    return [*machine(root), *services(cluster, tracking), *([] if whole is None else [data(whole)])]


def _print(findings: "list[Finding]") -> None:
    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    for finding in findings:
        table.add_row(f"[{LOOKS[finding.status]}]{finding.status}[/]", finding.name, escape(finding.text))
    print_table(table)

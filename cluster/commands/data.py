"""``metaray data``: turn raw data into the Arrow store, and look at one."""

import csv
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cluster.commands.console import AsJson, Debug, print_json, print_lines, print_table, reports_errors
from cluster.errors import ConfigError
from cluster.interrupts import interrupt_on_signals
from cluster.progress import Progress, progress

if TYPE_CHECKING:
    from tasks.data.tables.manifest import AnyManifest, Column, TableManifest

data = typer.Typer(help="Images and tables: make a store, look at one.", no_args_is_help=True)


@data.command()
@reports_errors
def prepare(
    name: Annotated[
        str, typer.Argument(help="omniglot, mini_imagenet, cifar_fs, fc100, folder, parquet, glyphs or table.")
    ],
    root: Annotated[str, typer.Option(help="Folder or URI of the store to make.")],
    source: Annotated[Path | None, typer.Option(help="Folder, file or archive of the raw data.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the split by class or group.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Height and width of the images.")] = None,
    grey: Annotated[bool, typer.Option("--grey", help="One channel instead of three.")] = False,
    ratio: Annotated[str | None, typer.Option(help="Shares of the classes or groups, e.g. 0.64,0.16,0.2.")] = None,
    lists: Annotated[Path | None, typer.Option(help="Folder of lists that split the data.")] = None,
    nested: Annotated[
        str | None, typer.Option(help="Images in several folders of a class: merge, or split into classes.")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    group: Annotated[str | None, typer.Option(help="Table: column whose values are the tasks.")] = None,
    inputs: Annotated[str | None, typer.Option(help="Table: columns to predict from, by commas.")] = None,
    targets: Annotated[str | None, typer.Option(help="Table: columns of numbers to predict.")] = None,
    labels: Annotated[str | None, typer.Option(help="Table: column of a class to predict.")] = None,
    categorical: Annotated[str | None, typer.Option(help="Table: those of --inputs that hold categories.")] = None,
    time: Annotated[str | None, typer.Option(help="Table: column that orders a group's rows, a series.")] = None,
    split_column: Annotated[str | None, typer.Option(help="Table: column of train, val or test.")] = None,
    missing: Annotated[str | None, typer.Option(help="Table, rows that lack a value: refuse, drop or impute.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the raw data into --source first.")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out images that cannot be read.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a store that is there.")] = False,
    max_size: Annotated[float | None, typer.Option(help="GiB unpacked from one file, or of the store [256].")] = None,
    max_ratio: Annotated[float | None, typer.Option(help="Times that data may grow when unpacked [200].")] = None,
    max_files: Annotated[int | None, typer.Option(help="Files or rows [4000000].")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Pixels of one image [89478485].")] = None,
    max_memory: Annotated[float | None, typer.Option(help="GiB of memory for one file or all decoding [4].")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Turn raw data into a store that workers map into memory."""
    del debug
    settings: dict[str, Any] = {"seed": seed, "size": size, "ratio": ratio, "lists": lists, "nested": nested}
    settings |= {"image_column": image_column, "label_column": label_column}
    settings |= {"group": group, "labels": labels, "time": time, "split_column": split_column, "missing": missing}
    settings |= {"inputs": _names(inputs), "targets": _names(targets), "categorical": _names(categorical)}
    options = _given(settings) | {key: True for key, value in {"grey": grey, "download": download}.items() if value}
    bounds = {"size": max_size, "ratio": max_ratio, "files": max_files, "pixels": max_pixels, "memory": max_memory}
    start = monotonic()
    with interrupt_on_signals(), _bad_input(), ExitStack() as stack:
        from tasks.data.catalogue import prepare_source
        from tasks.data.limits import Limits

        limits = Limits(**_given(bounds))
        flags = {"replace": replace, "skip_broken": skip_broken}
        manifest = prepare_source(name, source, root, options, **flags, limits=limits, progress=_Bar(name, stack))
    seconds = monotonic() - start
    if as_json:
        print_json({**_summary(manifest, root), "seconds": seconds})
    else:
        _print_summary(manifest, root, {"prepared in": f"{seconds:.1f} s"})
    _warn(manifest)


@data.command()
@reports_errors
def show(
    root: Annotated[str, typer.Argument(help="Folder or URI of a store, or glyphs.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its checksum.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print what a store holds."""
    del debug
    with interrupt_on_signals(), _bad_input():
        from tasks.data.cache import manifest_of

        manifest = manifest_of(root, verify=verify)
    if as_json:
        verified = {"verified": True} if verify else {}
        print_json({**_summary(manifest, root), "origin": dict(manifest.origin), **verified})
    else:
        further = {f"origin, {key}": value for key, value in manifest.origin.items() if key not in _ACCOUNT}
        _print_summary(manifest, root, further | ({"checksums": "verified"} if verify else {}))
        _warn(manifest)


@contextmanager
def _bad_input() -> Iterator[None]:
    """Data that cannot be used, files that cannot be read and disks that are full: wrong input, not a failed run."""
    from tasks.data.errors import DataError

    try:
        yield
    except (DataError, OSError) as error:
        from cluster.config.credentials import without_credentials

        raise ConfigError(without_credentials(str(error))) from error


class _Bar:
    """Shows the images or rows done; their number is known at the first call only."""

    def __init__(self, label: str, stack: ExitStack) -> None:
        self._label, self._stack = label, stack
        self._progress: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            self._progress = self._stack.enter_context(
                progress(self._label, 0, total, unit="row" if self._label == "table" else "image")
            )
        self._progress.update(done, {})


# Keys of a store's origin that say what was left out and what is doubtful.
_ACCOUNT = ("skipped", "skipped_first", "left_out", "duplicates", "unknown_categories", "warnings")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _names(text: str | None) -> tuple[str, ...] | None:
    """Names of columns, separated by commas; one that holds a comma stands in quotes."""
    return None if text is None else tuple(next(csv.reader([text], skipinitialspace=True), []))


def _warn(manifest: "AnyManifest") -> None:
    """Print what was left out and the warnings, one line each, on standard error."""
    from tasks.data.left_out import in_lines

    skipped = manifest.origin.get("skipped_first", [])
    more = manifest.origin.get("skipped", 0) - len(skipped)
    for line in [*skipped, *([f"{more:,} more of such"] if more > 0 and skipped else [])]:
        print(f"left out: {line}", file=sys.stderr)
    for line in [*in_lines(manifest.origin.get("left_out", {})), *manifest.origin.get("warnings", [])]:
        print(f"warning: {line}", file=sys.stderr)


def _summary(manifest: "AnyManifest", root: str) -> dict[str, Any]:
    columns = _columns(manifest)
    kept = ("groups", "rows") if "group" in columns else ("classes", "images")
    account = {key: manifest.origin[key] for key in _ACCOUNT if key in manifest.origin}
    return {
        "name": manifest.name,
        "root": root,
        **columns,
        "splits": {split: {key: vars(info)[key] for key in kept} for split, info in manifest.splits.items()},
        "skipped": 0,
        **account,
        "fingerprint": manifest.fingerprint,
    }


def _columns(manifest: "AnyManifest") -> dict[str, Any]:
    """Contents of an image or a row."""
    from tasks.data.manifest import Manifest

    if isinstance(manifest, Manifest):
        return {"image_shape": list(manifest.image_shape)}
    columns = {"inputs": manifest.inputs, "targets": manifest.targets}
    described = {role: [_described(column) for column in role_columns] for role, role_columns in columns.items()}
    return {"group": manifest.group, "time": manifest.time or None, **described}


def _described(column: "Column") -> dict[str, Any]:
    known = {"name": column.name, "kind": column.kind, "missing": column.missing}
    if column.kind == "category":
        return known | {"categories": list(column.categories)}
    return known | {"mean": column.mean, "deviation": column.deviation}


def _print_summary(manifest: "AnyManifest", root: str, further: Mapping[str, Any]) -> None:
    from tasks.data.manifest import Manifest

    if isinstance(manifest, Manifest):
        height, width, channels = manifest.image_shape
        title = f"{manifest.name}, {height} × {width}, {'grey' if channels == 1 else 'RGB'}"
        kept = ("classes", "images", "smallest class")
    else:
        title, kept = f"{manifest.name}, by {manifest.group}", ("groups", "rows", "smallest group")
        _print_columns(manifest)
    table = Table(title=title)
    for column in ("split", *kept):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, info in manifest.splits.items():
        table.add_row(split, *(str(vars(info)[key.partition(" ")[0]]) for key in kept))
    print_table(table)
    skipped = manifest.origin.get("skipped", 0)
    lines = {"store": root, "fingerprint": manifest.fingerprint}
    print_lines(lines | ({"broken images left out": skipped} if skipped else {}) | dict(further))


def _print_columns(manifest: "TableManifest") -> None:
    """Statistics of each column over the training groups' rows."""
    table = Table(title=f"columns of {manifest.name}, in the training groups")
    for column in ("column", "role", "mean", "deviation", "categories", "missing"):
        table.add_column(column, justify="left" if column in ("column", "role", "categories") else "right")
    for role, columns in (("input", manifest.inputs), ("target", manifest.targets)):
        for one in columns:
            numbers = ("", "") if one.kind == "category" else (f"{one.mean:.6g}", f"{one.deviation:.6g}")
            shown = ", ".join(one.categories[:_SHOWN]) + (" …" if len(one.categories) > _SHOWN else "")
            table.add_row(one.name, role, *numbers, shown, str(one.missing))
    print_table(table)


_SHOWN = 5  # categories of a column

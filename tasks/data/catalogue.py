"""The sources by name, and the preparation of a store from a source."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from meta.engine.machine import cache_folder
from tasks.data.archives import extract, is_archive, stem
from tasks.data.decoder import Progress
from tasks.data.errors import DataError
from tasks.data.limits import Limits
from tasks.data.places import scratch
from tasks.data.prepare import check_root, prepare
from tasks.data.remote import is_remote
from tasks.data.tables.manifest import AnyManifest
from tasks.data.tables.prepare import prepare_table
from tasks.data.tables.request import TableSource

SOURCES = {
    "omniglot": "tasks.data.sources.omniglot:raw_data",
    "mini_imagenet": "tasks.data.sources.mini_imagenet:raw_data",
    "cifar_fs": "tasks.data.sources.cifar:cifar_fs",
    "fc100": "tasks.data.sources.cifar:fc100",
    "folder": "tasks.data.sources.folder:raw_data",
    "parquet": "tasks.data.sources.parquet:raw_data",
    "glyphs": "tasks.data.sources.glyphs:raw_data",
}
TABLES = {"table": "tasks.data.tables.request:TableSource"}
OPTIONS = (
    *("seed", "size", "grey", "ratio", "lists", "nested", "image_column", "label_column", "download"),
    *("group", "inputs", "targets", "labels", "categorical", "time", "split_column", "missing"),
)


def prepare_source(
    name: str,
    source: Path | None,
    root: str,
    options: Mapping[str, Any],
    *,
    replace: bool = False,
    skip_broken: bool = False,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> AnyManifest:
    """Turns raw data into a store that is whole or absent; returns its manifest.

    Args:
        name: a key of :data:`SOURCES` or :data:`TABLES`.
        source: a path as the source takes it, or an archive of it; ``None`` for a source that needs none.
        root: folder or URI of the store.
        options: keyword arguments of the source, names of :data:`OPTIONS`.
        replace: write over a store that is there already.
        skip_broken: leave out images that cannot be decoded.
        progress: called with the images or rows done so far and their total.
        limits: bounds on what is unpacked and decoded.

    Raises:
        DataError: if anything of this cannot be used.
    """
    read = _source(name, source, options)
    if skip_broken and name in TABLES:
        raise DataError(f"'{name}' takes no --skip-broken; it takes --missing drop")
    check_root(root, replace=replace)
    limits = limits or Limits()
    keywords = {**options, "limits": limits} if "limits" in inspect.signature(read).parameters else options
    shown = None
    with ExitStack() as stack:
        arguments = []
        if source is not None:
            path = source.expanduser()
            if is_archive(path):
                beside = cache_folder() / "upload" if is_remote(root) else Path(root).resolve()
                unpacked = stack.enter_context(scratch(beside)) / "unpacked" / stem(path)
                extract(path, unpacked, limits)
                shown = (str(unpacked), str(path))  # the folder will be gone, the archive will not
                path = unpacked
            arguments = [path]
        try:
            raw = read(*arguments, **keywords)
            if isinstance(raw, TableSource):
                return prepare_table(raw, root, replace=replace, limits=limits, progress=progress, shown=shown)
            return prepare(
                raw, root, replace=replace, skip_broken=skip_broken, progress=progress, limits=limits, shown=shown
            )
        except DataError as error:
            if shown is None:
                raise
            raise type(error)(str(error).replace(*shown)) from error


def _source(name: str, source: Path | None, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns the source's function, checked to take these arguments.

    Raises:
        DataError: if there is no such source, or it does not take them.
    """
    known_sources = SOURCES | TABLES
    if name not in known_sources:
        raise DataError(f"expected a data set of {', '.join(known_sources)}, received '{name}'")
    module, _, attribute = known_sources[name].partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    taken = inspect.signature(function).parameters
    unknown = [option for option in options if option not in taken]
    if unknown:
        known = _spelled([option for option in OPTIONS if option in taken]) or "no options"
        raise DataError(f"'{name}' takes no {_spelled(unknown)}; it takes {known}")
    if ("source" in taken) != (source is not None):
        expected = "--source: the folder or file to read" if "source" in taken else "no --source: it needs none"
        raise DataError(f"'{name}' expects {expected}")
    return function


def _spelled(options: list[str]) -> str:
    return ", ".join("--" + option.replace("_", "-") for option in options)

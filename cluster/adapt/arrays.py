"""Tasks as arrays: JSON in the form of a request to the server, or an archive that ``np.savez`` wrote."""

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cluster.adapt.task import Sources, Task
from cluster.errors import ConfigError
from cluster.registry.adapting import Adaptable
from cluster.serving import archives
from cluster.serving.forms import JSON
from cluster.serving.limits import Limits, Refused
from cluster.serving.lists import whole
from cluster.serving.requests import read

ARRAYS = (".json", ".npz")
LIMITS = Limits(body_bytes=2**34, tasks=10**6, steps=10**6)  # files of the user's own, not a stranger's requests


def arrays_task(model: Adaptable, sources: Sources) -> Task:
    """The tasks in one or two files of arrays; two hold different arrays of the model's inputs.

    Args:
        model: what is adapted to them.
        sources: the files.

    Raises:
        ConfigError: if the two files are of different forms, or hold the same array.
        ValueError: naming the array that does not suit the model.
    """
    paths = [sources.support, *([] if sources.query is None else [sources.query])]
    if len({path.suffix.lower() for path in paths}) > 1:
        raise ConfigError(f"--query: expected a {paths[0].suffix} file as --support is, received '{paths[1]}'")
    if sources.inputs or sources.targets:
        raise ConfigError("--inputs, --targets: expected only beside tables, received with arrays, which have names")
    return _from_json(model, paths) if paths[0].suffix.lower() == ".json" else _from_archives(model, paths)


def _from_json(model: Adaptable, paths: list[Path]) -> Task:
    inputs: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    for path in paths:
        content = _object(path)
        _add(inputs, _part(content, "inputs", path), path)
        _add(asked, _part(content, "params", path), path)
        if other := content.keys() - {"inputs", "params"}:
            raise ValueError(f"{path}: expected inputs and params as in a request, received '{sorted(other)[0]}' too")
    body = json.dumps({"inputs": inputs, **({"params": asked} if asked else {})}).encode()
    try:
        question = read(body, JSON, model, LIMITS)
    except Refused as error:
        raise ValueError(f"{', '.join(map(str, paths))}: {error}") from error
    return Task(arrays=question.arrays, inner_steps=asked.get("inner_steps"), inner_lr=asked.get("inner_lr"))


def _object(path: Path) -> dict[str, Any]:
    try:
        content = whole(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with inputs, received a {type(content).__name__}")
    return content


def _part(content: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    part = content.get(key)
    if part is not None and not isinstance(part, dict):
        raise ValueError(f"{path}: {key}: expected an object, received a {type(part).__name__}")
    return part or {}


def _from_archives(model: Adaptable, paths: list[Path]) -> Task:
    arrays: dict[str, NDArray[Any]] = {}
    for path in paths:
        try:
            _add(arrays, archives.unpacked(path.read_bytes(), model.inputs, LIMITS.body_bytes), path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    steps, lr = (arrays.pop(name).item() if name in arrays else None for name in archives.SCALARS)
    named = {field.name: field for field in model.inputs}
    return Task(
        arrays={name: archives.in_range(named[name], array) for name, array in arrays.items()},
        inner_steps=None if steps is None else int(steps),
        inner_lr=lr,
    )


def _add(known: dict[str, Any], more: dict[str, Any], path: Path) -> None:
    """Add the entries of a second file, none of which the first may have."""
    if both := known.keys() & more.keys():
        raise ConfigError(f"{path}: expected arrays that --support does not hold, received '{sorted(both)[0]}' again")
    known |= more

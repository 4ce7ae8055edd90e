"""From the body of a request to checked arrays; an error names the field.

A body is JSON as MLflow's servers take it, an archive of arrays (:mod:`cluster.serving.archives`), or a form of image
files with the rest as JSON (:mod:`cluster.serving.images`).
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cluster.registry.adapting import Adaptable
from cluster.registry.fields import Field
from cluster.serving import archives, images
from cluster.serving.forms import MULTIPART, NPZ, media_type, require_form
from cluster.serving.limits import Limits, Refused
from cluster.serving.memory import reading_bytes as json_bytes

KINDS: dict[str, tuple[set[type], str]] = {
    "f": ({float, int}, "numbers"),
    "i": ({int}, "whole numbers"),
    "u": ({int}, "whole numbers"),
    "b": ({bool}, "true or false"),
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request's tasks, and how far to adapt to them.

    Attributes:
        arrays: checked, [T, …].
        inner_steps: inner steps.
        inner_lr: α.
    """

    arrays: dict[str, NDArray[Any]]
    inner_steps: int
    inner_lr: float

    @property
    def tasks(self) -> int:
        """T."""
        return len(next(iter(self.arrays.values())))

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for questions that can be answered in one go."""
        return self.inner_steps, self.inner_lr, *(array.shape[1:] for array in self.arrays.values())


def read(body: bytes, content_type: str, model: Adaptable, limits: Limits) -> Question:
    """The question in a body.

    Args:
        body: all of it.
        content_type: the header of that name.
        model: what is asked.
        limits: what is accepted.

    Raises:
        Refused: with status 400 and the reason if there is none, 415 if the model takes no such bodies.
    """
    kind = require_form(content_type, model)
    try:
        if kind == NPZ:
            arrays, params = _from_archive(body, model, limits)
        elif kind == MULTIPART:
            arrays, params = _from_form(body, content_type, model, limits)
        else:
            arrays, params = _from_json(_parsed(body, "body"), model)
        steps, lr = _params(params, model, limits)
        if (tasks := max(map(len, arrays.values()), default=0)) > limits.tasks:
            raise ValueError(f"inputs: expected at most {limits.tasks} tasks a request, received {tasks}; ask in parts")
        return Question(arrays=model.check(arrays, steps, lr), inner_steps=steps, inner_lr=lr)
    except ValueError as error:
        raise Refused(400, str(error)) from error


def reading_bytes(body: bytes, content_type: str, limits: Limits) -> int:
    """Bytes that :func:`read` takes at most, from a look at the body.

    Args:
        body: of the request.
        content_type: value of the header.
        limits: of the server.
    """
    kind = media_type(content_type)
    if kind == NPZ:  # its numbers, and again in a type of up to eight times the size
        return len(body) + 9 * archives.unpacked_bytes(body, limits.body_bytes)
    if kind == MULTIPART:
        return 3 * len(body) + limits.body_bytes + images.decoding_bytes(limits.body_bytes)
    return json_bytes(body)


Contents = tuple[dict[str, NDArray[Any]], Any]  # arrays, and parameters that are still to be checked


def _parsed(body: bytes, where: str) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"{where}: expected JSON, received brackets nested too deep") from None
    except ValueError as error:  # letters that are no UTF-8 and integers of thousands of digits too
        raise ValueError(f"{where}: expected JSON, received something else: {error}") from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON; expected finite numbers")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, each name once: of two values one would be lost."""
    members = dict(pairs)
    if len(members) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"expected each name once, received {_shown(twice)} twice")
    return members


def _from_json(parsed: Any, model: Adaptable) -> Contents:
    """Of the form ``{"inputs": {…}, "params": {…}}``, MLflow's."""
    if not isinstance(parsed, dict):
        raise ValueError(f'body: expected {{"inputs": {{…}}, "params": {{…}}}}, received {_called(parsed)}')
    _require_names("body", parsed, ("inputs", "params"))
    inputs = parsed.get("inputs")
    if not isinstance(inputs, dict):
        raise ValueError(f"inputs: expected an object of {_listed(model.inputs)}, received {_called(inputs)}")
    _require_names("inputs", inputs, tuple(field.name for field in model.inputs))
    arrays = {field.name: _array(field, inputs[field.name]) for field in model.inputs if field.name in inputs}
    return arrays, parsed.get("params")


def _from_archive(body: bytes, model: Adaptable, limits: Limits) -> Contents:
    """Arrays of the fields' names; ``inner_steps`` and ``inner_lr`` beside them."""
    arrays = archives.unpacked(body, model.inputs, limits.body_bytes)
    params = {name: arrays.pop(name).item() for name in archives.SCALARS if name in arrays}
    named = {field.name: field for field in model.inputs}
    return {name: archives.in_range(named[name], array) for name, array in arrays.items()}, params


def _from_form(body: bytes, content_type: str, model: Adaptable, limits: Limits) -> Contents:
    """Image files under the names of the fields that are images, in order; the other fields and ``params`` in JSON."""
    files = model.images
    assert files is not None  # else the media type was refused
    form = images.parts(body, content_type)
    _require_names("body", form, (*(field.name for field in model.inputs), "params"))
    pictures = {name: parts for name, parts in form.items() if name in files.names}
    values: dict[str, Any] = {}
    for name, parts in form.items():
        if name not in files.names:
            if len(parts) > 1:
                raise ValueError(f"{name}: expected one part of this name, received {len(parts)}")
            values[name] = _parsed(parts[0], name)
    arrays = {field.name: _array(field, values[field.name]) for field in model.inputs if field.name in values}
    tasks = images.tasks_of(files, model.inputs, arrays)
    if not 1 <= tasks <= limits.tasks:
        raise ValueError(f"inputs: expected 1 to {limits.tasks} tasks a request, received {tasks}; ask in parts")
    return arrays | images.pixels(files, pictures, tasks, limits.body_bytes), values.get("params")


def _params(params: Any, model: Adaptable, limits: Limits) -> tuple[int, float]:
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise ValueError(f"params: expected an object, received {_called(params)}")
    _require_names("params", params, ("inner_steps", "inner_lr"))
    steps, lr = params.get("inner_steps", model.inner_steps), params.get("inner_lr", model.inner_lr)
    if type(steps) is not int:
        raise ValueError(f"params.inner_steps: expected a whole number, received {_called(steps)}")
    if not 0 <= steps <= limits.steps:
        raise ValueError(f"params.inner_steps: expected 0 to {limits.steps}, received {_shown(steps)}")
    if type(lr) not in (int, float):
        raise ValueError(f"params.inner_lr: expected a number, received {_called(lr)}")
    try:
        return steps, float(lr)
    except OverflowError:
        raise ValueError("params.inner_lr: expected a finite number, received a larger one") from None


def _array(field: Field, value: Any) -> NDArray[Any]:
    """Nested lists as an array: level by level, since numpy would take words, None and truth for numbers too."""
    shape, level = [], [value]
    for _ in field.shape:
        if other := set(map(type, level)) - {list}:
            raise ValueError(f"{field}: expected lists {len(field.shape)} deep, received {_named(other)} among them")
        sizes = set(map(len, level))
        if len(sizes) > 1:
            raise ValueError(f"{field}: expected lists of equal lengths, received lengths {sorted(sizes)[:5]}")
        shape.append(sizes.pop() if sizes else 0)
        level = list(chain.from_iterable(level))
    kind = np.dtype(field.dtype).kind
    types, words = KINDS[kind]
    if other := set(map(type, level)) - types:
        raise ValueError(f"{field}: expected {words}, received {_named(other)} among them")
    try:
        return np.array(level, dtype=field.dtype).reshape(shape)
    except OverflowError:
        raise ValueError(f"{field}: expected {words} that {field.dtype} holds, received others among them") from None


def _require_names(where: str, received: Mapping[str, Any], names: tuple[str, ...]) -> None:
    other = [name for name in received if name not in names]
    if other:
        raise ValueError(f"{where}: expected {', '.join(names)}, received {_shown(other[0])} too")


JSON_NAMES = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


def _called(value: Any) -> str:
    return JSON_NAMES.get(type(value), "a number")


def _named(types: set[type]) -> str:
    return ", ".join(sorted(JSON_NAMES.get(one, "fractions" if one is float else "a number") for one in types))


def _shown(value: Any) -> str:
    """A value as JSON, cut short."""
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 10**50 else "a larger one"
    return text if len(text) <= 60 else f"{text[:60]}…"


def _listed(fields: tuple[Field, ...]) -> str:
    return ", ".join(map(str, fields))

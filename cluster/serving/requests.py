"""From the body of a request to checked arrays; an error names the field.

A body is JSON as MLflow's servers take it, an archive of arrays (:mod:`cluster.serving.archives`), or a form of image
files with the rest as JSON (:mod:`cluster.serving.images`).
"""

import json
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from cluster.config.problems import problems
from cluster.registry.adapting import Adaptable
from cluster.registry.fields import Field
from cluster.serving import archives, images
from cluster.serving.bodies import Params, asked_of
from cluster.serving.forms import MULTIPART, NPZ, media_type, require_form
from cluster.serving.limits import Limits, Refused
from cluster.serving.lists import parsed
from cluster.serving.memory import reading_bytes as json_bytes


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
            arrays, params = _checked(parsed(body, "body"), model.inputs, model, limits)
        if (tasks := max(map(len, arrays.values()), default=0)) > limits.tasks:
            raise ValueError(f"inputs: expected at most {limits.tasks} tasks a request, received {tasks}; ask in parts")
        steps, lr = params.inner_steps, params.inner_lr
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


Contents = tuple[dict[str, NDArray[Any]], Params]


def _checked(content: Any, fields: tuple[Field, ...], model: Adaptable, limits: Limits) -> Contents:
    """Some fields' arrays, and parameters, from JSON of the form ``{"inputs": {…}, "params": {…}}``, MLflow's."""
    kind = asked_of(fields, model.inner_steps, model.inner_lr, limits)
    try:
        asked = kind.model_validate(content)
    except ValidationError as error:
        lines = [f"body{line}" if line.startswith(":") else line for line in problems(error, kind, shown=_shown)]
        if any(not line.startswith("params.") for line in lines):
            lines.append(f"inputs are {', '.join(map(str, model.inputs))}")
        raise ValueError("; ".join(lines)) from error
    return vars(asked.inputs), asked.params or Params(inner_steps=model.inner_steps, inner_lr=model.inner_lr)


def _from_archive(body: bytes, model: Adaptable, limits: Limits) -> Contents:
    """Arrays of the fields' names; ``inner_steps`` and ``inner_lr`` beside them."""
    arrays = archives.unpacked(body, model.inputs, limits.body_bytes)
    params = {name: arrays.pop(name).item() for name in archives.SCALARS if name in arrays}
    named = {field.name: field for field in model.inputs}
    arrays = {name: archives.in_range(named[name], array) for name, array in arrays.items()}
    return arrays, _checked({"inputs": {}, "params": params}, (), model, limits)[1]


def _from_form(body: bytes, content_type: str, model: Adaptable, limits: Limits) -> Contents:
    """Image files under the names of the fields that are images, in order; the other fields and ``params`` in JSON."""
    files = model.images
    assert files is not None  # else the media type was refused
    form = images.parts(body, content_type)
    pictures = {name: form.pop(name) for name in files.names if name in form}
    if twice := next((name for name, parts in form.items() if len(parts) > 1), None):
        raise ValueError(f"{twice}: expected one part of this name, received {len(form[twice])}")
    inputs = {name: parts[0] for name, parts in form.items()}
    content = {"params": parsed(inputs.pop("params", b"null"), "params"), "inputs": inputs}
    others = tuple(field for field in model.inputs if field.name not in files.names)
    arrays, params = _checked(content, others, model, limits)
    tasks = images.tasks_of(files, model.inputs, arrays)
    if not 1 <= tasks <= limits.tasks:
        raise ValueError(f"inputs: expected 1 to {limits.tasks} tasks a request, received {tasks}; ask in parts")
    return arrays | images.pixels(files, pictures, tasks, limits.body_bytes), params


def _shown(value: Any) -> str:
    """A value as JSON, cut short; of a list or an object, that it is one."""
    if isinstance(value, dict | list | bytes):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:60]}…"

"""From the body of a request to checked arrays. Whatever is wrong with it is said, by the name of the field."""

import json
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cluster.registry.adapting import Adaptable
from cluster.registry.fields import Field
from cluster.serving.limits import Limits, Refused

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


def read(body: bytes, model: Adaptable, limits: Limits) -> Question:
    """The question in a body of the form ``{"inputs": {…}, "params": {…}}``, MLflow's.

    Raises:
        Refused: with status 400 and the reason, if there is none.
    """
    try:
        return _question(_parsed(body), model, limits)
    except ValueError as error:
        raise Refused(400, str(error)) from error


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("body: expected JSON, received brackets nested too deep") from None
    except ValueError as error:  # letters that are no UTF-8 and integers of thousands of digits too
        raise ValueError(f"body: expected JSON, received something else: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, each name once: of two values one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"expected each name once, received {_shown(twice)} twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON; expected finite numbers")


def _question(parsed: Any, model: Adaptable, limits: Limits) -> Question:
    if not isinstance(parsed, dict):
        raise ValueError(f'body: expected {{"inputs": {{…}}, "params": {{…}}}}, received {_called(parsed)}')
    _require_names("body", parsed, ("inputs", "params"))
    given = parsed.get("inputs")
    if not isinstance(given, dict):
        raise ValueError(f"inputs: expected an object of {_listed(model.inputs)}, received {_called(given)}")
    _require_names("inputs", given, tuple(field.name for field in model.inputs))
    steps, lr = _params(parsed.get("params"), model, limits)
    arrays = {field.name: _array(field, given[field.name]) for field in model.inputs if field.name in given}
    if (tasks := max(map(len, arrays.values()), default=0)) > limits.tasks:
        raise ValueError(f"inputs: expected at most {limits.tasks} tasks a request, received {tasks}; ask in parts")
    return Question(arrays=model.check(arrays, steps, lr), inner_steps=steps, inner_lr=lr)


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


def _require_names(where: str, given: dict[str, Any], names: tuple[str, ...]) -> None:
    other = [name for name in given if name not in names]
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

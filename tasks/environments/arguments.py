"""Arguments of an environment's constructor: their names and types, and checks of the values that a task gives them."""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import gymnasium
from gymnasium.envs.registration import load_env_creator

OF_MAKE = "max_episode_steps"  # an argument of gymnasium.make that every environment has
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Arguments:
    """The arguments that a constructor takes.

    Attributes:
        names: all of them, if no others are accepted; None: any name may be one.
        types: ``bool``, ``int``, ``float`` or ``str`` by name, where annotation or default tell.
    """

    names: tuple[str, ...] | None
    types: Mapping[str, type]

    def require_names(self, key: str, names: Iterable[str]) -> None:
        """Checks that names are arguments of the constructor.

        Args:
            key: section of the configuration, for the message.
            names: names of its keys.

        Raises:
            ValueError: naming the first that is none, and the nearest that is one.
        """
        for name in names:
            if self.names is not None and name not in self.names:
                close = difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise ValueError(
                    f"{key}.{name}: expected an argument of the environment, one of {', '.join(self.names)}{hint}"
                )


ANY = Arguments(None, {})


def arguments_of(identifier: str) -> Arguments:
    """Returns the arguments of the constructor of a registered environment.

    Types are those of annotations, of a default that is a boolean, a text or a real number; whole numbers as defaults
    say nothing. Of an identifier that is unknown, or whose module cannot be imported, nothing is known.

    Args:
        identifier: gymnasium's name of the environment, ``my_module:MyEnv-v0`` to import the module first.
    """
    module, colon, name = identifier.rpartition(":")
    try:
        if colon:
            importlib.import_module(module)
        registered = gymnasium.spec(name)
        entry: Any = registered.entry_point
        maker: Any = load_env_creator(entry) if isinstance(entry, str) else entry
        hints = get_type_hints(maker.__init__ if inspect.isclass(maker) else maker)
        parameters = inspect.signature(maker).parameters
    except Exception:  # whatever the import of a user's module raises; making the environment says it better
        return ANY
    kinds = {one.kind for one in parameters.values()}
    closed = inspect.Parameter.VAR_KEYWORD not in kinds
    defaults = {name: one.default for name, one in parameters.items()} | registered.kwargs
    types = {}
    for argument, default in defaults.items():
        hint = _plain(hints[argument]) if argument in hints else type(default)
        if hint in WORDS and (argument in hints or hint is not int):
            types[argument] = hint
    return Arguments((*parameters, OF_MAKE) if closed else None, types)


def _plain(hint: Any) -> Any:
    """The type of a value that may also be None."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else hint
    return hint


def require_type(key: str, expected: type | None, value: Any) -> None:
    """Checks that a value fits the type of an environment's argument; nothing is converted.

    Args:
        key: the configuration's key, for the message.
        expected: ``bool``, ``int``, ``float``, ``str``, or None if it is not known.
        value: the value to check; None fits every type.

    Raises:
        ValueError: such as for a text or a boolean for a number, or a real number for a whole one.
    """
    if expected is None or value is None:
        return
    kinds: dict[type, Any] = {bool: bool, int: Integral, float: Real, str: str}
    kind = kinds.get(expected, object)
    if not isinstance(value, kind) or (expected in (int, float) and isinstance(value, bool)):
        raise ValueError(f"{key}: expected {WORDS[expected]} for this argument of the environment, received {value!r}")

"""Programs recorded once, as flat lists of tensor operations, and replayed without the transforms' own cost."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from meta.context import FIXED, Context
from meta.engine.memory import peak_bytes
from meta.engine.simplify import direct, record
from meta.episode import Episode, from_leaves, input_names, leaves, signature
from meta.params import Params


class Recorded:
    """Recorded programs, one per purpose and shapes."""

    def __init__(self) -> None:
        self._programs: dict[Any, Program] = {}

    def tasks(
        self,
        what: Any,
        function: Callable[..., Any],
        params: Params,
        episodes: Episode,
        memory: int,
        context: Context = FIXED,
    ) -> int:
        """Returns how many tasks at a time ``function`` can compute within ``memory``; at least one.

        Args:
            what: hashable label of the computation; calls with equal labels must compute the same function.
            function: (θ, episodes, context) -> tensors, without side effects.
            params: θ.
            episodes: a batch of tasks, [T, ...].
            memory: bytes for the tensors between inputs and results.
            context: whose numbers are inputs of the program.
        """
        count = len(episodes.description)
        need = self._program(what, function, params, episodes, context).peak_bytes
        return max(1, min(count, count * memory // max(need, 1)))

    def run(
        self, what: Any, function: Callable[..., Any], params: Params, episodes: Episode, context: Context = FIXED
    ) -> Any:
        """Returns ``function(params, episodes, context)``, recorded at its first call for these shapes.

        Args:
            what: hashable label of the computation; calls with equal labels must compute the same function.
            function: (θ, episodes, context) -> tensors, without side effects.
            params: θ.
            episodes: a batch of tasks, [T, ...].
            context: whose numbers are inputs of the program.
        """
        return self._program(what, function, params, episodes, context)(params, episodes, context)

    def _program(
        self, what: Any, function: Callable[..., Any], params: Params, episodes: Episode, context: Context
    ) -> "Program":
        key = (what, context.key, signature(episodes))
        if key not in self._programs:
            self._programs[key] = Program(function, params, episodes, context)
        return self._programs[key]


class Program:
    """One recorded program, stored as a function of flat lists of tensors to avoid traversing containers at replay.

    Attributes:
        peak_bytes: most bytes of tensors alive at once, without the inputs.
    """

    def __init__(
        self, function: Callable[..., Any], params: Params, episodes: Episode, context: Context = FIXED
    ) -> None:
        """Records ``function(params, episodes, context)`` for tensors of these shapes."""
        self._names = tuple(params)
        parts, names = (len(params), len(params) + len(context.numbers)), input_names(episodes)
        self._outputs: Any = None

        def flat(*tensors: Tensor) -> list[Tensor]:
            params = dict(zip(self._names, tensors[: parts[0]], strict=True))
            numbers = context.replaced(tensors[parts[0] : parts[1]])
            episodes = from_leaves(tensors[parts[1] :], names)
            outputs, self._outputs = tree_flatten(function(params, episodes, numbers))
            return outputs

        program = record(flat, self._flat(params, episodes, context))
        self.peak_bytes = peak_bytes(program)
        self._run = direct(program).forward

    def _flat(self, params: Params, episodes: Episode, context: Context) -> list[Tensor]:
        return [*(params[name] for name in self._names), *context.numbers.values(), *leaves(episodes)]

    def __call__(self, params: Params, episodes: Episode, context: Context = FIXED) -> Any:
        """Returns the outputs of the program for tensors of the recorded shapes."""
        with torch.inference_mode():  # the derivative is part of the program; nothing else is to be recorded
            return tree_unflatten(self._run(*self._flat(params, episodes, context)), self._outputs)

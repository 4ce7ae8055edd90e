"""The strategy ``native``: each task by a program in C++, made for the model and the shapes at hand."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from meta.algorithms import Algorithm, gradient_of
from meta.context import FIXED, Context
from meta.engine.native.ir import Unsupported
from meta.engine.native.program import Program, translated
from meta.engine.native.toolchain import compiler
from meta.episode import Episode, signature, unstack
from meta.params import Params


class Native:
    """The batch functions of an algorithm by compiled programs, one for each shape of a task."""

    def __init__(self, algorithm: Algorithm, threads: int) -> None:
        """Compile nothing yet."""
        self._algorithm = algorithm
        self._threads = threads
        self._programs: dict[Any, Program] = {}

    def gradient(self, params: Params, episodes: Episode, context: Context = FIXED) -> tuple[Params, dict[str, Tensor]]:
        """The summed meta-gradient and the metrics of each task."""
        function = gradient_of(self._algorithm)
        result: tuple[Params, dict[str, Tensor]] = self._program("gradient", function, True, params, episodes, context)
        return result

    def scores(self, params: Params, episodes: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        """The query scores of each task, [T, K]."""

        def one(params: Params, episode: Episode, context: Context) -> Tensor:
            return self._algorithm.scores(params, episode, steps, context)

        result: Tensor = self._program(steps, one, False, params, episodes, context)
        return result

    def _program(
        self,
        what: Any,
        function: Callable[..., Any],
        adds: bool,
        params: Params,
        episodes: Episode,
        context: Context,
    ) -> Any:
        # Without the number of tasks: a program loops over as many as there are.
        key = (what, context.key, signature(unstack(episodes)))
        if key not in self._programs:
            try:
                self._programs[key] = Program(function, params, episodes, context, adds=adds, threads=self._threads)
            except Unsupported as error:
                raise type(error)(
                    f"engine native cannot run this: {error}; choose engine=trace or engine=loop"
                ) from error
        return self._programs[key](params, episodes, context)


def native_memory(algorithm: Algorithm, params: Params, episodes: Episode, context: Context = FIXED) -> int:
    """Bytes that one thread's meta-gradient computes in, found by translating it, without compiling.

    Raises:
        Unsupported: saying why there can be no program.
    """
    device = next(iter(params.values())).device
    if device.type != "cpu":
        raise Unsupported(f"tensors on {device.type}")
    compiler()
    return translated(gradient_of(algorithm), params, episodes, context, adds=True).memory

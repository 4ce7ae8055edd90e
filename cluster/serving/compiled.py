"""Compiled programs for kinds of request that come often, made in the background while others are answered.

torch computes a small task's convolutions in some two and a half times the processor time of a compiled program
(:mod:`meta.engine.native`). To compile one takes seconds. It is done once a kind has taken as long to compute as that,
so that it costs at most as much again as it would have saved; where it cannot be done, everything goes on as before.
"""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from cluster.registry.adapting import InnerLoop, Run
from meta.context import Context
from meta.engine.native.program import Program
from meta.episode import Episode, Examples
from meta.inputs import parts
from meta.params import Params

logger = logging.getLogger(__name__)

DUE = (
    5.0  # seconds of computing after which a kind is compiled; to compile Conv4 with 3 inner steps takes about as long
)
STEPS = 10  # inner steps of a program at most: all are written out, and a program is not broken off between them
KINDS = 256  # whose time is counted
PROGRAMS = 16  # that are kept
ALIKE = 0.01  # that outputs may differ from torch's by, relative to the largest

OneTask = Callable[[Params, Any], Tensor]


@dataclass
class _Kind:
    """Time that requests of one kind took, and their program once there is one."""

    seconds: float = 0.0
    tasks: int = 0
    requested: bool = False
    program: "_Compiled | None" = None


@dataclass
class _Compiled:
    """A program, with memory of its own for each thread that runs it."""

    program: Program
    threads: threading.local = field(default_factory=threading.local)

    def __call__(self, params: Params, tasks: Any, proceed: Callable[[], None]) -> Tensor:
        """Outputs [T, …], one task after another."""
        if not hasattr(self.threads, "program"):
            self.threads.program = self.program.fork()
        rows = []
        for number in range(len(tree_leaves(tasks)[0])):
            proceed()
            one = tree_map(lambda leaf, n=number: leaf[n : n + 1], tasks)
            rows.append(self.threads.program(params, _episode(params, one)))
        return torch.cat(rows)


class Compiler:
    """Compiles what takes long, one program at a time, in a thread of low priority. For several threads."""

    def __init__(self, due: float = DUE) -> None:
        """Compile nothing yet; a kind that has been computed for ``due`` seconds is compiled."""
        self._kinds: OrderedDict[Any, _Kind] = OrderedDict()
        self._lock, self._due = threading.Lock(), due
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="compile", initializer=_low_priority)

    @property
    def programs(self) -> int:
        """Programs there are."""
        with self._lock:
            return sum(kind.program is not None for kind in self._kinds.values())

    def expect(self, other: "Compiler") -> None:
        """Take over how long each kind took that another compiled, so that it is due at once."""
        with other._lock:
            known = {key: kind for key, kind in other._kinds.items() if kind.program is not None}
        with self._lock:
            for key, kind in known.items():
                self._kinds[key] = _Kind(kind.seconds, kind.tasks)

    def settle(self, seconds: float) -> bool:
        """Wait until all that is due has been compiled; whether it has been in time."""
        try:
            self._worker.submit(lambda: None).result(seconds)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Begin no more programs. One that is being compiled is not waited for."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def run(
        self,
        what: Any,
        function: OneTask,
        params: Params,
        tasks: Any,
        otherwise: Callable[[], Tensor],
        proceed: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """``function(params, one task)`` for each of ``tasks``, outputs stacked.

        Args:
            what: tells functions apart.
            function: of tensors, the same for every task.
            params: what all tasks share.
            tasks: tensors [T, …], or tuples of them.
            otherwise: computes the same with torch.
            proceed: called before each task; what it raises ends the work.
        """
        kind = self._kind((what, tuple((leaf.shape[1:], leaf.dtype) for leaf in tree_leaves(tasks))))
        if kind.program is not None:
            return kind.program(params, tasks, proceed)
        began = time.thread_time()
        outputs = otherwise()
        with self._lock:
            kind.seconds += time.thread_time() - began
            kind.tasks += len(outputs)
            due = kind.seconds >= self._due and not kind.requested and bool(outputs[:1].isfinite().all())
            kind.requested = kind.requested or due
        if due:
            one = tree_map(lambda leaf: leaf[:1].clone(), tasks)
            self._worker.submit(self._compile, kind, function, params, one, outputs[:1].clone())
        return outputs

    def _kind(self, key: Any) -> _Kind:
        with self._lock:
            kind = self._kinds.setdefault(key, _Kind())
            self._kinds.move_to_end(key)
            compiled = [key for key, one in self._kinds.items() if one.program is not None]
            if len(compiled) > PROGRAMS:
                del self._kinds[compiled[0]]
            if len(self._kinds) > KINDS:
                self._kinds.popitem(last=False)
            return kind

    def _compile(self, kind: _Kind, function: OneTask, params: Params, task: Any, expected: Tensor) -> None:
        try:
            kind.program = self._compiled(kind, function, params, task, expected)
        except Exception as error:  # whatever a compiler, a disk or a program does: torch computes the same
            logger.warning("requests of one kind go on without a compiled program: %s", error)

    def _compiled(
        self, kind: _Kind, function: OneTask, params: Params, task: Any, expected: Tensor
    ) -> _Compiled | None:
        _, structure = tree_flatten(task)
        reals = {leaf.dtype for leaf in (*tree_leaves(task), *params.values()) if leaf.is_floating_point()}
        if len(reals) != 1:
            return None

        def of_episode(params: Params, episode: Episode, context: Context) -> Tensor:
            del context  # its numbers come with the parameters
            return function(params, tree_unflatten(parts(episode.support.inputs), structure))

        episode = _episode(params, task)
        with torch.no_grad():
            program = Program(of_episode, params, episode, adds=False)
        outputs = program(params, episode)
        off = float((outputs - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
        if not off <= ALIKE:
            logger.warning("a compiled program was %.2g off torch's outputs and is not used", off)
            return None
        began = time.thread_time()
        program(params, episode)
        return _Compiled(program) if time.thread_time() - began < kind.seconds / kind.tasks else None


class Compiling:
    """Runs of programs (:class:`cluster.registry.adapting.Run`), compiled where that pays."""

    def __init__(self, programs: Run, compiler: Compiler, proceed: Callable[[], None] = lambda: None) -> None:
        """Wrap ``programs``; ``proceed`` is called before each task, and what it raises ends the work."""
        self._programs, self._compiler, self.proceed = programs, compiler, proceed

    def __call__(self, what: Any, function: Callable[[Params, Any], Any], params: Params, tasks: Any) -> Any:
        """``function(params, one task)`` for each of ``tasks`` [T, …], outputs stacked; not compiled."""
        return self._programs(what, function, params, tasks)

    def adapt(self, what: Any, path: InnerLoop, params: Params, tasks: Any, steps: int) -> Any:
        """Outputs [T, …] after ``steps`` inner steps, all of a task in one compiled program.

        Args:
            what: tells functions apart that a program could be kept for.
            path: one inner step, and the outputs.
            params: θ by name.
            tasks: pairs (support, queries) of tensors [T, …], or of tuples of them.
            steps: inner steps.
        """
        otherwise = partial(self._programs.adapt, what, path, params, tasks, steps)
        if steps > STEPS:
            return otherwise()

        def whole(params: Params, task: Any) -> Tensor:
            for _ in range(steps):
                params = path.step(params, task[0])
            return path.outputs(params, task)

        return self._compiler.run((what, steps), whole, params, tasks, otherwise, self.proceed)


def _episode(params: Params, tasks: Any) -> Episode:
    """The tensors of tasks as programs take them: by number in place of a support's inputs, zeros elsewhere."""
    tensors = tree_leaves(tasks)
    blank = next(iter(params.values())).new_zeros(len(tensors[0]), 1)
    numbered = {f"{number:03}": tensor for number, tensor in enumerate(tensors)}
    return Episode(Examples(numbered, blank), Examples(dict.fromkeys(numbered, blank), blank), blank)


def _low_priority() -> None:
    """Let the requests go first; the compiler's process inherits it."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)

"""Questions that wait at the same time are answered together: no question waits for others to come."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.errors import MetarayError
from cluster.registry.adapting import Adaptable, require_finite
from cluster.serving.compiled import Compiler, Compiling
from cluster.serving.estimates import NOTHING, Need
from cluster.serving.limits import Refused
from cluster.serving.memory import Memory
from cluster.serving.programs import CHUNK, PROGRAM_BYTES, Programs, Watched
from cluster.serving.requests import Question

logger = logging.getLogger(__name__)

UNBOUNDED = 2**62  # bytes, for whoever sets no limit


class Answer(Future[NDArray[Any]]):
    """Predictions to come.

    Attributes:
        is_dropped: nobody waits for it any more.
    """

    is_dropped = False


class Dropped(Exception):  # noqa: N818 - nobody hears of it
    """Work is broken off since nobody waits for it."""


class _Waiting(NamedTuple):
    question: Question
    answer: Answer
    need: Need


class Batcher:
    """Threads that adapt, each with one thread of torch's: whichever is free takes its share of what waits.

    It takes the question that waits longest, and with it others of its kind: as many tasks as :data:`CHUNK` at most,
    and no more than its share, so that no other thread is idle meanwhile. Memory is held before a batch is computed;
    where it is scarce, fewer tasks are computed at a time.
    """

    def __init__(
        self,
        model: Adaptable,
        threads: int,
        memory: Memory | None = None,
        noted: Callable[[int], object] = int,
    ) -> None:
        """Start the threads; ``noted`` is told the tasks of every batch."""
        self._noted = noted
        self._memory = memory or Memory(UNBOUNDED)
        self._share = self._memory.work.total // threads
        self._model, self._programs = model, Programs(min(PROGRAM_BYTES, self._share // 4))
        self._compiler = Compiler()
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"adapt-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether all threads are there."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Questions that wait to be computed."""
        return len(self._waiting)

    @property
    def compiled(self) -> int:
        """Kinds of question that a compiled program answers."""
        return self._compiler.programs

    def compile_as(self, other: "Batcher") -> None:
        """Compile at their first question the kinds that another has compiled."""
        self._compiler.expect(other._compiler)

    def settle(self, seconds: float) -> bool:
        """Wait until all that is due has been compiled; whether it has been in time."""
        return self._compiler.settle(seconds)

    def ask(self, question: Question, need: Need = NOTHING) -> Answer:
        """A future of the predictions [T, Q, …] for a question; it may be cancelled while it waits.

        The future raises :class:`Refused` if adaptation diverges.

        Args:
            question: checked arrays, inner steps and α.
            need: memory that the answer takes.
        """
        waiting = _Waiting(question, Answer(), need)
        with self._changed:
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.answer

    def drop(self, answer: Answer) -> bool:
        """Do not compute an answer, or break it off before its next inner step if all its neighbours are dropped too.

        Returns:
            Whether it had not been begun.
        """
        answer.is_dropped = True
        waited = answer.cancel()
        with self._changed:
            self._waiting = deque(one for one in self._waiting if one.answer is not answer)
        return waited

    def close(self) -> None:
        """Answer what waits still, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._compiler.close()

    def _work(self) -> None:
        torch.set_num_threads(1)
        while batch := self._next():
            self._answer(batch)

    def _next(self) -> list[_Waiting]:
        """Questions of one kind; none once all is done."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if batch := self._taken():
                    return batch
                if self._closed and not self._waiting:
                    return []

    def _taken(self) -> list[_Waiting]:
        if not self._waiting:
            return []
        kind = self._waiting[0].question.kind
        alike = [one for one in self._waiting if one.question.kind == kind]
        share = min(CHUNK, -(-sum(one.question.tasks for one in alike) // len(self._threads)))
        batch: list[_Waiting] = []
        tasks = 0
        for one in alike:
            more = tasks + one.question.tasks
            if batch and (more > share or one.need.work(more, 1) > self._share):
                break
            tasks += one.question.tasks
            batch.append(one)
        taken = set(map(id, batch))
        self._waiting = deque(one for one in self._waiting if id(one) not in taken)
        return [one for one in batch if one.answer.set_running_or_notify_cancel()]

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            split = self._predictions(batch)
        except Dropped as error:
            for one in batch:
                one.answer.set_exception(error)
            return
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(_refusal(error))
                return
            for one in batch:  # whoever is to blame, the others are not
                self._answer([one])
            return
        for one, predictions in zip(batch, split, strict=True):
            try:
                require_finite(predictions, one.question.inner_lr)
            except ValueError as error:
                one.answer.set_exception(Refused(400, str(error)))
            else:
                one.answer.set_result(predictions)

    def _predictions(self, batch: list[_Waiting]) -> list[NDArray[Any]]:
        def proceed() -> None:
            if all(one.answer.is_dropped for one in batch):
                raise Dropped

        first, tasks = batch[0].question, sum(one.question.tasks for one in batch)
        need = batch[0].need
        chunk = need.chunk(tasks, self._share)
        proceed()
        self._noted(tasks)
        with self._memory.work.held(need.work(tasks, chunk), proceed):
            arrays = {name: np.concatenate([one.question.arrays[name] for one in batch]) for name in first.arrays}
            run = Compiling(Watched(self._programs, proceed, chunk), self._compiler, proceed)
            predictions = self._model.adapted(arrays, first.inner_steps, first.inner_lr, run)
            return np.split(predictions, np.cumsum([one.question.tasks for one in batch])[:-1])


def _refusal(error: Exception) -> Exception:
    """A model's own complaint is for the caller; any other error is ours, and is logged."""
    if isinstance(error, ValueError | MetarayError):
        return Refused(400, str(error))
    logger.error("a question was not answered", exc_info=error)
    return Refused(500, f"expected predictions, received {type(error).__name__}; see the server's log")

"""A version of the model that is served, and its replacement by another without a lost answer."""

import threading
from dataclasses import dataclass
from typing import Any

from cluster.registry.adapting import Adaptable
from cluster.registry.fields import smallest
from cluster.serving.batching import Batcher
from cluster.serving.estimates import Estimates
from cluster.serving.limits import Limits, Refused
from cluster.serving.memory import Memory
from cluster.serving.metrics import Metrics
from cluster.serving.openapi import describe
from cluster.serving.programs import RECORDED_AT
from cluster.serving.reload import Source
from cluster.serving.requests import Question

REMEMBERED = 2**22  # bytes of a question that is kept to warm up another version with
WARM = 60.0  # seconds that warming up may take


@dataclass(frozen=True, kw_only=True)
class Described:
    """The model that is served, and its version.

    Attributes:
        name: of the registered model.
        version: of it.
        card: its description.
        model: the model itself.
        source: where other versions come from, if the version may change.
    """

    name: str
    version: int
    card: str
    model: Adaptable
    source: Source | None = None


class Live:
    """A version with its threads, for as long as requests use it.

    Attributes:
        served: what is served.
        batcher: adapts.
        estimates: what memory a question takes.
        description: by OpenAPI.
    """

    def __init__(self, served: Described, limits: Limits, threads: int, memory: Memory, metrics: Metrics) -> None:
        """Start the threads that adapt."""
        self.served = served
        self.estimates = Estimates(served.model, memory.work.total // threads)
        self.batcher = Batcher(served.model, threads, memory, metrics.batch)
        self.description = describe(served.model, served.name, served.version, limits)
        self._lock, self._users, self._is_retired = threading.Lock(), 0, False
        self._recent: Question | None = None

    def __enter__(self) -> "Live":
        """Use it: it ends only after its last user."""
        with self._lock:
            self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            last = self._is_retired and not self._users
        if last:
            self._end()

    def retire(self) -> None:
        """End once nobody uses it."""
        with self._lock:
            self._is_retired = True
            last = not self._users
        if last:
            self._end()

    def _end(self) -> None:
        threading.Thread(target=self.batcher.close, name="retire").start()  # it waits for what is computed still

    def remember(self, question: Question) -> None:
        """Keep a question that was answered, so that the next version can be tried with it."""
        if sum(array.nbytes for array in question.arrays.values()) <= REMEMBERED:
            self._recent = question

    def warm(self, before: "Live") -> None:
        """Answer a question as the version before was asked, until it is recorded and compiled.

        Raises:
            Exception: whatever the model raises for the smallest question that it takes.
        """
        model = self.served.model
        arrays = model.check(smallest(model.inputs, model.inner_steps), model.inner_steps, model.inner_lr)
        model.adapted(arrays, model.inner_steps, model.inner_lr)
        recent = before._recent
        if recent is None:
            return
        self.batcher.compile_as(before.batcher)
        try:
            arrays = model.check(recent.arrays, recent.inner_steps, recent.inner_lr)
            question = Question(arrays=arrays, inner_steps=recent.inner_steps, inner_lr=recent.inner_lr)
            need = self.estimates.of(question)
            for _ in range(RECORDED_AT + 1):
                self.batcher.ask(question, need).result(WARM)
            self.batcher.settle(WARM)
        except (Refused, ValueError):
            pass  # this version takes other questions, or diverges for this one
        self._recent = recent


def card_of(served: Described) -> dict[str, Any]:
    """The answer of ``/model`` about a version."""
    model = served.model
    return {
        "name": served.name,
        "version": served.version,
        "card": served.card,
        "inputs": [field._asdict() for field in model.inputs],
        "output": model.output._asdict(),
        "params": {"inner_steps": model.inner_steps, "inner_lr": model.inner_lr},
        "images": model.images._asdict() if model.images else None,
    }

"""The same questions in every form that a server reads, and how fast they are computed without any server."""

import io
import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import requests
import torch
from numpy.typing import NDArray
from PIL import Image

from cluster.errors import ConfigError
from cluster.registry.adapting import Adaptable
from cluster.registry.fields import ImageFiles
from cluster.serving.compiled import Compiler, Compiling
from cluster.serving.forms import JSON, NPZ
from cluster.serving.programs import Programs, Watched

FORMS = ("json", "npz", "png")
WARM = 5  # calls before any is timed: some are recorded
COMPILED = 120.0  # seconds in which a program has to be compiled


class Questions(NamedTuple):
    """Bodies of one form, and the headers that they are sent with."""

    form: str
    bodies: list[bytes]
    headers: dict[str, str]


def require_forms(forms: Sequence[str], images: ImageFiles | None) -> None:
    """Check that a model accepts requests of these forms.

    Args:
        forms: names of forms.
        images: the inputs that are images, None: none are.

    Raises:
        ConfigError: if not.
    """
    for form in forms:
        if form not in FORMS:
            raise ConfigError(f"--forms: expected forms among {', '.join(FORMS)}, received '{form}'")
        if form == "png" and images is None:
            raise ConfigError("--forms: expected json or npz, received 'png', and the model's inputs are no images")


def questions(form: str, tasks: Sequence[Mapping[str, NDArray[Any]]], images: ImageFiles | None) -> Questions:
    """Bodies that ask about one task each.

    Args:
        form: of :data:`FORMS`.
        tasks: arrays [1, …] by field.
        images: the model's fields of images.
    """
    if form == "json":
        bodies = [
            json.dumps({"inputs": {name: array.tolist() for name, array in task.items()}}).encode() for task in tasks
        ]
        return Questions(form, bodies, {"Content-Type": JSON})
    if form == "npz":
        return Questions(form, [_archive(task) for task in tasks], {"Content-Type": NPZ, "Accept": NPZ})
    assert images is not None
    sent = [_form(task, images) for task in tasks]
    return Questions(form, [body for body, _ in sent], {"Content-Type": sent[0][1], "Accept": NPZ})


def each(arrays: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
    """Arrays [T, …] by field, task by task, [1, …]."""
    count = len(next(iter(arrays.values())))
    return [{name: array[number : number + 1] for name, array in arrays.items()} for number in range(count)]


def _archive(task: Mapping[str, NDArray[Any]]) -> bytes:
    stream = io.BytesIO()
    arrays: Any = dict(task)
    np.savez(stream, **arrays)
    return stream.getvalue()


BOUNDARY = "the-same-for-all-bodies"


def _form(task: Mapping[str, NDArray[Any]], images: ImageFiles) -> tuple[bytes, str]:
    """Image files and JSON as ``requests`` sends them."""
    parts: list[tuple[str, tuple[str | None, bytes]]] = []
    for name, array in task.items():
        if name in images.names:
            parts += [(name, ("image.png", _png(pixels, images))) for pixels in array[0]]
        else:
            parts.append((name, (None, json.dumps(array.tolist()).encode())))
    body, kind = requests.models.RequestEncodingMixin._encode_files(parts, {})
    own = kind.partition("boundary=")[2]
    return body.replace(own.encode(), BOUNDARY.encode()), kind.replace(own, BOUNDARY)


def _png(pixels: NDArray[Any], images: ImageFiles) -> bytes:
    stream = io.BytesIO()
    shown = 255 - pixels if images.inverted else pixels
    Image.fromarray(shown[..., 0] if images.shape[2] == 1 else shown).save(stream, "PNG")
    return stream.getvalue()


def predictions(body: bytes, kind: str) -> NDArray[Any]:
    """The predictions in an answer.

    Args:
        body: of the answer.
        kind: its content type.
    """
    if kind == NPZ:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            predicted: NDArray[Any] = arrays["predictions"]
        return predicted
    return np.array(json.loads(body)["predictions"])


def bound(model: Adaptable, arrays: Mapping[str, NDArray[Any]], threads: int, seconds: float) -> dict[str, Any]:
    """Tasks per second that the engine adapts to by itself, one at a time in each thread: no server can do more.

    Args:
        model: what adapts.
        arrays: checked, [T, …]; the tasks are taken in turn.
        threads: threads, of one thread of torch's each.
        seconds: to measure for.
    """
    programs, compiler = Programs(), Compiler(due=0.0)
    tasks = [
        {name: array[n : n + 1] for name, array in arrays.items()} for n in range(len(next(iter(arrays.values()))))
    ]
    run = Compiling(Watched(programs), compiler)
    counts = [0] * threads

    def adapt(number: int) -> None:
        model.adapted(tasks[number % len(tasks)], model.inner_steps, model.inner_lr, run)

    for number in range(WARM):
        adapt(number)
    compiler.settle(COMPILED)
    until = time.perf_counter() + seconds

    def work(thread: int) -> None:
        torch.set_num_threads(1)
        while time.perf_counter() < until:
            adapt(thread + counts[thread] * threads)
            counts[thread] += 1

    spent, began = time.process_time(), time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    length, count = time.perf_counter() - began, max(sum(counts), 1)
    compiler.close()
    return {
        "requests_per_second": sum(counts) / length,
        "cpu_milliseconds": 1e3 * (time.process_time() - spent) / count,
        "requests": sum(counts),
        "compiled": compiler.programs > 0,
        "threads": threads,
    }

"""Which strategy a run uses: by a rule that looks at nothing measured in the run, or, if asked for, by a measurement.

Under the rule equal configurations run equal programs. The rule's numbers are in ``rule.json``, by kind of device;
``metaray bench --fit`` measures them anew and keeps the measurements under ``benchmarks/``.
"""

import json
import statistics
import time
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import torch

from meta.algorithms import Algorithm
from meta.engine import NONE, STRATEGIES, Limits, build
from meta.episode import Episode
from meta.native.ir import Unsupported
from meta.native.strategy import native_memory
from meta.params import Params


class Choice(NamedTuple):
    """A strategy, why it was chosen, and why others that would have come first were passed over.

    ``recompute`` tells whether inner steps are to be computed again in the backward pass, to save memory.
    """

    name: str
    reason: str
    passed_over: Mapping[str, str]
    recompute: bool = False


@cache
def rules() -> dict[str, dict[str, int]]:
    """The rule's numbers by kind of device.

    ``native_tasks``, ``native_convolution_tasks``
        From so many training tasks in the run on, compiling pays for models without and with convolutions.
    ``vectorised_images``
        Up to so many support and query images a task, convolutions are vectorised over tasks; above, grouped
        convolutions cost more than one call per task.
    """
    found: dict[str, dict[str, int]] = json.loads(
        resources.files("meta").joinpath("rule.json").read_text(encoding="utf-8")
    )
    return found


def choose(
    algorithm: Algorithm,
    params: Params,
    episodes: Episode,
    device: torch.device,
    tasks: int,
    limits: Limits = NONE,
) -> Choice:
    """The strategy for a run.

    Args:
        algorithm: what is computed.
        params: θ, for the shapes of its weights.
        episodes: a batch of training tasks, for the sizes of one.
        device: where it will run.
        tasks: training tasks of the whole run.
        limits: threads, and the memory above which inner steps are computed again.
    """
    if device.type != "cpu":
        return Choice("trace", f"vectorised over tasks on {device.type}", {})
    rule: Any = rules()["cpu"]
    convolves = any(value.dim() == 4 for value in params.values())
    images = episodes.support.inputs.shape[1] + episodes.query.inputs.shape[1]
    passed_over = {}
    least = rule["native_convolution_tasks" if convolves else "native_tasks"]
    if tasks < least:
        passed_over["native"] = f"compiling pays from {least} training tasks on, this run has {tasks}"
    else:
        try:
            need = limits.threads * native_memory(algorithm, params, episodes)
        except Unsupported as error:
            passed_over["native"] = str(error)
        else:
            recompute = limits.memory is not None and need > limits.memory
            reason = f"{tasks} training tasks pay for compiling; {need / 1e6:.0f} MB"
            return Choice("native", f"{reason}, over the limit" if recompute else reason, {}, recompute)
    if convolves and images > rule["vectorised_images"]:
        return Choice("loop", f"convolutions over {images} images a task", passed_over)
    return Choice("trace", "vectorised over tasks", passed_over)


ROUNDS = 5


def measure(algorithm: Algorithm, params: Params, episodes: Episode, limits: Limits = NONE) -> Choice:
    """The strategy that is fastest on a shard here and now; two runs may come to different ones, and to other bits.

    The strategies take turns, since the speed of a machine drifts; each is judged by its median.
    """
    engines, passed_over = {}, {}
    for name in STRATEGIES:
        engine = build(name, algorithm, limits)
        try:
            engine.meta_gradient(params, episodes)
        except (Unsupported, RuntimeError) as error:
            passed_over[name] = str(error)
        else:
            engines[name] = engine
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            began = time.perf_counter()
            _settled(engine.meta_gradient(params, episodes).gradient)
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(found) for name, found in times.items()}
    best = min(medians, key=medians.__getitem__)
    slower = {name: f"{1e3 * value:.2f} ms a shard" for name, value in medians.items() if name != best}
    return Choice(best, f"measured: {1e3 * medians[best]:.2f} ms a shard", slower | passed_over)


def _settled(gradient: Params) -> None:
    """Wait until it has been computed."""
    device = next(iter(gradient.values())).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)

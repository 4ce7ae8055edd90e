"""The choice of a run's strategy: by a fixed rule, or on request by measurement.

Under the rule equal configurations run equal programs. The rule's numbers are in ``rule.json``, by kind of device;
``metaray bench --fit`` measures them anew for this machine and keeps them in its cache folder.
"""

import json
import statistics
import time
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta.algorithms import Algorithm, context_of
from meta.context import FIXED, Context
from meta.engine.machine import cache_folder
from meta.engine.native.ir import Unsupported
from meta.engine.native.strategy import native_memory
from meta.engine.native.toolchain import NoCompiler, probe
from meta.engine.strategies import NONE, STRATEGIES, Engine, Limits, build
from meta.episode import Episode
from meta.inputs import parts
from meta.params import Params

RULE = "rule.json"  # in the cache folder, of this machine
NUMBERS = ("native_tasks", "native_convolution_tasks", "vectorised_images")


class Choice(NamedTuple):
    """A chosen strategy and the reasons.

    Attributes:
        name: the strategy, a key of :data:`meta.engine.strategies.STRATEGIES`.
        reason: why it was chosen.
        passed_over: why each strategy with precedence was not chosen, by name.
        recompute: whether inner steps are computed again in the backward pass, to save memory.
        warning: what this machine lacks for the strategy of highest precedence; None if nothing.
    """

    name: str
    reason: str
    passed_over: Mapping[str, str]
    recompute: bool = False
    warning: str | None = None


@cache
def rules() -> dict[str, dict[str, int]]:
    """The rule's numbers by kind of device: those shipped, or those that ``metaray bench --fit`` measured here.

    ``native_tasks``, ``native_convolution_tasks``
        From so many training tasks in the run on, compiling pays for models without and with convolutions; sequences,
        whose programs have as much to gain, count as the latter.
    ``vectorised_images``
        Up to so many support and query images a task, convolutions are vectorised over tasks; above, grouped
        convolutions cost more than one call per task.
    """
    numbers: dict[str, dict[str, int]] = json.loads(
        resources.files("meta").joinpath("rule.json").read_text(encoding="utf-8")
    )
    return numbers | _measured_here()


def _measured_here() -> dict[str, dict[str, int]]:
    """The numbers that were measured on this machine; none where there is no file of them, whole and readable."""
    try:
        numbers = json.loads((cache_folder() / RULE).read_text(encoding="utf-8"))
        return {"cpu": {name: int(numbers["cpu"][name]) for name in NUMBERS}}
    except (RuntimeError, OSError, ValueError, TypeError, KeyError):  # no home, no such folder or file, a damaged one
        return {}


def choose(
    algorithm: Algorithm,
    params: Params,
    episodes: Episode,
    device: torch.device,
    tasks: int,
    limits: Limits = NONE,
    tried_at: tuple[int, ...] | None = None,
) -> Choice:
    """Returns the strategy for a run.

    Args:
        algorithm: the algorithm to execute.
        params: θ, for the shapes of its weights.
        episodes: a batch of training tasks, for the sizes of one.
        device: where the run computes.
        tasks: training tasks of the whole run.
        limits: threads, and the bytes of memory above which inner steps are computed again.
        tried_at: numbers of inner steps. A strategy is then chosen only if it computes meta-gradient and scores of
            ``episodes``; needed for custom models and algorithms, which some strategies may not be able to run.

    Raises:
        ValueError: if no strategy computes them.
    """
    first, passed_over, warning = _in_order(algorithm, params, episodes, device, tasks, limits)
    for choice in first:
        try:
            if tried_at is not None:
                engine = build(choice.name, algorithm, limits)
                require_gradient(engine, params, episodes, _now(algorithm, params, 0))
                require_scores(engine, params, episodes, tried_at, _now(algorithm, params, None))
        except NoCompiler as error:
            passed_over[choice.name] = str(error)
            warning = fallen_back(choice.name, error)
        except Exception as error:  # whatever a user's model raises under a strategy's transforms
            if choice is first[-1]:
                raise ValueError(f"no engine runs this model and algorithm: {said(error)}") from error
            passed_over[choice.name] = said(error)
        else:
            return choice._replace(passed_over=passed_over, warning=warning)
    raise AssertionError("the last strategy needs no compiler")


def _in_order(
    algorithm: Algorithm, params: Params, episodes: Episode, device: torch.device, tasks: int, limits: Limits
) -> tuple[list[Choice], dict[str, str], str | None]:
    """The strategies that may run, the fastest first; why others are passed over; a warning if this machine is why."""
    slow = Choice("eager", "the model cannot be recorded", {})
    if device.type != "cpu":
        return [Choice("trace", f"vectorised over tasks on {device.type}", {}), slow], {}, None
    rule: Any = rules()["cpu"]
    convolves = any(value.dim() == 4 for value in params.values())
    images = sum(parts(half.inputs)[0].shape[1] for half in (episodes.support, episodes.query))
    compiled, passed_over, warning = [], {}, None
    large = convolves or any(map(_are_sequences, parts(episodes.support.inputs)))
    least = rule["native_convolution_tasks" if large else "native_tasks"]
    if tasks < least:
        passed_over["native"] = f"compiling pays from {least} training tasks on, this run has {tasks}"
    else:
        try:
            compiled.append(_native(algorithm, params, episodes, limits, f"{tasks} training tasks pay for compiling"))
        except NoCompiler as error:
            passed_over["native"], warning = str(error), fallen_back("native", error)
        except Exception as error:  # what has no translation, and what a user's model raises while it is recorded
            passed_over["native"] = said(error)
    loop = Choice("loop", f"convolutions over {images} images a task", {})
    if convolves and images > rule["vectorised_images"]:
        return [*compiled, loop, slow], passed_over, warning
    loop = loop._replace(reason="one task after another, since the model does not vectorise over tasks")
    return [*compiled, Choice("trace", "vectorised over tasks", {}), loop, slow], passed_over, warning


def _are_sequences(inputs: Tensor) -> bool:
    """Whether examples are tokens, or several steps of several numbers: inputs are [T, B, L] or [T, B, L, F]."""
    return inputs.dim() == 4 or (inputs.dim() == 3 and not inputs.is_floating_point())


def choose_for_policies(
    algorithm: Algorithm, params: Params, episode: Episode, device: torch.device, limits: Limits = NONE
) -> Choice:
    """Returns the strategy for meta-gradients of policies: compiled where the estimators allow it, else task by task.

    Args:
        algorithm: whose meta-gradients are computed.
        params: θ, for the shapes of its weights.
        episode: one task's rollouts, [1, ...], for their sizes.
        device: where it will run.
        limits: threads, and the memory above which inner steps are computed again.
    """
    if device.type != "cpu":
        return Choice("trace", f"vectorised over tasks on {device.type}", {})
    rows = episode.query.tensor.shape[1]
    passed_over = {"trace": f"{rows} rows a task leave nothing to gain by vectorising over tasks"}
    try:
        native = _native(algorithm, params, episode, limits, "compiled")
    except Unsupported as error:
        warning = fallen_back("native", error) if isinstance(error, NoCompiler) else None
        return Choice("loop", "one task after another", passed_over | {"native": str(error)}, warning=warning)
    return native._replace(passed_over=passed_over)


def _native(algorithm: Algorithm, params: Params, episodes: Episode, limits: Limits, why: str) -> Choice:
    """Returns the compiled strategy; inner steps are computed again if they need more memory than the limit.

    Raises:
        NoCompiler: if this machine cannot compile.
        Unsupported: if the algorithm has no translation.
    """
    probe()
    need = limits.threads * native_memory(algorithm, params, episodes, _now(algorithm, params, 0))
    recompute = limits.memory is not None and need > limits.memory
    reason = f"{why}; {need / 1e6:.0f} MB" + (", over the limit" if recompute else "")
    return Choice("native", reason, {}, recompute)


def fallen_back(engine: str, error: Exception) -> str:
    """Returns the warning that a slower strategy runs in place of ``engine``.

    Args:
        engine: the strategy that was passed over.
        error: why it was.
    """
    return f"engine {engine} was passed over, a slower one runs: {error}"


def require_gradient(engine: Engine, params: Params, episodes: Episode, context: Context = FIXED) -> None:
    """Computes a meta-gradient and checks the shapes of gradient and metrics.

    Args:
        engine: the engine to check.
        params: θ.
        episodes: a batch of tasks, [T, ...].
        context: the scheduled numbers.

    Raises:
        ValueError: if a gradient's shape is not its parameter's, or a metric's is not [T].
    """
    gradient, metrics = engine.meta_gradient(params, episodes, context)
    for name, value in params.items():
        if gradient[name].shape != value.shape:
            received = tuple(gradient[name].shape)
            raise ValueError(f"expected a gradient of shape {tuple(value.shape)} for {name}, received {received}")
    for name, metric in metrics.items():
        if metric.shape != episodes.description.shape[:1]:
            raise ValueError(
                f"metric '{name}': expected a scalar of each task, received shape {tuple(metric.shape[1:])}; report "
                "means"
            )


def require_scores(
    engine: Engine, params: Params, episodes: Episode, steps: tuple[int, ...], context: Context = FIXED
) -> None:
    """Computes scores and checks that their shape is [T, K].

    Args:
        engine: the engine to check.
        params: θ.
        episodes: a batch of tasks, [T, ...].
        steps: K numbers of inner steps.
        context: the scheduled numbers.

    Raises:
        ValueError: if the shape is another.
    """
    scores = engine.scores(params, episodes, steps, context)
    if scores.shape != (len(episodes.description), len(steps)):
        raise ValueError(
            f"scores: expected {len(steps)} numbers, one for each number of inner steps in {steps}, received shape "
            f"{tuple(scores.shape[1:])}"
        )


def said(error: Exception) -> str:
    """Returns type and first line of an error, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


ROUNDS = 5


def measure(algorithm: Algorithm, params: Params, episodes: Episode, limits: Limits = NONE) -> Choice:
    """Returns the strategy that is fastest on a shard on this machine.

    Two measurements may choose different strategies, and so give other bits. The strategies run in turn, since a
    machine's speed drifts; each is judged by its median.

    Args:
        algorithm: the algorithm to execute.
        params: θ.
        episodes: one shard, [T, ...].
        limits: threads and memory.
    """
    engines: dict[str, Engine] = {}
    passed_over: dict[str, str] = {}
    now = _now(algorithm, params, 0)
    for name in STRATEGIES:
        if name == "eager" and engines:
            continue  # any other is faster
        engine = build(name, algorithm, limits)
        try:
            engine.meta_gradient(params, episodes, now)
        except (Unsupported, RuntimeError) as error:
            passed_over[name] = str(error)
        else:
            engines[name] = engine
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            began = time.perf_counter()
            _settled(engine.meta_gradient(params, episodes, now).gradient)
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    best = min(medians, key=medians.__getitem__)
    slower = {name: f"{1e3 * value:.2f} ms a shard" for name, value in medians.items() if name != best}
    return Choice(best, f"measured: {1e3 * medians[best]:.2f} ms a shard", slower | passed_over)


def _now(algorithm: Algorithm, params: Params, step: int | None) -> Context:
    """Returns the context of an outer step, None being after training."""
    example = next(iter(params.values()))
    return context_of(algorithm, step, example.dtype, example.device)


def _settled(gradient: Params) -> None:
    """Waits until the gradient has been computed."""
    device = next(iter(gradient.values())).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""Public checkers of a method's parts: run them on an algorithm, an inner rule or a model of your own before training.

Those of task families and environments stand beside their contracts, in :mod:`tasks.checker` and
:mod:`tasks.environments.checker`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from meta.algorithms.base import Algorithm, context_of
from meta.engine.choice import said
from meta.engine.strategies import STRATEGIES, Limits, build
from meta.episode import Episode, unstack
from meta.inner.rules import InnerRule
from meta.inputs import length, parts
from meta.params import Params

REAL = torch.float64
TOLERANCE = 1e-6  # of the largest entry, in float64


class ContractError(ValueError):
    """A part breaks its contract; the message says where and how to correct it."""


def check_algorithm(algorithm: Algorithm, episodes: Episode, *, seed: int = 0) -> None:
    """Checks that a meta-learning algorithm keeps its contract (:class:`meta.algorithms.Algorithm`).

    θ comes from the given generator alone; the numbers of a context are finite and a function of the step; the
    meta-loss is a finite scalar, its metrics are scalars, and both repeat to the bit; the gradient is finite and not
    zero everywhere; all of it vectorises over tasks, to the sum of the tasks' own gradients; scores after fewer inner
    steps are those of a shorter loop; a task without inner steps can be predicted; predictions repeat.

    Args:
        algorithm: the algorithm to check.
        episodes: two tasks or more, [T, ...], of the family that it is meant for, in float64.
        seed: of θ.

    Raises:
        ContractError: at the first violation.

    >>> from meta.algorithms import MAML
    >>> from meta.episode import Examples
    >>> from meta.inner import Inner
    >>> from meta.models import MLP
    >>> from meta.objectives import MSE
    >>> examples = Examples(torch.rand(2, 5, 1, dtype=torch.float64), torch.rand(2, 5, 1, dtype=torch.float64))
    >>> episodes = Episode(examples, examples, torch.zeros(2, 0, dtype=torch.float64))
    >>> check_algorithm(MAML(model=MLP(inputs=(1,), outputs=1), objective=MSE, inner=Inner()), episodes)
    """
    tasks, inputs = len(episodes.description), parts(episodes.support.inputs)
    if tasks < 2 or not all(one.dtype in (REAL, torch.int64, torch.bool) for one in inputs):
        raise ContractError(
            f"expected two tasks or more in float64, received {tasks} in {', '.join(str(one.dtype) for one in inputs)}"
        )
    with _generators_untouched("the algorithm"):
        params = _checked_params(algorithm, seed)
        _check_numbers(algorithm)
        _check_meta_loss(algorithm, params, unstack(episodes))
        _check_batch(algorithm, params, episodes)
        _check_scores(algorithm, params, unstack(episodes))
        _check_predictions(algorithm, params, unstack(episodes))


def _checked_params(algorithm: Algorithm, seed: int) -> Params:
    params, again = (algorithm.init(torch.Generator().manual_seed(seed), REAL) for _ in range(2))
    if not params:
        raise ContractError("init: expected parameters by name, received none")
    for name, value in params.items():
        if not isinstance(value, Tensor) or value.dtype != REAL:
            received = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ContractError(f"init: expected '{name}' of the asked dtype {REAL}, received {received}")
        if name not in again or not torch.equal(value, again[name]):
            raise ContractError(f"init: '{name}' has other values the second time; draw from the given generator alone")
    return params


def _check_numbers(algorithm: Algorithm) -> None:
    for step in (0, 1, 10**6, None):
        stage, again = algorithm.stage(step), algorithm.stage(step)
        if not isinstance(stage, str) or stage != again:
            raise ContractError(f"stage: expected one text for step {step}, received {stage!r} and {again!r}")
        numbers, once_more = algorithm.numbers(step), algorithm.numbers(step)
        for name, value in numbers.items():
            parts = value if isinstance(value, tuple | list) else (value,)
            if not all(isinstance(part, int | float) and math.isfinite(part) for part in parts):
                raise ContractError(f"numbers: expected finite numbers for '{name}' at step {step}, received {value!r}")
        if numbers != once_more:
            raise ContractError(
                f"numbers: expected a function of the step, received {dict(numbers)} and {dict(once_more)} at {step}"
            )


def _check_meta_loss(algorithm: Algorithm, params: Params, episode: Episode) -> None:
    now = context_of(algorithm, 0, REAL)
    (loss, metrics), (again, _) = (algorithm.meta_loss(params, episode, now) for _ in range(2))
    for name, value in {"the meta-loss": loss, **metrics}.items():
        if not isinstance(value, Tensor) or value.shape != ():
            received = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ContractError(f"meta_loss: expected {name} to be a scalar tensor, received {received}")
        if not bool(torch.isfinite(value)):
            raise ContractError(f"meta_loss: expected {name} to be finite, received {value.item()}")
    if not torch.equal(loss, again):
        raise ContractError(
            "meta_loss: another value for the same arguments the second time; it has to be a function of them alone"
        )


def _check_batch(algorithm: Algorithm, params: Params, episodes: Episode) -> None:
    """One task at a time and vectorised over tasks give the same sum."""
    now = context_of(algorithm, 0, REAL)
    alone = build("eager", algorithm, Limits()).meta_gradient(params, episodes, now).gradient
    size = max((float(value.abs().max()) for value in alone.values() if value.numel()), default=0.0)
    if not all(bool(torch.isfinite(value).all()) for value in alone.values()):
        raise ContractError("meta_loss: expected a finite gradient, received NaN or infinity")
    if size == 0.0:
        raise ContractError(
            "meta_loss: expected a gradient that is not zero everywhere; a detach(), a .data or a torch.no_grad() cuts "
            "the loss off from θ"
        )
    together = build("vmap", algorithm, Limits()).meta_gradient(params, episodes, now).gradient
    for name, value in alone.items():
        apart = float((value - together[name]).abs().max()) if value.numel() else 0.0
        if apart > TOLERANCE * size:
            raise ContractError(
                f"meta_loss: the gradient of '{name}' vectorised over tasks differs from the sum of the tasks' own by "
                f"{apart:.3g}; it must not depend on other tasks or on state"
            )


def _check_scores(algorithm: Algorithm, params: Params, episode: Episode) -> None:
    now = context_of(algorithm, None, REAL)
    steps = (0, 1, 3)
    scores = algorithm.scores(params, episode, steps, now)
    if not isinstance(scores, Tensor) or scores.shape != (len(steps),):
        received = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ContractError(f"scores: expected one number for each of the steps {steps}, [3], received {received}")
    fewer = algorithm.scores(params, episode, steps[:2], now)
    if not torch.allclose(scores[:2], fewer, rtol=TOLERANCE, atol=1e-12):
        raise ContractError(
            f"scores: expected the scores after 0 and 1 steps whatever comes after them, received "
            f"{scores[:2].tolist()} and {fewer.tolist()}"
        )


def _check_predictions(algorithm: Algorithm, params: Params, episode: Episode) -> None:
    now = context_of(algorithm, None, REAL)
    inputs, count = episode.query.inputs, length(episode.query.inputs)
    for steps in (0, 2):
        outputs, again = (algorithm.predict(params, episode.support, inputs, steps, now) for _ in range(2))
        if not isinstance(outputs, Tensor) or len(outputs) != count:
            received = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ContractError(f"predict: expected outputs [{count}, ...], received {received}")
        if not torch.equal(outputs, again):
            raise ContractError("predict: other outputs for the same arguments the second time")


def check_rule(rule: InnerRule, *, lr: float = 0.1, steps: int = 3) -> None:
    """Checks that an inner rule keeps its contract (:class:`meta.inner.InnerRule`).

    A step leaves its arguments as they are, keeps names and shapes of parameters and state, repeats to the bit, and has
    finite first and second derivatives, also where a gradient is exactly zero.

    Args:
        rule: the rule to check.
        lr: α.
        steps: inner steps to take.

    Raises:
        ContractError: at the first violation.

    >>> from meta.inner import Adam
    >>> check_rule(Adam())
    """
    source = torch.Generator().manual_seed(0)
    params = {name: torch.randn(shape, generator=source, dtype=REAL) for name, shape in _SHAPES.items()}
    learned = rule.rule_params(params, lr, steps)
    row = {name: value[0] if rule.per_step else value for name, value in learned.items()}
    numbers = {**row, "lr": torch.tensor(lr, dtype=REAL)}
    gradient = {name: torch.randn(shape, generator=source, dtype=REAL) for name, shape in _SHAPES.items()}
    gradient["bias"] = torch.zeros(3, dtype=REAL)  # a dead unit's
    with _generators_untouched("the rule"):
        state = rule.init(params)
        _check_step(rule, gradient, state, params, numbers)
        _check_derivatives(rule, gradient, params, numbers)


_SHAPES = {"weight": (3, 2), "bias": (3,)}


def _check_step(rule: InnerRule, gradient: Params, state: Any, params: Params, numbers: Params) -> None:
    arguments = (gradient, state, params, numbers)
    before = [value.clone() for value in tree_flatten(arguments)[0]]
    (moved, after), (again, _) = (rule.update(*arguments) for _ in range(2))
    if not all(torch.equal(*pair) for pair in zip(before, tree_flatten(arguments)[0], strict=True)):
        raise ContractError("update: expected arguments that are left as they are; compute new tensors, not in place")
    shapes = {name: tuple(value.shape) for name, value in moved.items()}
    if shapes != _SHAPES:
        raise ContractError(f"update: expected parameters of shapes {_SHAPES}, received {shapes}")
    if tree_flatten(after)[1] != tree_flatten(state)[1]:
        raise ContractError(
            f"update: expected a state of the form that init returns, {state}, received {after}; a loop is "
            "recorded once"
        )
    if not all(bool(torch.isfinite(value).all()) for value in moved.values()):
        raise ContractError(
            "update: expected finite parameters, received NaN or infinity; a gradient may be exactly zero, as that "
            "of a dead unit is"
        )
    if not all(torch.equal(value, again[name]) for name, value in moved.items()):
        raise ContractError("update: other parameters for the same arguments the second time")


def _check_derivatives(rule: InnerRule, gradient: Params, params: Params, numbers: Params) -> None:
    """Two steps, differentiated twice with respect to the gradient."""
    leaves = {name: value.clone().requires_grad_() for name, value in gradient.items()}
    moved, state = rule.update(leaves, rule.init(params), params, numbers)
    moved, _ = rule.update(leaves, state, moved, numbers)
    total = sum((value.square().sum() for value in moved.values()), torch.zeros((), dtype=REAL))
    first: tuple[Tensor | None, ...] = (None,)
    if total.requires_grad:
        first = torch.autograd.grad(total, list(leaves.values()), create_graph=True, allow_unused=True)
    if any(value is None for value in first):
        raise ContractError("update: expected parameters that depend on the gradient; a detach() cuts them off")
    again = sum((value.square().sum() for value in first if value is not None), torch.zeros((), dtype=REAL))
    second: tuple[Tensor | None, ...] = (None,)
    if again.requires_grad:
        second = torch.autograd.grad(again, list(leaves.values()), allow_unused=True)
    for order, values in (("first", first), ("second", second)):
        if not all(value is None or bool(torch.isfinite(value).all()) for value in values):
            raise ContractError(
                f"update: expected a finite {order} derivative, received NaN or infinity; square roots and divisions "
                "need an ε inside where a gradient is zero"
            )


def runs_on(algorithm: Algorithm, episodes: Episode, params: Params) -> dict[str, str]:
    """Tries the strategies of the engine on some tasks.

    Args:
        algorithm: the algorithm.
        episodes: tasks, [T, ...], in the dtype of θ.
        params: θ.

    Returns:
        For each strategy an empty text if it computes the meta-gradient, and the reason if it does not.
    """
    return {name: _reason(partial(_try, name, algorithm, episodes, params)) for name in _PROCESSOR}


_PROCESSOR = tuple(name for name in STRATEGIES if name != "graph")


def _try(name: str, algorithm: Algorithm, episodes: Episode, params: Params) -> None:
    example = next(iter(params.values()))
    build(name, algorithm, Limits()).meta_gradient(params, episodes, context_of(algorithm, 0, example.dtype))


def _reason(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except Exception as error:  # whatever a user's model raises under a strategy's transforms is the answer
        return said(error)
    return ""


@contextmanager
def _generators_untouched(part: str) -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    if not torch.equal(before, torch.get_rng_state()):
        raise ContractError(
            f"{part} drew from torch's global generator; draw from the generator that init is given, or let random "
            "layers of the model draw"
        )

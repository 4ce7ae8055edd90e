"""The public checkers of algorithms and inner rules: built-in parts pass, each fault is named."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from meta.algorithms import CAVIA, MAML, FirstOrderMAML, MAMLPlusPlus, Reptile
from meta.checker import ContractError, check_algorithm, check_rule, runs_on
from meta.context import FIXED
from meta.episode import Episode, Examples
from meta.inner import SGD, Adam, Inner, LearnedSGD, Momentum
from meta.models import MLP
from meta.objectives import MSE

REAL = torch.float64


def episodes(tasks: int = 3) -> Episode:
    source = torch.Generator().manual_seed(3)

    def examples() -> Examples:
        return Examples(*(torch.randn(tasks, 5, 1, generator=source, dtype=REAL) for _ in range(2)))

    return Episode(examples(), examples(), torch.zeros(tasks, 0, dtype=REAL))


def made(cls: Any, inputs: int = 1, **keys: Any) -> Any:
    model = MLP(inputs=(inputs,), outputs=1, hidden=(4,), init_std=None)
    return cls(model=model, objective=MSE, inner=Inner(steps=2), **keys)


@pytest.mark.parametrize(
    "rule", [SGD(), Momentum(), Adam(), *(LearnedSGD(per=per) for per in ("tensor", "element", "step"))]
)
def test_built_in_rules_pass(rule: Any) -> None:
    check_rule(rule)


@pytest.mark.parametrize(
    "algorithm",
    [
        made(MAML),
        made(FirstOrderMAML),
        made(Reptile),
        made(MAMLPlusPlus, multi_step=10, first_order=5),
        made(CAVIA, inputs=4, size=3),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_built_in_algorithms_pass(algorithm: Any) -> None:
    check_algorithm(algorithm, episodes())


class InPlace(SGD):
    def update(self, gradient: Any, state: Any, params: Any, rule_params: Any) -> Any:
        for name, value in params.items():
            value -= rule_params["lr"] * gradient[name]
        return params, state


class Rooted(SGD):
    def update(self, gradient: Any, state: Any, params: Any, rule_params: Any) -> Any:
        lr = rule_params["lr"]
        return {name: value - lr * (gradient[name].square() + 0.0).sqrt() for name, value in params.items()}, state


class Divided(SGD):
    def update(self, gradient: Any, state: Any, params: Any, rule_params: Any) -> Any:
        return {name: value - gradient[name] / gradient[name].abs() for name, value in params.items()}, state


class Detached(SGD):
    def update(self, gradient: Any, state: Any, params: Any, rule_params: Any) -> Any:
        return {name: value - gradient[name].detach() for name, value in params.items()}, state


class Growing(SGD):
    def update(self, gradient: Any, state: Any, params: Any, rule_params: Any) -> Any:
        moved, _ = super().update(gradient, state, params, rule_params)
        return moved, {**state, "steps": gradient["bias"]}


class Renaming(SGD):
    def update(self, gradient: Any, state: Any, params: Any, rule_params: Any) -> Any:
        return {"weight": params["weight"] - gradient["weight"]}, state


class Random(SGD):
    def update(self, gradient: Any, state: Any, params: Any, rule_params: Any) -> Any:
        return {name: value - gradient[name] * torch.rand(()) for name, value in params.items()}, state


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (InPlace(), "left as they are"),
        (Rooted(), "finite first derivative"),
        (Divided(), "finite parameters"),
        (Detached(), "depend on the gradient"),
        (Growing(), "a state of the form that init returns"),
        (Renaming(), "parameters of shapes"),
        (Random(), "the second time"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_faults_of_rules_are_named(rule: Any, fault: str) -> None:
    with pytest.raises(ContractError, match=fault):
        check_rule(rule)


@dataclass(frozen=True, kw_only=True)
class Faulty(MAML):
    """MAML with one of its members in another form."""

    other: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def __getattribute__(self, name: str) -> Any:
        other = object.__getattribute__(self, "__dict__").get("other", {})
        if name in other:
            return lambda *arguments, **keys: other[name](super(Faulty, self), *arguments, **keys)
        return object.__getattribute__(self, name)


calls: list[int] = []


def counted(base: Any, params: Any, episode: Any, context: Any = FIXED) -> Any:
    calls.append(1)
    loss, metrics = base.meta_loss(params, episode, context)
    return loss * len(calls), metrics


def vector(base: Any, params: Any, episode: Any, context: Any = FIXED) -> Any:
    loss, metrics = base.meta_loss(params, episode, context)
    return loss, {**metrics, "both": torch.ones(2)}


def cut(base: Any, params: Any, episode: Any, context: Any = FIXED) -> Any:
    return base.meta_loss({name: value.detach() for name, value in params.items()}, episode, context)


def unseeded(base: Any, generator: Any, dtype: Any) -> Any:
    return {name: torch.randn_like(value) for name, value in base.init(generator, dtype).items()}


def single(base: Any, generator: Any, dtype: Any) -> Any:
    return base.init(generator, torch.float32)


def whole(base: Any, params: Any, episode: Any, steps: Any, context: Any = FIXED) -> Tensor:
    return base.scores(params, episode, (max(steps),), context).expand(len(steps))


def few(base: Any, params: Any, episode: Any, steps: Any, context: Any = FIXED) -> Tensor:
    return base.scores(params, episode, steps, context).mean()


def one(base: Any, params: Any, support: Any, inputs: Any, steps: int, context: Any = FIXED) -> Tensor:
    return base.predict(params, support, inputs, steps, context)[:1]


def endless(base: Any, step: Any) -> Any:
    return {**base.numbers(step), "weight": float("inf")}


def drawing(base: Any, params: Any, support: Any, inputs: Any, steps: int, context: Any = FIXED) -> Tensor:
    torch.rand(1)
    return base.predict(params, support, inputs, steps, context)


@pytest.mark.parametrize(
    ("member", "other", "fault"),
    [
        ("meta_loss", counted, "another value for the same arguments"),
        ("meta_loss", vector, "expected both to be a scalar"),
        ("meta_loss", cut, "not zero everywhere"),
        ("init", unseeded, "other values the second time"),
        ("init", single, "of the asked dtype"),
        ("scores", whole, "whatever comes after them"),
        ("scores", few, "one number for each"),
        ("predict", one, "expected outputs"),
        ("predict", drawing, "torch's global generator"),
        ("numbers", endless, "finite numbers for 'weight'"),
    ],
)
def test_faults_of_algorithms_are_named(member: str, other: Any, fault: str) -> None:
    calls.clear()
    with pytest.raises(ContractError, match=fault):
        check_algorithm(made(Faulty, other={member: other}), episodes())


def test_one_task_is_not_enough() -> None:
    with pytest.raises(ContractError, match="two tasks or more"):
        check_algorithm(made(MAML), episodes(1))


def test_strategies_that_cannot_run_say_why() -> None:
    class Branching:
        def init(self, generator: Any, dtype: Any) -> Any:
            return {"weight": torch.ones(1, dtype=dtype)}

        def apply(self, params: Any, inputs: Tensor) -> Tensor:
            return inputs * params["weight"] if float(inputs.sum()) > 0 else inputs + params["weight"]

    algorithm = MAML(model=Branching(), objective=MSE, inner=Inner())
    engines = runs_on(algorithm, episodes(), algorithm.init(torch.Generator(), REAL))
    assert engines["eager"] == ""
    assert "RuntimeError" in engines["vmap"]

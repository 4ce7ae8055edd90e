"""Inner rules and derivatives: finite differences where exactness is claimed, the stated relation elsewhere."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from meta.algorithms import (
    CAVIA,
    MAML,
    FirstOrderMAML,
    MAMLPlusPlus,
    ProtoMAML,
    ProtoNet,
    Reptile,
    RidgeHead,
    UnicornMAML,
    context_of,
)
from meta.context import context
from meta.engine.native.ir import Unsupported
from meta.engine.strategies import STRATEGIES
from meta.episode import Episode, Examples, pooled, stack, unstack
from meta.inner import (
    SGD,
    Adam,
    Exact,
    FirstOrder,
    Implicit,
    Inner,
    LearnedSGD,
    Momentum,
    Neumann,
    Sama,
    Truncated,
)
from meta.models import MLP, Conv4
from meta.objectives import OBJECTIVES
from meta.params import Layout, Params

REAL = torch.float64
TASKS, SHOTS, QUERIES, FEATURES, OUTPUTS = 3, 4, 5, 3, 2
IMAGE = (1, 8, 8)
RULES = {
    "sgd": SGD(),
    "momentum": Momentum(momentum=0.7),
    "nesterov": Momentum(momentum=0.7, nesterov=True),
    "adam": Adam(),
    "learned tensor": LearnedSGD(),
    "learned element": LearnedSGD(per="element"),
    "learned step": LearnedSGD(per="step"),
}


def mlp(extra: int = 0, outputs: int = OUTPUTS) -> MLP:
    return MLP(inputs=(FEATURES + extra,), outputs=outputs, hidden=(6, 5), activation="tanh", init_std=None)


def images() -> Conv4:
    return Conv4(inputs=IMAGE, outputs=OUTPUTS, channels=3, blocks=2)


@cache
def drawn(objective: str, shape: tuple[int, ...] = (FEATURES,)) -> Episode:
    generator = torch.Generator().manual_seed(1)

    def examples(count: int) -> Examples:
        inputs = torch.randn(count, *shape, dtype=REAL, generator=generator)
        if objective == "mse":
            return Examples(inputs, torch.randn(count, OUTPUTS, dtype=REAL, generator=generator))
        return Examples(inputs, torch.arange(count) % OUTPUTS)

    return stack([Episode(examples(SHOTS), examples(QUERIES), torch.zeros(0, dtype=REAL)) for _ in range(TASKS)])


# Methods by name: class, keys, model, objective, shape of inputs.
METHODS: dict[str, tuple[Any, dict[str, Any], Callable[[], Any], str, tuple[int, ...]]] = {
    "maml": (MAML, {}, mlp, "mse", (FEATURES,)),
    "maml classes": (MAML, {}, mlp, "cross_entropy", (FEATURES,)),
    "maml images": (MAML, {}, images, "cross_entropy", IMAGE),
    "cavia": (CAVIA, {"size": 2}, lambda: mlp(2), "mse", (FEATURES,)),
    "mamlpp": (MAMLPlusPlus, {}, images, "cross_entropy", IMAGE),
    "mamlpp multi-step": (MAMLPlusPlus, {"multi_step": 10}, mlp, "mse", (FEATURES,)),
    "mamlpp rows": (MAMLPlusPlus, {"per_step": ("*.offset",)}, images, "cross_entropy", IMAGE),
    "protonet": (ProtoNet, {"classes": 2}, lambda: mlp(0, 4), "cross_entropy", (FEATURES,)),
    "protonet images": (ProtoNet, {"classes": 2}, images, "cross_entropy", IMAGE),
    "protomaml": (ProtoMAML, {"classes": 2}, images, "cross_entropy", IMAGE),
    "unicorn": (UnicornMAML, {"classes": 2}, images, "cross_entropy", IMAGE),
    "r2d2": (RidgeHead, {"classes": 2}, images, "cross_entropy", IMAGE),
    "r2d2 numbers": (RidgeHead, {"classes": 2, "head": "layer2"}, mlp, "mse", (FEATURES,)),
}
WITHOUT_NATIVE = ("r2d2", "r2d2 numbers")  # solve a linear system, which has no translation


def made(method: str, **inner: Any) -> tuple[Any, Episode]:
    cls, keys, model, objective, shape = METHODS[method]
    built = cls(model=model(), objective=OBJECTIVES[objective], inner=Inner(**{"lr": 0.05, "steps": 2} | inner), **keys)
    return built, drawn(objective, shape)


def start(algorithm: Any) -> Params:
    theta: Params = algorithm.init(torch.Generator().manual_seed(0), REAL)
    return theta


def flat(params: Params) -> Tensor:
    return Layout.of(params).flatten(params)


def gradient(algorithm: Any, episodes: Episode, strategy: str = "vmap", step: int = 0) -> Tensor:
    now = context_of(algorithm, step, REAL)
    return flat(STRATEGIES[strategy](algorithm).meta_gradient(start(algorithm), episodes, now).gradient)


def require_exact(algorithm: Any, found: Tensor, episodes: Episode, step: int = 0) -> None:
    """Compare with central differences of the summed meta-loss, computed task by task, along random directions."""
    theta, now = start(algorithm), context_of(algorithm, step, REAL)
    layout, here = Layout.of(theta), flat(theta)

    def total(at: Tensor) -> Tensor:
        params = layout.unflatten(at)
        return torch.stack([algorithm.meta_loss(params, unstack(episodes, n), now)[0] for n in range(TASKS)]).sum()

    generator, h = torch.Generator().manual_seed(2), 1e-5
    for _ in range(3):
        direction = torch.randn(len(here), dtype=REAL, generator=generator)
        direction /= direction.norm()
        expected = (total(here + h * direction) - total(here - h * direction)) / (2 * h)
        torch.testing.assert_close(found @ direction, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", ["maml", "maml images"])
def test_every_rule_is_differentiated_exactly(method: str, rule: str, recompute: bool) -> None:
    algorithm, episodes = made(method, rule=RULES[rule], recompute=recompute, steps=3)
    require_exact(algorithm, gradient(algorithm, episodes), episodes)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_differentiated_exactly(method: str) -> None:
    algorithm, episodes = made(method)
    require_exact(algorithm, gradient(algorithm, episodes), episodes)


@pytest.mark.parametrize("strategy", ["trace", "loop", "native"])
@pytest.mark.parametrize("method", METHODS)
def test_every_strategy_computes_every_method(method: str, strategy: str) -> None:
    algorithm, episodes = made(method)
    try:
        found = gradient(algorithm, episodes, strategy)
    except Unsupported as error:
        assert strategy == "native"
        assert method in WITHOUT_NATIVE
        pytest.skip(str(error))
    torch.testing.assert_close(found, gradient(algorithm, episodes), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", ["adam", "learned step"])
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_programs_take_every_rule(rule: str, recompute: bool) -> None:
    algorithm, episodes = made("maml images", rule=RULES[rule], recompute=recompute)
    expected = gradient(algorithm, episodes)
    torch.testing.assert_close(gradient(algorithm, episodes, "native"), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("adapt", [("*",), ("head.*",), ("conv*",)])
def test_recomputed_steps_reach_parameters_that_do_not_move(adapt: tuple[str, ...]) -> None:
    (plain, episodes), (again, _) = (made("maml images", adapt=adapt, recompute=one, steps=3) for one in (False, True))
    torch.testing.assert_close(gradient(again, episodes), gradient(plain, episodes), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("derivative", [Exact(), FirstOrder(), Truncated(last=1), Implicit(), Neumann(), Sama()])
@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_without_inner_steps_it_is_the_query_gradient(derivative: Any, rule: str) -> None:
    algorithm, episodes = made("maml", steps=0, derivative=derivative, rule=RULES[rule])
    theta = {name: value.requires_grad_() for name, value in start(algorithm).items()}
    losses = [algorithm.loss(theta, unstack(episodes, task).query) for task in range(TASKS)]
    slopes = torch.autograd.grad(torch.stack(losses).sum(), list(theta.values()))
    expected = flat(dict(zip(theta, slopes, strict=True)))
    torch.testing.assert_close(gradient(algorithm, episodes), expected, rtol=1e-12, atol=1e-14)


def test_truncated_derivatives_lead_from_first_order_to_exact() -> None:
    _, episodes = made("maml")
    exact, first = (gradient(made("maml", steps=4, derivative=one)[0], episodes) for one in (Exact(), FirstOrder()))
    cut = [gradient(made("maml", steps=4, derivative=Truncated(last=k))[0], episodes) for k in range(5)]
    torch.testing.assert_close(cut[0], first, rtol=1e-12, atol=0)
    torch.testing.assert_close(cut[4], exact, rtol=1e-12, atol=0)
    apart = [float((one - exact).norm()) for one in cut]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > 1e-3 * float(exact.norm())


class Quadratic:
    """Linear regression by one matrix, whose inner problem has a closed form."""

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        return {"w": torch.randn(FEATURES, OUTPUTS, dtype=dtype, generator=generator)}

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        return inputs @ params["w"]


def quadratic(derivative: Any, steps: int = 60) -> MAML:
    """The inner loop shrinks the distance from the minimum by at least 1 - 0.5 · 0.5 a step."""
    inner = Inner(lr=0.5, steps=steps, derivative=derivative)
    return MAML(model=Quadratic(), objective=OBJECTIVES["mse"], inner=inner)


def closed_form(strength: float) -> Tensor:
    """(I + H/λ)⁻¹ v summed over tasks, at the exact minimum φ of the regularised support loss."""
    episodes = drawn("mse")
    theta = start(quadratic(Implicit()))["w"]
    total = torch.zeros_like(theta)
    for task in range(TASKS):
        (x, y), (query, targets), _ = unstack(episodes, task)
        hessian = 2 * x.t() @ x / (SHOTS * OUTPUTS)
        eye = torch.eye(FEATURES, dtype=REAL)
        slope = 2 * x.t() @ y / (SHOTS * OUTPUTS)
        best = torch.linalg.solve(hessian + strength * eye, slope + strength * theta)
        vector = 2 * query.t() @ (query @ best - targets) / (QUERIES * OUTPUTS)
        total += torch.linalg.solve(eye + hessian / strength, vector)
    return total.reshape(-1)


SOLVERS = [Implicit(strength=0.5, iterations=6), Neumann(strength=0.5, iterations=60)]


@pytest.mark.parametrize("derivative", SOLVERS)
def test_implicit_derivatives_are_the_closed_form_of_linear_regression(derivative: Any) -> None:
    found = gradient(quadratic(derivative), drawn("mse"))
    torch.testing.assert_close(found, closed_form(0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("derivative", [Implicit(iterations=2), Neumann(iterations=3), Sama(strength=1.0)])
@pytest.mark.parametrize("strategy", ["trace", "loop", "native"])
def test_every_strategy_computes_implicit_derivatives(derivative: Any, strategy: str) -> None:
    algorithm, episodes = made("maml", derivative=derivative, lr=0.05)
    found = gradient(algorithm, episodes, strategy)
    torch.testing.assert_close(found, gradient(algorithm, episodes), rtol=1e-9, atol=1e-12)


def test_the_implicit_derivative_tends_to_the_exact_one_with_the_solver() -> None:
    exact = closed_form(0.5)
    apart = []
    for iterations in (1, 2, 6):
        found = gradient(quadratic(Implicit(strength=0.5, iterations=iterations)), drawn("mse"))
        apart.append(float((found - exact).norm() / exact.norm()))
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] < 1e-6


def test_the_identity_points_about_the_same_way_as_the_exact_derivative() -> None:
    exact = closed_form(1.0)
    found = gradient(quadratic(Sama(strength=1.0)), drawn("mse"))
    assert float(torch.cosine_similarity(found, exact, dim=0)) > 0.9


def test_implicit_derivatives_reach_what_the_inner_loop_leaves() -> None:
    """With the head alone adapted to its optimum, the derivative by the body is that of the optimum."""
    inner = {"adapt": ("layer2.*",), "lr": 0.5, "steps": 60}
    episodes = made("maml")[1]
    implicit, _ = made("maml", **inner, derivative=Implicit(strength=1.0, iterations=20))
    theta, now = start(implicit), context_of(implicit, 0, REAL)
    found = STRATEGIES["vmap"](implicit).meta_gradient(theta, episodes, now).gradient["layer0.weight"]
    h, direction = 1e-5, torch.randn(found.shape, dtype=REAL, generator=torch.Generator().manual_seed(3))

    def total(sign: int) -> Tensor:
        moved = {**theta, "layer0.weight": theta["layer0.weight"] + sign * h * direction}
        return torch.stack([implicit.meta_loss(moved, unstack(episodes, n), now)[0] for n in range(TASKS)]).sum()

    expected = (total(1) - total(-1)) / (2 * h)
    torch.testing.assert_close((found * direction).sum(), expected, rtol=1e-5, atol=0)


def test_learned_numbers_are_refused_under_implicit_derivatives() -> None:
    with pytest.raises(ValueError, match=r"inner\.derivative: expected exact, first_order or truncated"):
        start(made("maml", rule=LearnedSGD(), derivative=Implicit())[0])


def test_reptile_moves_along_the_mean_displacement() -> None:
    inner = Inner(lr=0.05, steps=3, rule=Momentum())
    reptile = Reptile(model=mlp(), objective=OBJECTIVES["mse"], inner=inner)
    theta, episodes = start(reptile), drawn("mse")
    expected = torch.zeros_like(flat(theta))
    for task in range(TASKS):
        adapted = inner.adapted(reptile.loss, theta, pooled(unstack(episodes, task)))
        expected += flat(theta) - flat(adapted)
    torch.testing.assert_close(gradient(reptile, episodes), expected, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="expected one that learns nothing"):
        start(Reptile(model=mlp(), objective=OBJECTIVES["mse"], inner=Inner(rule=LearnedSGD())))


def test_a_rule_of_constant_step_sizes_equals_one_that_has_yet_to_learn_them() -> None:
    episodes = drawn("mse")
    expected, _ = made("maml")
    for per in ("tensor", "element", "step"):
        learned, _ = made("maml", rule=LearnedSGD(per=per))
        theta = start(learned)
        found = STRATEGIES["vmap"](learned).meta_gradient(theta, episodes).gradient
        own = {name: value for name, value in found.items() if not name.startswith("inner/")}
        torch.testing.assert_close(flat(own), gradient(expected, episodes), rtol=1e-12, atol=1e-14)
        assert all(bool(found[name].any()) for name in theta if name.startswith("inner/"))


def test_adam_is_finite_where_gradients_vanish() -> None:
    """Dead units: their gradients are zero, and a plain root of them has an infinite derivative."""
    model = MLP(inputs=(FEATURES,), outputs=OUTPUTS, hidden=(6,), activation="relu", init_std=None)
    algorithm = MAML(model=model, objective=OBJECTIVES["mse"], inner=Inner(lr=0.01, steps=3, rule=Adam()))
    theta = start(algorithm)
    theta["layer0.bias"] = theta["layer0.bias"] - 100
    found = STRATEGIES["vmap"](algorithm).meta_gradient(theta, drawn("mse")).gradient
    assert all(bool(torch.isfinite(value).all()) for value in found.values())


@pytest.mark.parametrize("rule", ["momentum", "nesterov"])
def test_momentum_is_that_of_torch(rule: str) -> None:
    built, episodes = made("maml", rule=RULES[rule])
    episode = unstack(episodes)
    theta = {name: torch.nn.Parameter(value) for name, value in start(built).items()}
    reached = built.inner.adapted(built.loss, dict(theta), episode.support, 4)
    optimizer = torch.optim.SGD(theta.values(), lr=0.05, momentum=0.7, nesterov=rule == "nesterov")
    for _ in range(4):
        optimizer.zero_grad()
        built.loss(dict(theta), episode.support).backward()
        optimizer.step()
    torch.testing.assert_close(flat(dict(reached)), flat(dict(theta)), rtol=1e-12, atol=1e-14)


def test_adam_is_that_of_torch_where_gradients_are_large_beside_epsilon() -> None:
    built, episodes = made("maml", rule=Adam(epsilon=1e-9))
    episode = unstack(episodes)
    theta = {name: torch.nn.Parameter(value) for name, value in start(built).items()}
    reached = built.inner.adapted(built.loss, dict(theta), episode.support, 4)
    optimizer = torch.optim.Adam(theta.values(), lr=0.05, eps=1e-9)
    for _ in range(4):
        optimizer.zero_grad()
        built.loss(dict(theta), episode.support).backward()
        optimizer.step()
    torch.testing.assert_close(flat(dict(reached)), flat(dict(theta)), rtol=1e-5, atol=1e-7)


def test_the_multi_step_loss_is_annealed_to_the_last_step() -> None:
    algorithm = MAMLPlusPlus(
        model=mlp(), objective=OBJECTIVES["mse"], inner=Inner(steps=4), multi_step=10, first_order=5
    )
    assert algorithm.numbers(0)["weights"] == (0.25, 0.25, 0.25, 0.25)
    weights = [algorithm.numbers(step)["weights"] for step in range(10)]
    assert all(sum(row) == pytest.approx(1) for row in weights)
    assert [row[0] for row in weights] == sorted((row[0] for row in weights), reverse=True)
    assert "weights" not in algorithm.numbers(10)
    assert "weights" not in algorithm.numbers(None)
    assert [algorithm.stage(step) for step in (0, 4, 5, None)] == ["first_order", "first_order", "", ""]


def test_the_derivative_s_order_is_annealed() -> None:
    annealed = MAMLPlusPlus(model=mlp(), objective=OBJECTIVES["mse"], inner=Inner(lr=0.05, steps=2), first_order=1)
    first, exact = (made("maml", derivative=one)[0] for one in (FirstOrder(), Exact()))
    episodes = drawn("mse")
    torch.testing.assert_close(gradient(annealed, episodes, step=0), gradient(first, episodes), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(annealed, episodes, step=1), gradient(exact, episodes), rtol=1e-12, atol=0)


@pytest.mark.parametrize("strategy", ["trace", "loop", "native"])
def test_another_step_size_runs_the_same_program(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, episodes = made("maml")
    engine, theta = STRATEGIES[strategy](algorithm), start(algorithm)
    engine.meta_gradient(theta, episodes, context({"lr": 0.05}, REAL, "cpu"))

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("recorded another program")

    monkeypatch.setattr("meta.engine.replay.record", refused)
    monkeypatch.setattr("meta.engine.native.program._record", refused)
    found = engine.meta_gradient(theta, episodes, context({"lr": 0.02}, REAL, "cpu")).gradient
    torch.testing.assert_close(flat(found), gradient(made("maml", lr=0.02)[0], episodes), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["protomaml", "unicorn", "r2d2"])
def test_a_model_without_the_head_is_refused_by_name(method: str) -> None:
    cls, keys, _, objective, _ = METHODS[method]
    with pytest.raises(ValueError, match="linear layers are layer0, layer1, layer2"):
        cls(model=mlp(), objective=OBJECTIVES[objective], inner=Inner(), **keys)


@pytest.mark.parametrize("method", ["maml images", "mamlpp", "protonet images", "protomaml", "unicorn", "r2d2"])
def test_inductive_predictions_of_a_query_do_not_depend_on_the_others(method: str) -> None:
    cls, keys, _, objective, _ = METHODS[method]
    model = Conv4(inputs=IMAGE, outputs=OUTPUTS, channels=3, blocks=2, batch_norm="inductive")
    algorithm = cls(model=model, objective=OBJECTIVES[objective], inner=Inner(lr=0.05, steps=2), **keys)
    theta, episode = start(algorithm), unstack(drawn(objective, IMAGE))
    together = algorithm.predict(theta, episode.support, episode.query.inputs, 2)
    alone = [algorithm.predict(theta, episode.support, query[None], 2) for query in episode.query.inputs]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-12)


def test_protomaml_begins_as_a_prototypical_network() -> None:
    algorithm, episodes = made("protomaml")
    theta, episode = start(algorithm), unstack(episodes)
    outputs = algorithm.predict(theta, episode.support, episode.query.inputs, 0)
    body = {**theta, "head.weight": torch.eye(algorithm.width, dtype=REAL), "head.bias": torch.zeros(1, dtype=REAL)}
    embed = algorithm.model.apply
    means = torch.stack(
        [embed(body, episode.support.inputs)[episode.support.targets == k].mean(dim=0) for k in range(OUTPUTS)]
    )
    apart = (embed(body, episode.query.inputs)[:, None] - means).square().sum(dim=2)
    torch.testing.assert_close(outputs.softmax(dim=1), (-apart).softmax(dim=1), rtol=1e-9, atol=1e-12)


def test_unicorn_s_classes_may_be_renumbered() -> None:
    algorithm, episodes = made("unicorn")
    theta, episode = start(algorithm), unstack(episodes)
    turned = episode._replace(support=episode.support._replace(targets=1 - episode.support.targets))
    one, other = (algorithm.predict(theta, each.support, episode.query.inputs, 2) for each in (episode, turned))
    torch.testing.assert_close(one, other.flip(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("derivative", [Truncated(last=1), Implicit()])
def test_first_order_maml_takes_no_other_derivative(derivative: Any) -> None:
    with pytest.raises(ValueError, match=r"inner\.derivative: expected none beside algorithm fomaml"):
        FirstOrderMAML(model=mlp(), objective=OBJECTIVES["mse"], inner=Inner(derivative=derivative))

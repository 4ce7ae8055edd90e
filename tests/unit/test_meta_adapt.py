"""Limit cases of the inner loop and of the algorithms, against formulas derived by hand."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from meta.algorithms import MAML, FirstOrderMAML, Oracle, Pretrain
from meta.engine.strategies import vmapped
from meta.episode import Episode, Examples, described, stack
from meta.inner import Inner
from meta.models import MLP
from meta.objectives import MSE
from meta.params import Params

FEATURES, SHOTS, QUERIES, TASKS, ALPHA = 4, 6, 5, 3, 0.1
Close = Callable[..., None]


class Linear(NamedTuple):
    """y = X w, whose squared error has the gradient 2/B Xᵀ(Xw - y) and the constant Hessian H = 2/B XᵀX."""

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        return {"w": torch.randn(FEATURES, 1, generator=generator, dtype=dtype)}

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        return inputs @ params["w"]


def gradient_at(w: Tensor, examples: Examples) -> Tensor:
    return 2 / len(examples.inputs) * examples.inputs.T @ (examples.inputs @ w - examples.targets)


def hessian(examples: Examples) -> Tensor:
    return 2 / len(examples.inputs) * examples.inputs.T @ examples.inputs


def adapted(w: Tensor, support: Examples, steps: int) -> Tensor:
    """w* + (I - αH)^k (w - w*): gradient descent on a quadratic with its minimum at w*."""
    best = torch.linalg.lstsq(support.inputs, support.targets).solution
    shrink = torch.eye(FEATURES, dtype=w.dtype) - ALPHA * hessian(support)
    return best + torch.linalg.matrix_power(shrink, steps) @ (w - best)


@pytest.fixture
def episodes() -> list[Episode]:
    generator = torch.Generator().manual_seed(3)

    def examples(count: int) -> Examples:
        x = torch.randn(count, FEATURES, dtype=torch.float64, generator=generator)
        return Examples(x, torch.randn(count, 1, dtype=torch.float64, generator=generator))

    return [Episode(examples(SHOTS), examples(QUERIES), torch.zeros(0)) for _ in range(TASKS)]


@pytest.fixture
def theta() -> Params:
    return Linear().init(torch.Generator().manual_seed(4), torch.float64)


def meta_gradient(algorithm: type[MAML], steps: int, theta: Params, episodes: list[Episode]) -> Tensor:
    learner = algorithm(model=Linear(), objective=MSE, inner=Inner(lr=ALPHA, steps=steps))
    return vmapped(learner).meta_gradient(theta, stack(episodes)).gradient["w"]


def test_without_inner_steps_it_is_the_gradient_of_the_query_loss(
    theta: Params, episodes: list[Episode], close: Close
) -> None:
    expected = sum(gradient_at(theta["w"], episode.query) for episode in episodes)
    close(meta_gradient(MAML, 0, theta, episodes), expected)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_on_linear_regression_it_is_the_closed_form(
    steps: int, theta: Params, episodes: list[Episode], close: Close
) -> None:
    """Σ_i ((I - αH_i)^k)ᵀ ∇L(θ'_i; query), by the chain rule through k steps of the same Jacobian."""
    expected = torch.zeros_like(theta["w"])
    for support, query, _ in episodes:
        jacobian = torch.eye(FEATURES, dtype=torch.float64) - ALPHA * hessian(support)
        there = gradient_at(adapted(theta["w"], support, steps), query)
        expected += torch.linalg.matrix_power(jacobian, steps).T @ there
    close(meta_gradient(MAML, steps, theta, episodes), expected)


@pytest.mark.parametrize("steps", [1, 5])
def test_first_order_leaves_the_jacobian_out(steps: int, theta: Params, episodes: list[Episode], close: Close) -> None:
    expected = sum(gradient_at(adapted(theta["w"], e.support, steps), e.query) for e in episodes)
    close(meta_gradient(FirstOrderMAML, steps, theta, episodes), expected)
    assert not torch.allclose(meta_gradient(MAML, steps, theta, episodes), expected)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_adapt_follows_gradient_descent_and_leaves_its_start_alone(
    steps: int, theta: Params, episodes: list[Episode], close: Close
) -> None:
    learner = MAML(model=Linear(), objective=MSE, inner=Inner(lr=ALPHA, steps=0))
    before = theta["w"].clone()
    reached = learner.inner.adapted(learner.loss, theta, episodes[0].support, steps)
    close(reached["w"], adapted(before, episodes[0].support, steps))
    assert torch.equal(theta["w"], before)


def test_adapt_moves_the_parameters_that_are_named_and_no_others(episodes: list[Episode]) -> None:
    model = MLP(inputs=(FEATURES,), outputs=1, hidden=(3,))
    theta = model.init(torch.Generator().manual_seed(0), torch.float64)
    learner = MAML(model=model, objective=MSE, inner=Inner(lr=ALPHA, steps=2, adapt=("layer1.*",)))
    reached = learner.inner.adapted(learner.loss, theta, episodes[0].support)
    assert list(reached) == list(theta)
    assert {name for name in theta if not torch.equal(theta[name], reached[name])} == {"layer1.weight", "layer1.bias"}


@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_is_computed_anew_only_where_that_is_asked_for(
    recompute: bool, theta: Params, episodes: list[Episode]
) -> None:
    """Recomputing saves memory and costs time: the value is the same, the number of passes tells them apart."""
    learner, passes = MAML(model=Linear(), objective=MSE, inner=Inner(lr=ALPHA, steps=0)), []

    def loss(params: Params, examples: Examples) -> Tensor:
        passes.append(1)
        return learner.loss(params, examples)

    w = theta["w"].clone().requires_grad_()
    inner = Inner(lr=ALPHA, steps=3, recompute=recompute)
    last = inner.adapted(loss, {"w": w}, episodes[0].support)
    assert len(passes) == 3
    last["w"].sum().backward()
    assert len(passes) == (6 if recompute else 3)
    shrink = torch.eye(FEATURES, dtype=w.dtype) - ALPHA * hessian(episodes[0].support)
    torch.testing.assert_close(w.grad, torch.linalg.matrix_power(shrink, 3).sum(dim=0)[:, None], rtol=1e-12, atol=0)


def test_path_gives_every_point_with_the_loss_that_led_to_it(
    theta: Params, episodes: list[Episode], close: Close
) -> None:
    learner = MAML(model=Linear(), objective=MSE, inner=Inner(lr=ALPHA, steps=0))
    support = episodes[0].support
    points, losses = zip(*learner.path(theta, support, 3), strict=True)
    assert losses[0] is None
    for number, point in enumerate(points):
        close(point["w"], adapted(theta["w"], support, number))
    for point, loss in zip(points, losses[1:], strict=False):
        close(loss, learner.loss(point, support))


def test_maml_reports_the_support_loss_before_adaptation(theta: Params, episodes: list[Episode], close: Close) -> None:
    learner = MAML(model=Linear(), objective=MSE, inner=Inner(lr=ALPHA, steps=3))
    _, metrics = learner.meta_loss(theta, episodes[0])
    close(metrics["support_loss"], learner.loss(theta, episodes[0].support))


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_predictions_on_the_query_inputs_give_the_scores(
    steps: int, theta: Params, episodes: list[Episode], close: Close
) -> None:
    learner = MAML(model=Linear(), objective=MSE, inner=Inner(lr=ALPHA, steps=1))
    (score,) = learner.scores(theta, episodes[0], (steps,))
    outputs = learner.predict(theta, episodes[0].support, episodes[0].query.inputs, steps)
    close(((outputs - episodes[0].query.targets) ** 2).mean(), score)


def test_pretraining_descends_the_loss_of_all_examples_whatever_the_inner_steps(
    theta: Params, episodes: list[Episode], close: Close
) -> None:
    expected = torch.zeros_like(theta["w"])
    for support, query, _ in episodes:
        parts = zip(support, query, strict=True)
        expected += gradient_at(theta["w"], Examples(*(torch.cat(part) for part in parts)))
    for steps in (0, 5):
        close(meta_gradient(Pretrain, steps, theta, episodes), expected)


class TestOracle:
    @pytest.fixture
    def episode(self, episodes: list[Episode]) -> Episode:
        return episodes[0]._replace(description=torch.tensor([0.5, -0.5], dtype=torch.float64))

    @pytest.fixture
    def informed(self, episode: Episode) -> Episode:
        return described(episode)

    @pytest.fixture
    def oracle(self) -> Oracle:
        return Oracle(model=MLP(inputs=(FEATURES + 2,), outputs=1), objective=MSE, inner=Inner(lr=ALPHA, steps=1))

    def test_scores_the_same_after_any_number_of_steps(self, oracle: Oracle, informed: Episode) -> None:
        theta = oracle.init(torch.Generator().manual_seed(0), torch.float64)
        scores = oracle.scores(theta, informed, (0, 1, 10))
        assert scores.shape == (3,)
        assert scores.unique().numel() == 1

    def test_sees_the_description(self, oracle: Oracle, episode: Episode) -> None:
        theta = oracle.init(torch.Generator().manual_seed(0), torch.float64)
        both = [described(episode._replace(description=sign * episode.description)) for sign in (1, -1)]
        told = [oracle.predict(theta, one.support, one.query.inputs, 0) for one in both]
        assert not torch.equal(*told)

"""Meta-gradients of policies: every estimator, outer objective and strategy against central finite differences.

What an episode holds is data: probabilities, distributions and advantages under the policies that sampled it stay as
they are when θ moves.
"""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from meta.engine.native.ir import Unsupported
from meta.engine.strategies import STRATEGIES
from meta.episode import Episode, Examples, unstack
from meta.inner import EVERY, Inner
from meta.params import Layout, Params
from meta.policy import (
    CategoricalPolicy,
    GaussianPolicy,
    MultiCategoricalPolicy,
    Policy,
    PolicyMAML,
    PolicyOracle,
    PolicyPretrain,
)
from meta.policy.distributions import action_columns
from meta.policy.estimators import ESTIMATORS
from meta.policy.samples import Samples, blank, pack, step_of, unpack

TASKS, TRAJECTORIES, HORIZON, OBSERVED = 2, 3, 4, 3
BATCH = TRAJECTORIES * HORIZON
OUTER = ("likelihood_ratio", "dice")
POLICIES: dict[str, Policy] = {
    "gaussian": GaussianPolicy(inputs=(OBSERVED,), outputs=2, hidden=(4,), activation="tanh"),
    "categorical": CategoricalPolicy(inputs=(OBSERVED,), outputs=3, hidden=(4,), activation="tanh"),
    "multi": MultiCategoricalPolicy(inputs=(OBSERVED,), outputs=(3, 2), hidden=(4,), activation="tanh"),
    "gaussian-relu": GaussianPolicy(inputs=(OBSERVED,), outputs=2, hidden=(5, 4)),
    "categorical-relu": CategoricalPolicy(inputs=(OBSERVED,), outputs=3, hidden=(5, 4)),
}


class Row(NamedTuple):
    policy: str
    estimator: str
    outer: str
    clip: float | None
    penalty: float
    steps: int
    adapt: tuple[str, ...] = EVERY
    recompute: bool = False
    algorithm: type[PolicyMAML] = PolicyMAML

    def __str__(self) -> str:
        names = ("" if self.adapt == EVERY else "-" + "+".join(self.adapt)) + ("-recomputed" if self.recompute else "")
        kind = "" if self.algorithm is PolicyMAML else f"-{self.algorithm.__name__}"
        return "-".join(str(one) for one in self[:6]) + names + kind


ROWS = [
    Row(*row) for row in product(("gaussian", "categorical"), ESTIMATORS, OUTER, (None, 0.2), (0.0, 0.1), (0, 1, 2, 3))
]
ROWS += [
    *(Row(f"{name}-relu", one, "dice", None, 0.1, 2) for name in ("gaussian", "categorical") for one in ESTIMATORS),
    *(Row("gaussian", one, "dice", 0.2, 0.1, 2, ("layer1.*", "log_std")) for one in ESTIMATORS),
    *(Row("categorical", one, "dice", None, 0.1, 3, ("*.bias",)) for one in ESTIMATORS),
    *(Row("gaussian", one, "dice", None, 0.1, 3, recompute=True) for one in ESTIMATORS),
    *(Row("multi", one, "dice", clip, 0.1, 2) for one in ESTIMATORS for clip in (None, 0.2)),
    *(Row("multi", one, "likelihood_ratio", None, 0.0, 1) for one in ESTIMATORS),
    Row("gaussian", "dice", "likelihood_ratio", 0.2, 0.1, 2, ("log_std",), recompute=True),
    Row("gaussian", "dice", "likelihood_ratio", 0.2, 0.1, 2, algorithm=PolicyPretrain),
]
# Each pair of settings meets in one of these; recording every row would take minutes.
TYPICAL = [
    Row("gaussian", "likelihood_ratio", "dice", None, 0.1, 2),
    Row("gaussian", "low_variance", "likelihood_ratio", None, 0.0, 1, ("layer1.*", "log_std")),
    Row("gaussian", "low_variance", "dice", None, 0.1, 1, recompute=True),
    Row("gaussian", "dice", "likelihood_ratio", 0.2, 0.1, 1),
    Row("categorical", "likelihood_ratio", "likelihood_ratio", 0.2, 0.1, 1),
    Row("categorical", "dice", "dice", None, 0.1, 2, ("*.bias",)),
    Row("categorical", "low_variance", "dice", 0.2, 0.0, 0),
    Row("multi", "low_variance", "likelihood_ratio", None, 0.1, 1),
]
COMPILED = TYPICAL[:3]


def made(row: Row) -> PolicyMAML:
    return row.algorithm(
        model=POLICIES[row.policy],
        inner=Inner(lr=0.3, steps=row.steps, adapt=row.adapt, recompute=row.recompute),
        horizon=HORIZON,
        estimator=row.estimator,
        outer_estimator=row.outer,
        clip=row.clip,
        kl_penalty=row.penalty,
    )


@cache
def start(policy: str) -> Params:
    return POLICIES[policy].init(torch.Generator().manual_seed(0), torch.float64)


@cache
def drawn(policy: str, steps: int) -> Episode:
    """Rollouts of policies near the one that starts; every second trajectory ends a step early."""
    generator, model = torch.Generator().manual_seed(1), POLICIES[policy]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def examples(*leading: int) -> Examples:
        observations = normal(*leading, BATCH, OBSERVED)
        outputs = model.apply(start(policy), observations.flatten(0, -2)).unflatten(0, (*leading, BATCH))
        outputs = outputs + 0.3 * normal(*leading, BATCH, model.width)
        columns = action_columns(model)
        uniform = torch.rand(*leading, BATCH, columns, dtype=torch.float64, generator=generator)
        actions = model.sample(outputs, uniform if model.discrete else normal(*leading, BATCH, columns))
        taken = torch.ones(*leading, TRAJECTORIES, HORIZON, dtype=torch.float64)
        taken[..., ::2, -1] = 0
        taken = taken.flatten(-2)
        return pack(
            Samples(
                observations=observations,
                actions=actions,
                weights=taken / taken.sum(dim=-1, keepdim=True),
                rewards=normal(*leading, BATCH) * taken,
                advantages=normal(*leading, BATCH) * taken,
                log_probabilities=model.log_probability(outputs, actions),
                outputs=outputs,
            )
        )

    return Episode(examples(TASKS, steps), examples(TASKS), torch.zeros(TASKS, 0, dtype=torch.float64))


def flat(params: Params) -> Tensor:
    return Layout.of(params).flatten(params)


def check(row: Row, strategy: str) -> None:
    """Compare the derivative along a direction; the difference errs by h²/6 of the third, and by roundoff over h."""
    algorithm, episodes, theta = made(row), drawn(row.policy, row.steps), start(row.policy)
    layout, here, h = Layout.of(theta), flat(theta), 1e-5
    direction = torch.randn(len(here), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    direction /= direction.norm()

    def total(at: Tensor) -> Tensor:
        params = layout.unflatten(at)
        return torch.stack([algorithm.meta_loss(params, unstack(episodes, task))[0] for task in range(TASKS)]).sum()

    difference = (total(here + h * direction) - total(here - h * direction)) / (2 * h)
    found = STRATEGIES[strategy](algorithm).meta_gradient(theta, episodes)
    torch.testing.assert_close(flat(found.gradient) @ direction, difference, rtol=1e-6, atol=0)
    assert found.metrics.keys() == {"loss", "surrogate"}
    torch.testing.assert_close(found.metrics["loss"].sum(), total(here), rtol=1e-12, atol=0)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_meta_gradients_agree_with_central_finite_differences(row: Row) -> None:
    check(row, "vmap")


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("vmap", "graph")])
@pytest.mark.parametrize("row", TYPICAL, ids=str)
def test_every_strategy_agrees_with_central_finite_differences(row: Row, strategy: str) -> None:
    try:
        check(row, strategy)
    except Unsupported as error:
        assert strategy == "native"
        assert row not in COMPILED
        pytest.skip(str(error))


def by_hand(algorithm: PolicyMAML, params: Params, episode: Episode) -> list[Params]:
    """Every inner step by ordinary reverse differentiation."""
    walk = [params]
    for number in range(algorithm.inner.steps):
        moving = {name: value.detach().requires_grad_() for name, value in walk[-1].items()}
        slopes = torch.autograd.grad(algorithm.loss(moving, step_of(episode.support, number)), list(moving.values()))
        after = {
            name: value - algorithm.inner.lr * slope
            for (name, value), slope in zip(walk[-1].items(), slopes, strict=True)
        }
        walk.append(after)
    return walk


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("policy", ["gaussian", "categorical"])
def test_each_inner_step_descends_on_rollouts_of_its_own(
    policy: str, estimator: str, close: Callable[..., None]
) -> None:
    algorithm, episode = made(Row(policy, estimator, "dice", None, 0.0, 3)), unstack(drawn(policy, 3))
    expected = by_hand(algorithm, start(policy), episode)
    found = algorithm.adapted(start(policy), episode)
    assert len(found) == 4
    at = algorithm.inner.begin(start(policy))
    for number in range(4):
        close(flat(found[number]), flat(expected[number]))
        close(flat(at.params), flat(expected[number]))
        if number < 3:
            at = algorithm.step(at, step_of(episode.support, number))
    assert (flat(found[2]) - flat(found[3])).norm() > 1e-3


def test_what_the_inner_loop_leaves_stays_as_it_is() -> None:
    algorithm = made(Row("gaussian", "dice", "dice", None, 0.0, 2, ("layer1.*", "log_std")))
    theta, last = start("gaussian"), algorithm.adapted(start("gaussian"), unstack(drawn("gaussian", 2)))[-1]
    moved = {name for name, value in last.items() if not torch.equal(value, theta[name])}
    assert moved == {"layer1.weight", "layer1.bias", "log_std"}


def test_recomputed_steps_give_the_same_gradient(close: Callable[..., None]) -> None:
    rows = [Row("gaussian", "dice", "dice", 0.2, 0.1, 3, recompute=recompute) for recompute in (False, True)]
    found = [STRATEGIES["vmap"](made(row)).meta_gradient(start("gaussian"), drawn("gaussian", 3)) for row in rows]
    close(flat(found[1].gradient), flat(found[0].gradient))


@pytest.mark.parametrize("cls", [PolicyPretrain, PolicyOracle])
def test_baselines_descend_the_surrogate_of_the_policy_itself(
    cls: type[PolicyMAML], close: Callable[..., None]
) -> None:
    row = Row("gaussian", "likelihood_ratio", "likelihood_ratio", None, 0.0, 2)
    theta, episodes = start("gaussian"), drawn("gaussian", 2)
    found = STRATEGIES["vmap"](made(row._replace(algorithm=cls))).meta_gradient(theta, episodes)
    unmoved = STRATEGIES["vmap"](made(row._replace(steps=0))).meta_gradient(theta, episodes)
    close(flat(found.gradient), flat(unmoved.gradient))


def test_the_penalty_is_the_mean_divergence_from_the_policies_that_sampled_before(close: Callable[..., None]) -> None:
    row, theta = Row("categorical", "dice", "dice", 0.2, 0.0, 2), start("categorical")
    episode = unstack(drawn("categorical", 2))
    free, held = (made(row._replace(penalty=penalty)).meta_loss(theta, episode)[0] for penalty in (0.0, 0.7))
    model, divergences = POLICIES["categorical"], []
    for number, params in enumerate(made(row).adapted(theta, episode)[:-1]):
        samples = unpack(step_of(episode.support, number), model)
        pair = (Categorical(logits=one) for one in (samples.outputs, model.apply(params, samples.observations)))
        divergences.append((samples.weights * kl_divergence(*pair)).sum())
    close(held - free, 0.7 * torch.stack(divergences).mean())


def test_rollouts_are_judged_by_surrogate_and_divergence_of_the_adapted_policy(close: Callable[..., None]) -> None:
    algorithm, episode = made(Row("categorical", "dice", "dice", 0.2, 0.1, 2)), unstack(drawn("categorical", 2))
    model, theta = POLICIES["categorical"], start("categorical")
    query = unpack(episode.query, model)
    outputs = model.apply(algorithm.adapted(theta, episode)[-1], query.observations)
    old, new = (Categorical(logits=one) for one in (query.outputs, outputs))
    ratio = (new.log_prob(query.actions.squeeze(-1)) - query.log_probabilities).exp()
    expected = [-(query.weights * ratio * query.advantages).sum(), (query.weights * kl_divergence(old, new)).sum()]
    close(algorithm.surrogate_and_kl(theta, episode), torch.stack(expected))
    close(algorithm.outputs(theta, episode), outputs)


@pytest.mark.parametrize("policy", ["gaussian", "categorical", "multi"])
def test_rollouts_are_packed_and_unpacked(policy: str) -> None:
    model, episodes = POLICIES[policy], drawn(policy, 2)
    examples = episodes.support
    again = pack(unpack(examples, model))
    assert all(torch.equal(*pair) for pair in zip(again, examples, strict=True))
    shapes = [tuple(leaf.shape) for leaf in unpack(examples, model)]
    columns = {"gaussian": 2, "categorical": 1, "multi": 2}[policy]
    assert shapes[:2] == [(TASKS, 2, BATCH, OBSERVED), (TASKS, 2, BATCH, columns)]
    assert shapes[2:] == [(TASKS, 2, BATCH)] * 4 + [(TASKS, 2, BATCH, model.width)]
    empty = blank(model, OBSERVED, 2, BATCH, torch.float64)
    for one, other in ((empty.support, episodes.support), (empty.query, episodes.query)):
        assert [leaf.shape[1:] for leaf in one] == [leaf.shape[1:] for leaf in other]


@pytest.mark.parametrize("policy", ["gaussian", "categorical"])
def test_a_blank_episode_is_of_one_task(policy: str) -> None:
    """Memory is planned by it: one task more would double what is asked for."""
    model, blanks = POLICIES[policy], blank(POLICIES[policy], OBSERVED, 3, BATCH, torch.float64)
    columns = (1 if model.discrete else 2) + 4 + model.width
    assert [tuple(leaf.shape) for leaf in blanks.support] == [(1, 3, BATCH, OBSERVED), (1, 3, BATCH, columns)]
    assert [tuple(leaf.shape) for leaf in blanks.query] == [(1, BATCH, OBSERVED), (1, BATCH, columns)]
    assert tuple(blanks.description.shape) == (1, 0)
    every = (*blanks.support, *blanks.query, blanks.description)
    assert all(leaf.dtype == torch.float64 and not leaf.any() for leaf in every)


def test_a_pattern_that_fits_no_parameter_is_named() -> None:
    algorithm = made(Row("gaussian", "dice", "dice", None, 0.0, 1, ("layer0.*", "head.*")))
    with pytest.raises(ValueError, match=r"inner.adapt expects patterns .*, 'head.\*' fits none of layer0.weight"):
        algorithm.init(torch.Generator().manual_seed(0), torch.float64)

"""Products with the Hessian of the divergence, and the other batch functions of the engine for policies."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, vmap

from meta.context import context
from meta.engine.calls import Calls, Prepared
from meta.engine.strategies import STRATEGIES
from meta.episode import Episode, Examples, from_leaves, leaves, stack, unstack
from meta.inner import EVERY, At, Inner, LearnedSGD
from meta.params import Layout, Params
from meta.policy import CategoricalPolicy, GaussianPolicy, MultiCategoricalPolicy, Policy, PolicyMAML
from meta.policy.algorithms import fisher_product
from meta.policy.distributions import action_columns
from meta.policy.engine import PolicyEngine
from meta.policy.estimators import ESTIMATORS
from meta.policy.samples import Samples, pack, unpack

TASKS, HORIZON, BATCH, OBSERVED = 3, 4, 12, 2
POLICIES: dict[str, Policy] = {
    "gaussian": GaussianPolicy(inputs=(OBSERVED,), outputs=2, hidden=(3,), activation="tanh"),
    "categorical": CategoricalPolicy(inputs=(OBSERVED,), outputs=3, hidden=(3,), activation="tanh"),
    "multi": MultiCategoricalPolicy(inputs=(OBSERVED,), outputs=(3, 2), hidden=(3,), activation="tanh"),
}
Same = Callable[[Params, Params], bool]


class Row(NamedTuple):
    policy: str
    estimator: str
    steps: int
    adapt: tuple[str, ...] = EVERY
    recompute: bool = False

    def __str__(self) -> str:
        return "-".join(map(str, (self.policy, self.estimator, self.steps, *self.adapt)))


ROWS = [Row(*row) for row in product(POLICIES, ESTIMATORS, (0, 1, 3))]
ROWS += [
    Row("gaussian", "likelihood_ratio", 2, ("log_std",)),
    Row("gaussian", "dice", 2, ("layer1.*", "log_std"), recompute=True),
    Row("categorical", "low_variance", 3, ("*.bias",)),
]
rows = pytest.mark.parametrize("row", ROWS, ids=str)
ONE = Row("gaussian", "low_variance", 1)


def made(row: Row) -> PolicyMAML:
    return PolicyMAML(
        model=POLICIES[row.policy],
        inner=Inner(lr=0.4, steps=row.steps, adapt=row.adapt, recompute=row.recompute),
        horizon=HORIZON,
        estimator=row.estimator,
    )


@cache
def start(row: Row, dtype: torch.dtype = torch.float64) -> Params:
    return made(row).init(torch.Generator().manual_seed(0), dtype)


@cache
def drawn(row: Row, task: int) -> Episode:
    """One task's episode whose query rollouts are those of the adapted policy."""
    model, theta, generator = POLICIES[row.policy], start(row), torch.Generator().manual_seed(task)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def examples(observations: Tensor, outputs: Tensor) -> Examples:
        leading = observations.shape[:-1]
        columns = action_columns(model)
        uniform = torch.rand(*leading, columns, dtype=torch.float64, generator=generator)
        actions = model.sample(outputs, uniform if model.discrete else normal(*leading, columns))
        weights = torch.full(leading, 1 / BATCH, dtype=torch.float64)
        log_probabilities = model.log_probability(outputs, actions)
        return pack(
            Samples(observations, actions, weights, normal(*leading), normal(*leading), log_probabilities, outputs)
        )

    observations = normal(row.steps, BATCH, OBSERVED)
    outputs = model.apply(theta, observations.flatten(0, 1)).unflatten(0, (row.steps, BATCH))
    support, seen = examples(observations, outputs), normal(BATCH, OBSERVED)
    query = examples(seen, torch.zeros(BATCH, model.width, dtype=torch.float64))
    episode = Episode(support, query, torch.zeros(0, dtype=torch.float64))
    return episode._replace(query=examples(seen, made(row).outputs(theta, episode)))


def vector(row: Row, seed: int) -> Params:
    layout = Layout.of(start(row))
    return layout.unflatten(
        torch.randn(layout.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )


def flat(params: Params) -> Tensor:
    return Layout.of(params).flatten(params)


def multiplied(row: Row, params: Params) -> Tensor:
    return flat(fisher_product(made(row), start(row), params, drawn(row, 0)))


@rows
def test_products_are_differences_of_the_divergences_gradient(row: Row) -> None:
    algorithm, theta, along, h = made(row), start(row), vector(row, 1), 1e-5

    def divergence(params: Params) -> Tensor:
        return algorithm.surrogate_and_kl(params, drawn(row, 0))[1]

    slopes = [
        flat(grad(divergence)({name: value + sign * h * along[name] for name, value in theta.items()}))
        for sign in (1, -1)
    ]
    torch.testing.assert_close(flat(grad(divergence)(theta)), torch.zeros_like(slopes[0]), rtol=0, atol=1e-15)
    expected, found = (slopes[0] - slopes[1]) / (2 * h), multiplied(row, along)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@rows
def test_products_are_those_of_a_symmetric_positive_matrix(row: Row, close: Callable[..., None]) -> None:
    layout, algorithm, query = Layout.of(start(row)), made(row), unpack(drawn(row, 0).query, POLICIES[row.policy])
    matrix = vmap(lambda one: multiplied(row, layout.unflatten(one)))(torch.eye(layout.size, dtype=torch.float64))

    def outputs(theta: Tensor) -> Tensor:
        return algorithm.outputs(layout.unflatten(theta), drawn(row, 0))

    slopes = jacrev(outputs)(flat(start(row)))
    information = vmap(lambda old: hessian(lambda new: algorithm.model.divergence(old, new))(old))(query.outputs)
    close(matrix, torch.einsum("b,bmp,bmn,bnq->pq", query.weights, slopes, information, slopes))
    close(matrix, matrix.T)
    values = torch.linalg.eigvalsh(matrix)
    assert values[0] > -1e-13 * values[-1]
    assert values[-1] > 0.01


def test_adaptation_changes_the_products() -> None:
    moved, unmoved = (multiplied(ONE._replace(steps=steps), vector(ONE, 1)) for steps in (1, 0))
    assert (moved - unmoved).norm() > 0.05 * unmoved.norm()


def engine(row: Row, memory: int | None = None) -> PolicyEngine:
    return PolicyEngine(made(row), lambda: STRATEGIES["vmap"](made(row)), memory)


@cache
def batch(row: Row) -> Episode:
    return stack([drawn(row, task) for task in range(TASKS)])


@pytest.mark.parametrize("row", [ONE, Row("categorical", "dice", 1, ("*.bias",))], ids=str)
def test_the_engine_adds_up_the_products_of_tasks_whatever_it_keeps(
    row: Row, close: Callable[..., None], same_bits: Same
) -> None:
    vectors = [vector(row, seed) for seed in (1, 2)]
    found = {}
    for memory in (None, 0):
        product = engine(row, memory).fisher_products(start(row), batch(row))
        found[memory] = [product(one) for one in (*vectors, vectors[0])]
        assert same_bits(found[memory][0], found[memory][2])
    assert all(same_bits(*pair) for pair in zip(found[0], found[None], strict=True))
    for one, total in zip(vectors, found[None], strict=False):
        tasks = [flat(fisher_product(made(row), start(row), one, drawn(row, task))) for task in range(TASKS)]
        close(flat(total), torch.stack(tasks).sum(dim=0))


def test_memory_limits_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    row, prepared, prepare = ONE._replace(steps=0), [], Calls.prepare

    def counted(self: Calls, *arguments: object) -> Prepared:
        found = prepare(self, *arguments)
        prepared.append(found.nbytes)
        return found

    monkeypatch.setattr(Calls, "prepare", counted)
    engine(row).fisher_products(start(row), batch(row))(vector(row, 1))
    size, counts = prepared[0], []
    for memory in (None, 2 * size, 2 * size - 1, 0):
        prepared.clear()
        product = engine(row, memory).fisher_products(start(row), batch(row))
        for _ in range(2):
            product(vector(row, 1))
        counts.append(len(prepared))
    assert counts == [TASKS, TASKS + 1, TASKS + 2, 2 * TASKS]


# Sizes at which tasks' rows begin at no multiple of 16 bytes, and a product of single matrices goes its own way.
UNEVEN = {
    f"gaussian-{hidden}": GaussianPolicy(inputs=(5,), outputs=1, hidden=(hidden,), activation="tanh")
    for hidden in (7, 33)
} | {"categorical-33": CategoricalPolicy(inputs=(5,), outputs=3, hidden=(33,))}


def acting(policy: str) -> tuple[PolicyMAML, PolicyEngine]:
    algorithm = PolicyMAML(model=UNEVEN[policy], inner=Inner(lr=0.4, steps=1), horizon=5, estimator="low_variance")
    return algorithm, PolicyEngine(algorithm, lambda: STRATEGIES["vmap"](algorithm))


def several(policy: str, dtype: torch.dtype) -> Params:
    """Parameters of several tasks, [T, …]."""
    generator = torch.Generator().manual_seed(3)
    own = [UNEVEN[policy].init(generator, dtype) for _ in range(TASKS)]
    return {name: torch.stack([one[name] for one in own]) for name in own[0]}


def one_of(params: Params, task: int) -> Params:
    return {name: value[task : task + 1].clone() for name, value in params.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rows", [1, 5, 16])
@pytest.mark.parametrize("policy", UNEVEN)
def test_tasks_act_alike_alone_and_among_others(policy: str, rows: int, dtype: torch.dtype) -> None:
    model, one, params = UNEVEN[policy], acting(policy)[1], several(policy, dtype)
    generator = torch.Generator().manual_seed(4)
    observations = torch.randn(TASKS, rows, 5, dtype=dtype, generator=generator)
    noise = torch.rand(TASKS, rows, 1, dtype=dtype, generator=generator)
    actions, outputs = one.act(params, observations, noise)
    assert actions.shape == (TASKS, rows, 1)
    for task in range(TASKS):
        found = one.act(one_of(params, task), observations[task : task + 1], noise[task : task + 1])
        assert torch.equal(found[0][0], actions[task])
        assert torch.equal(found[1][0], outputs[task])
        assert torch.equal(actions[task], model.sample(outputs[task], noise[task]))
        expected = model.apply({name: value[task] for name, value in params.items()}, observations[task])
        torch.testing.assert_close(outputs[task], expected)


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [("gaussian-7", torch.float32), ("gaussian-7", torch.float64), ("gaussian-33", torch.float64)],
    ids=str,
)
def test_steps_judgements_and_products_of_a_task_are_alike_alone_and_among_others(
    policy: str, dtype: torch.dtype, same_bits: Same, close: Callable[..., None]
) -> None:
    (algorithm, one), params, model, rows = acting(policy), several(policy, dtype), UNEVEN[policy], 15
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=generator)

    outputs, noise = normal(TASKS, rows, model.width), torch.rand(TASKS, rows, 1, dtype=dtype, generator=generator)
    actions = model.sample(outputs, noise)
    scalars = (torch.full((TASKS, rows), 1 / rows, dtype=dtype), normal(TASKS, rows), normal(TASKS, rows))
    logs = model.log_probability(outputs, actions)
    query = pack(Samples(normal(TASKS, rows, 5), actions, *scalars, logs, outputs))
    support = Examples(*(part[:, None] for part in query))
    episodes, theta = Episode(support, query, torch.zeros(TASKS, 0, dtype=dtype)), unstacked(one_of(params, 0))
    alone = [from_leaves([leaf[task : task + 1].clone() for leaf in leaves(episodes)]) for task in range(TASKS)]

    now = context({"lr": 0.3}, dtype, "cpu")
    moved, judged = one.step(point(params), query, now).params, one.surrogate_and_kl(theta, episodes)
    for task, part in enumerate(alone):
        own = one_of(params, task)
        assert same_bits(one.step(point(own), part.query, now).params, one_of(moved, task))
        expected = algorithm.step(algorithm.inner.begin(unstacked(own)), unstack(part).query, now).params
        for name, value in expected.items():
            close(moved[name][task], value)
        assert torch.equal(one.surrogate_and_kl(theta, part)[0], judged[task])
        close(judged[task], algorithm.surrogate_and_kl(theta, unstack(part)))
    together, *parts = (one.fisher_products(theta, given)(theta) for given in (episodes, *alone))
    assert same_bits(together, {name: parts[0][name] + parts[1][name] + parts[2][name] for name in theta})


def point(params: Params) -> At:
    """Before the first step, from each task's own parameters [T, …]."""
    return At(params, {}, 0, {}, {})


def unstacked(params: Params) -> Params:
    return {name: value[0] for name, value in params.items()}


def test_the_rate_of_a_step_is_what_it_is_asked_for(close: Callable[..., None]) -> None:
    one, own = engine(ONE), {name: value[None] for name, value in start(ONE).items()}
    query = unstack(batch(ONE)).query
    data = Examples(query.inputs[None], query.targets[None])
    moves = [
        flat(one.step(point(own), data, context({"lr": lr}, torch.float64, "cpu")).params) - flat(own)
        for lr in (0.3, 0.6)
    ]
    torch.testing.assert_close(moves[1], 2 * moves[0], rtol=1e-9, atol=1e-15)


def test_products_through_other_rules_are_those_through_the_same_steps(close: Callable[..., None]) -> None:
    """Learned step sizes that have yet to move: the same steps, by forward and reverse derivatives in general."""
    plain = made(ONE)
    learned = replace(plain, inner=replace(plain.inner, rule=LearnedSGD()))
    theta, episode = start(ONE), unstack(batch(ONE))
    wide = learned.init(torch.Generator().manual_seed(0), torch.float64)
    wide = {**wide, **theta}
    generator = torch.Generator().manual_seed(7)
    vector = {name: torch.randn(value.shape, dtype=value.dtype, generator=generator) for name, value in theta.items()}
    still = {name: vector.get(name, torch.zeros_like(value)) for name, value in wide.items()}
    product = fisher_product(learned, wide, still, episode)
    close(flat({name: product[name] for name in theta}), flat(fisher_product(plain, theta, vector, episode)))
    assert all(bool(product[name].any()) for name in wide if name.startswith("inner/"))


def test_meta_gradients_go_through_the_engine_that_is_given(same_bits: Same) -> None:
    found = engine(ONE).meta_gradient(start(ONE), batch(ONE))
    expected = STRATEGIES["vmap"](made(ONE)).meta_gradient(start(ONE), batch(ONE))
    assert same_bits(found.gradient, expected.gradient)
    assert same_bits(found.metrics, expected.metrics)

"""The compiled strategy: translation, planning, compiling, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import grad

from meta.algorithms import MAML
from meta.engine.choice import choose, measure
from meta.engine.native import toolchain
from meta.engine.native.ir import Index, Unsupported, contiguous, strides
from meta.engine.native.program import Program, translated
from meta.engine.strategies import Limits, build
from meta.episode import Episode, Examples, place, stack, unstack
from meta.inner import Inner
from meta.models import MLP, Conv4, TorchModel
from meta.objectives import CROSS_ENTROPY
from meta.params import Params

CPU = torch.device("cpu")
LONG = 10**9  # training tasks of a long run


def episodes(tasks: int = 3, shape: tuple[int, ...] = (3,), support: int = 4, query: int = 5) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def examples(count: int) -> Examples:
        return Examples(
            torch.randn(count, *shape, dtype=torch.float64, generator=generator),
            torch.randint(2, (count,), generator=generator),
        )

    return stack([Episode(examples(support), examples(query), torch.zeros(0)) for _ in range(tasks)])


def maml(model: object, **changed: object) -> MAML:
    return MAML(model=model, objective=CROSS_ENTROPY, inner=Inner(**{"lr": 0.1, "steps": 1} | changed))


def small() -> MAML:
    return maml(MLP(inputs=(3,), outputs=2, hidden=(8,), init_std=None))


def start(algorithm: MAML, dtype: torch.dtype = torch.float64) -> Params:
    return algorithm.init(torch.Generator().manual_seed(0), dtype)


def check(function: Callable[..., list[Tensor]], theta: Params, given: Episode) -> None:
    """Every output of a compiled function is that of torch, for each task."""
    found = Program(lambda theta, task, _: function(theta, task), theta, given, adds=False)(theta, given)
    for task in range(len(given.description)):
        for number, (one, expected) in enumerate(zip(found, function(theta, unstack(given, task)), strict=True)):
            torch.testing.assert_close(
                one[task], expected.to(one.dtype), rtol=1e-12, atol=1e-12, msg=f"output {number}"
            )


def test_views_reductions_and_choices_are_those_of_torch() -> None:
    def function(theta: Params, episode: Episode) -> list[Tensor]:
        a, x, labels = theta["a"], episode.support.inputs, episode.support.targets  # [4, 6], [5, 2, 3, 4], [5]
        t = x.permute(0, 2, 3, 1)
        logits = x.flatten(1)[:, :7]
        return [
            t.reshape(5, 24),
            t.transpose(1, 2).flatten(),
            x.view(10, 12).t().reshape(3, 4, 10),
            x.unsqueeze(1).expand(5, 3, 2, 3, 4).sum((0, 3)),
            x[1:4, :, ::2, 1:],
            torch.cat([x, 2 * x[:2]], dim=0)[3:],
            torch.cat([x[..., :1], x], dim=3),
            torch.stack([x[0], x[1]], dim=1),
            x.mean((2, 3)),
            x.amax(3),
            x.sum(),
            (x - x.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3)).rsqrt(),
            F.log_softmax(logits, dim=1),
            F.cross_entropy(logits, labels),
            (logits.argmax(-1) == labels).double().mean(),
            torch.where(x > 0, x, -0.1 * x) * (a[0, 0] + 1),
            F.leaky_relu(x, 0.3),
            F.silu(x) + F.layer_norm(x, (3, 4)),
            (x.flatten(1)[:, :4] @ a).t() @ x.flatten(1)[:, :6],
            a.t()[1:3] @ a[:, 2:5],
            a.sum(0).expand(5, 6),
            torch.ones(3, dtype=a.dtype) * a[0, :3],
            torch.exp(-x.abs()).log1p() / (1 + x**2),
            x**3 + x**1 + x**0 + (x * x + 1) ** 0.7,
            torch.maximum(x, 0.5 - x),
            x.clamp(-0.5, 0.3),
            a[:, :3] @ torch.eye(3, 6, dtype=a.dtype),
            F.relu(x.clone().mul_(2).add_(0.1), inplace=True),
        ]

    generator = torch.Generator().manual_seed(1)
    theta = {"a": torch.randn(4, 6, dtype=torch.float64, generator=generator)}
    check(function, theta, episodes(shape=(2, 3, 4), support=5))


@pytest.mark.parametrize("channels", [1, 3, 18])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((3, 3), (2, 2), (1, 1)), ((1, 1), (1, 1), (0, 0)), ((2, 3), (1, 2), (1, 0))]
)
def test_convolutions_and_poolings_of_any_shape_and_their_second_derivatives(
    channels: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    def objective(theta: Params, episode: Episode) -> Tensor:
        y = F.conv2d(episode.support.inputs, theta["w"], theta["b"], stride=stride, padding=padding)
        return (F.max_pool2d(y, 2, stride=1, padding=1) ** 3).mean() + torch.tanh(y).square().sum()

    def function(theta: Params, episode: Episode) -> list[Tensor]:
        first = grad(objective)(theta, episode)
        second = grad(lambda at: sum((g**2).sum() for g in grad(objective)(at, episode).values()))(theta)
        return [*first.values(), *second.values()]

    generator = torch.Generator().manual_seed(1)
    theta = {
        "w": torch.randn(channels, 2, *kernel, dtype=torch.float64, generator=generator) / 4,
        "b": torch.randn(channels, dtype=torch.float64, generator=generator),
    }
    check(function, theta, episodes(tasks=2, shape=(2, 7, 6), support=3))


def test_not_a_number_and_infinity_spread_as_in_torch() -> None:
    algorithm = small()
    for value in (float("nan"), float("inf")):
        given = episodes()
        given.support.inputs[1, 0, 0] = value
        gradient, metrics = build("native", algorithm).meta_gradient(start(algorithm), given)
        assert not any(bool(torch.isfinite(part).all()) for part in gradient.values())
        assert torch.isfinite(metrics["loss"]).tolist() == [True, False, True]


def test_threads_and_parts_add_up_to_the_whole(close: Callable[..., None]) -> None:
    algorithm, given = small(), episodes(tasks=7)
    one, two, many = (build("native", algorithm, Limits(threads=count)) for count in (1, 2, 16))
    expected = one.meta_gradient(start(algorithm), given)
    for engine in (two, many):
        found = engine.meta_gradient(start(algorithm), given)
        for name, value in expected.gradient.items():
            close(found.gradient[name], value)
        assert torch.equal(found.metrics["loss"], expected.metrics["loss"])


@pytest.mark.nightly
def test_memory_does_not_grow_with_tasks_and_hardly_with_recomputed_steps() -> None:
    model = Conv4(inputs=(1, 12, 12), outputs=2, channels=8)
    need = {}
    for steps, recompute in ((2, False), (8, False), (2, True), (8, True)):
        algorithm = maml(model, steps=steps, recompute=recompute)
        theta = start(algorithm)
        sizes = [
            translated(grad(algorithm.meta_loss, has_aux=True), theta, episodes(tasks, (1, 12, 12)), adds=True).memory
            for tasks in (1, 5)
        ]
        assert sizes[0] == sizes[1]
        need[steps, recompute] = sizes[0]
    parameters = 8 * sum(value.numel() for value in theta.values())
    assert need[8, False] > 2.5 * need[2, False]
    assert need[8, True] - need[2, True] <= 6 * 1.25 * parameters
    assert need[8, True] < 2 * need[2, True]


def test_a_batch_over_the_limit_is_computed_in_parts(close: Callable[..., None]) -> None:
    algorithm, given = small(), episodes(tasks=7)
    whole = build("trace", algorithm).meta_gradient(start(algorithm), given)
    parts = build("trace", algorithm, Limits(memory=20_000)).meta_gradient(start(algorithm), given)
    for name, value in whole.gradient.items():
        close(parts.gradient[name], value)
    assert parts.metrics["loss"].shape == (7,)


class Sorted(nn.Module):
    """Something that has no translation."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs[0], outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs).sort(dim=1).values


def test_a_model_without_translation_is_passed_over_with_the_reason() -> None:
    algorithm = maml(TorchModel(lambda: Sorted((3,), 2)))
    given = episodes()
    choice = choose(algorithm, start(algorithm), given, CPU, LONG)
    assert choice.name == "trace"
    assert "operator aten.sort" in choice.passed_over["native"]
    with pytest.raises(Unsupported, match=r"engine native cannot run this: operator aten\.sort.*choose engine=trace"):
        build("native", algorithm).meta_gradient(start(algorithm), given)


def test_a_machine_without_a_compiler_passes_native_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    toolchain.compiler.cache_clear()
    try:
        algorithm = small()
        choice = choose(algorithm, start(algorithm), episodes(), CPU, LONG)
    finally:
        toolchain.compiler.cache_clear()
    assert (choice.name, choice.passed_over["native"]) == ("trace", "CXX names 'no-such-compiler', which is not there")


def test_short_runs_are_not_compiled_and_long_ones_are() -> None:
    algorithm, one = small(), episodes()
    short, long = (choose(algorithm, start(algorithm), one, CPU, tasks) for tasks in (10, LONG))
    assert short.name == "trace"
    assert "this run has 10" in short.passed_over["native"]
    assert (long.name, long.recompute) == ("native", False)


def test_steps_are_recomputed_where_memory_asks_for_it() -> None:
    algorithm, one = small(), episodes()
    choice = choose(algorithm, start(algorithm), one, CPU, LONG, Limits(memory=100))
    assert (choice.name, choice.recompute) == ("native", True)


def test_measuring_keeps_the_fastest_and_names_the_others() -> None:
    algorithm = small()
    choice = measure(algorithm, start(algorithm), episodes())
    assert choice.name in {"vmap", "trace", "loop", "native"}
    assert {choice.name, *choice.passed_over} == {"vmap", "trace", "loop", "native", "graph"}
    assert "CUDA" in choice.passed_over["graph"]


def test_a_program_is_compiled_once_for_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARAY_CACHE", str(tmp_path))
    algorithm, given = small(), episodes()
    first = build("native", algorithm).meta_gradient(start(algorithm), given)
    (library,) = (tmp_path / "native").iterdir()
    assert library.suffix == ".so"

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(toolchain, "_compile", refuse)
    second = build("native", algorithm).meta_gradient(start(algorithm), given)
    assert all(torch.equal(first.gradient[name], second.gradient[name]) for name in first.gradient)


def test_a_compiler_s_error_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARAY_CACHE", str(tmp_path))
    with pytest.raises(Unsupported, match=r"does not compile the program: .*error"):
        toolchain.load("this is not C++")
    assert list((tmp_path / "native").glob("*.so")) == []


def test_programs_in_double_and_single_precision_live_side_by_side(close: Callable[..., None]) -> None:
    algorithm, given = small(), episodes()
    engine = build("native", algorithm)
    exact = engine.meta_gradient(start(algorithm), given)
    rounded = engine.meta_gradient(start(algorithm, torch.float32), place(given, torch.float32, "cpu"))
    for name, value in exact.gradient.items():
        close(rounded.gradient[name], value)


def test_the_translation_of_a_program_is_a_function_of_its_shapes() -> None:
    algorithm, given = maml(Conv4(inputs=(1, 8, 8), outputs=2, channels=3, blocks=2)), episodes(shape=(1, 8, 8))
    one, other = (
        translated(grad(algorithm.meta_loss, has_aux=True), start(algorithm), given, adds=True).source for _ in range(2)
    )
    assert one == other


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(shapes.flatmap(lambda shape: st.tuples(st.just(shape), st.permutations(range(len(shape))))))
def test_strides_number_the_elements_once_each(case: tuple[list[int], list[int]]) -> None:
    shape, order = case
    steps = strides(tuple(shape), tuple(order))
    places = sorted(
        sum(i * step for i, step in zip(index, steps, strict=True))
        for index in torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(-1, len(shape)).tolist()
    )
    assert places == list(range(len(places)))
    assert strides(tuple(shape), contiguous(len(shape))) == torch.empty(shape).stride()


@given(st.dictionaries(st.sampled_from("abc"), st.integers(-3, 3)), st.integers(-5, 5), st.integers(-3, 3))
def test_indices_add_and_multiply_as_numbers_do(terms: dict[str, int], const: int, factor: int) -> None:
    names = {"a": 2, "b": 3, "c": 5}
    index = Index(tuple(sorted(terms.items())), const)
    value = const + sum(names[term] * times for term, times in terms.items())
    assert eval(str(index), names) == value
    assert eval(str(index.times(factor)), names) == factor * value
    assert eval(str(index.plus(index)), names) == 2 * value

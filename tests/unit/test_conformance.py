"""Every algorithm with every model, objective, number of inner steps and strategy: one table, one set of tests."""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from meta.algorithms import MAML, Algorithm, FirstOrderMAML, Metrics, Oracle, Pretrain
from meta.engine.native.ir import Unsupported
from meta.engine.strategies import STRATEGIES, Engine
from meta.episode import Episode, Examples, described, leaves, place, stack, unstack
from meta.inner import EVERY, Inner
from meta.models import MLP, Conv4, Model, ResNet12, TorchModel
from meta.models.norm import BatchNormMode
from meta.objectives import OBJECTIVES as NAMED
from meta.objectives import CrossEntropy, Objective, Quantile
from meta.params import Layout, Params

DTYPES = (torch.float64, torch.float32)
INPUTS, OUTPUTS, DESCRIPTION, TASKS, SHOTS, QUERIES = 3, 2, 2, 3, 4, 5
IMAGE, SERIES, SCORED = (2, 8, 8), (3, 4), (0, 2)  # shapes of an image and of a series; numbers of inner steps


class Normed(nn.Module):
    """A user's own network, with layers that couple the units or the examples of a task."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 6),
            nn.LayerNorm(6),
            nn.SiLU(),
            nn.Linear(6, 5),
            nn.BatchNorm1d(5, track_running_stats=False),
            nn.SiLU(),
            nn.Linear(5, outputs),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


class Convolutions(nn.Module):
    """A user's own convolutional network, smooth, and wide enough for vectorised loops that do not come out even."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs[0], 18, 3, stride=2, padding=1),
            nn.BatchNorm2d(18, track_running_stats=False),
            nn.SiLU(),
            nn.Conv2d(18, 21, 3, padding=1, bias=False),
            nn.BatchNorm2d(21, track_running_stats=False),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(21 * 16, outputs),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


class Residual(nn.Module):
    """A residual block with running statistics, computed in place where torch's users do: torchvision's in small."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs[0], 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, affine=False))
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(4, outputs)
        for norm, shift in ((self.first[1], 0.3), (self.second[1], -0.2)):  # as if it had been trained
            norm.get_buffer("running_mean").add_(shift)
            norm.get_buffer("running_var").add_(abs(shift))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.act(self.first(inputs))
        left = self.second(hidden)
        left += hidden
        return self.head(self.act(left).mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM read at its last step."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(inputs[-1], 4, batch_first=True), nn.Linear(4, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.lstm(inputs)[0][:, -1])


class Attending(nn.Module):
    """A transformer's layer, read at the mean over its positions."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            inputs[-1], 2, dim_feedforward=5, dropout=0.0, activation="gelu", batch_first=True
        )
        self.head = nn.Linear(inputs[-1], outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs).mean(1))


def residual(mode: BatchNormMode) -> Callable[[tuple[int, ...], int], Model]:
    return lambda inputs, outputs: TorchModel(lambda: Residual(inputs, outputs), batch_norm=mode)


def mlp(activation: str) -> Callable[[int, int], Model]:
    return lambda inputs, outputs: MLP(
        inputs=(inputs,), outputs=outputs, hidden=(7, 5), activation=activation, init_std=None
    )


COMMON = ("mse", "cross_entropy")  # with every algorithm and model; the others differ in the loss alone
OBJECTIVES: dict[str, Objective] = NAMED | {
    "quantile": Quantile(levels=(0.1, 0.5, 0.9)),
    "smoothed": CrossEntropy(label_smoothing=0.1),
}
# Numbers of inner steps; the baselines take none in training.
ALGORITHMS = {MAML: (0, 1, 3), FirstOrderMAML: (0, 1, 3), Pretrain: (1,), Oracle: (1,)}
MODELS: dict[str, Callable[[int, int], Model]] = {
    "tanh": mlp("tanh"),
    "relu": mlp("relu"),
    "module": lambda inputs, outputs: TorchModel(lambda: Normed(inputs, outputs)),
}
# Wide enough for the vectorised loops of compiled programs, in widths that do not fill the last vector.
WIDE: dict[str, Callable[[int, int], Model]] = {
    "wide": lambda inputs, outputs: MLP(inputs=(inputs,), outputs=outputs, hidden=(21, 37), init_std=None),
}
IMAGE_MODELS: dict[str, Callable[[tuple[int, ...], int], Model]] = {
    "stride": lambda inputs, outputs: Conv4(inputs=inputs, outputs=outputs, channels=3, blocks=2),
    "pool": lambda inputs, outputs: Conv4(inputs=inputs, outputs=outputs, channels=3, blocks=2, down="pool"),
    "inductive": lambda inputs, outputs: Conv4(
        inputs=inputs, outputs=outputs, channels=3, blocks=2, batch_norm="inductive"
    ),
    "convolutions": lambda inputs, outputs: TorchModel(lambda: Convolutions(inputs, outputs)),
    "residual-frozen": residual("frozen"),
    "residual-transductive": residual("transductive"),
    "residual-inductive": residual("inductive"),
    "wide-pool": lambda inputs, outputs: Conv4(inputs=inputs, outputs=outputs, channels=37, blocks=2, down="pool"),
    "resnet": lambda inputs, outputs: ResNet12(inputs=inputs, outputs=outputs, widths=(2, 3)),
    "mlp-norm": lambda inputs, outputs: MLP(
        inputs=inputs, outputs=outputs, hidden=(6, 5), init_std=None, batch_norm="transductive"
    ),
}
SERIES_MODELS: dict[str, Callable[[tuple[int, ...], int], Model]] = {
    "lstm": lambda inputs, outputs: TorchModel(lambda: Recurrent(inputs, outputs)),
    "transformer": lambda inputs, outputs: TorchModel(lambda: Attending(inputs, outputs)),
}
SHAPED = dict.fromkeys(IMAGE_MODELS, IMAGE) | dict.fromkeys(SERIES_MODELS, SERIES)  # of the inputs; others: vectors


class Row(NamedTuple):
    algorithm: type[MAML]
    model: str
    objective: str
    steps: int
    adapt: tuple[str, ...] = EVERY
    recompute: bool = False

    def __str__(self) -> str:
        names = ("" if self.adapt == EVERY else "-" + "+".join(self.adapt)) + ("-recomputed" if self.recompute else "")
        return f"{self.algorithm.__name__}-{self.model}-{self.objective}-{self.steps}{names}"


ROWS = [
    Row(algorithm, model, objective, steps)
    for algorithm, model, objective in product(ALGORITHMS, MODELS, COMMON)
    for steps in ALGORITHMS[algorithm]
]
ROWS += [Row(MAML, model, objective, 2) for model in WIDE for objective in COMMON]
ROWS += [Row(MAML, "tanh", objective, 2) for objective in OBJECTIVES if objective not in COMMON]
ROWS += [Row(MAML, model, "cross_entropy", 1) for model in IMAGE_MODELS]
ROWS += [Row(MAML, model, "mse", 1) for model in SERIES_MODELS]
ROWS += [
    Row(FirstOrderMAML, "lstm", "mse", 1),
    Row(MAML, "transformer", "cross_entropy", 2, recompute=True),
    Row(MAML, "stride", "cross_entropy", 2),
    Row(FirstOrderMAML, "stride", "cross_entropy", 1),
    Row(MAML, "stride", "cross_entropy", 2, ("*.weight", "*.bias")),
    Row(MAML, "pool", "cross_entropy", 2, ("head.*",)),
    Row(MAML, "tanh", "mse", 3, recompute=True),
    Row(FirstOrderMAML, "relu", "mse", 3, recompute=True),
    Row(MAML, "convolutions", "cross_entropy", 2, recompute=True),
    Row(MAML, "pool", "cross_entropy", 2, ("*.weight", "*.bias"), recompute=True),
]


def rows(wanted: Callable[[Row], bool] = lambda row: True) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", list(filter(wanted, ROWS)), ids=str)


def typical(row: Row) -> bool:
    """Rows that stand for the others where those inherit the code and recording them takes the time."""
    return row.steps == 1 and row.algorithm in (MAML, Oracle)


PROCESSOR = [name for name in STRATEGIES if name != "graph"]
strategies = pytest.mark.parametrize("strategy", PROCESSOR)


@cache
def made(row: Row) -> Algorithm:
    if row.model in SHAPED:
        model = (IMAGE_MODELS | SERIES_MODELS)[row.model](SHAPED[row.model], OUTPUTS)
    else:
        inputs = INPUTS + (DESCRIPTION if row.algorithm.informed else 0)
        model = (MODELS | WIDE)[row.model](inputs, OBJECTIVES[row.objective].width(OUTPUTS))
    return row.algorithm(
        model=model,
        objective=OBJECTIVES[row.objective],
        inner=Inner(lr=0.1, steps=row.steps, adapt=row.adapt, recompute=row.recompute),
    )


@cache
def engine(row: Row, strategy: str) -> Engine:
    return STRATEGIES[strategy](made(row))


def drawn(row: Row) -> Episode:
    """Random episodes in float64."""
    episodes = _drawn(row.objective, SHAPED.get(row.model, (INPUTS,)))
    return described(episodes) if row.algorithm.informed else episodes


@cache
def _drawn(objective: str, shape: tuple[int, ...]) -> Episode:
    generator = torch.Generator().manual_seed(1)

    def examples(count: int) -> Examples:
        numbers = torch.randn(count, OUTPUTS, dtype=torch.float64, generator=generator)
        targets = {
            "values": numbers.abs() if objective == "poisson" else numbers,
            "classes": torch.randint(OUTPUTS, (count,), generator=generator),
            "labels": (numbers > 0).double(),
        }
        inputs = torch.randn(count, *shape, dtype=torch.float64, generator=generator)
        return Examples(inputs, targets[OBJECTIVES[objective].targets])

    def episode() -> Episode:
        description = torch.randn(DESCRIPTION, dtype=torch.float64, generator=generator)
        return Episode(examples(SHOTS), examples(QUERIES), description)

    return stack([episode() for _ in range(TASKS)])


def start(row: Row, dtype: torch.dtype = torch.float64) -> Params:
    return made(row).init(torch.Generator().manual_seed(0), dtype)


def flat(params: Params) -> Tensor:
    return Layout.of(params).flatten(params)


def compile_all() -> None:
    """Compile what these tests ask of ``native``, in about their order; a process of its own does it ahead of them."""
    for row in sorted(ROWS, key=lambda row: row.algorithm is FirstOrderMAML):
        engine(row, "native").meta_gradient(start(row), drawn(row))
    for row in filter(typical, ROWS):
        engine(row, "native").scores(start(row), drawn(row), SCORED)
        engine(row, "native").meta_gradient(start(row, torch.float32), place(drawn(row), torch.float32, "cpu"))


def difference(row: Row, direction: Tensor, h: float = 1e-5) -> Tensor:
    """The central difference of Σ_i L_i along a direction, computed task by task without any engine.

    It errs by h²/6 of a third derivative, and by the roundoff u of the values over h: both near 1e-11 here.
    """
    algorithm, episodes, theta = made(row), drawn(row), start(row)
    layout, here = Layout.of(theta), flat(theta)

    def total(at: Tensor) -> Tensor:
        params = layout.unflatten(at)
        losses = [algorithm.meta_loss(params, unstack(episodes, task))[0] for task in range(TASKS)]
        return torch.stack(losses).sum()

    return (total(here + h * direction) - total(here - h * direction)) / (2 * h)


def single(row: Row, theta: Params, episode: Episode) -> tuple[Params, Metrics]:
    """One task's meta-gradient and metrics by reverse differentiation, without vectorising."""
    theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
    loss, metrics = made(row).meta_loss(theta, episode)
    gradient = torch.autograd.grad(loss, list(theta.values()))
    return dict(zip(theta, gradient, strict=True)), {name: value.detach() for name, value in metrics.items()}


@strategies
@rows(lambda row: row.algorithm is not FirstOrderMAML)
def test_meta_gradient_agrees_with_central_finite_differences(row: Row, strategy: str) -> None:
    gradient = flat(engine(row, strategy).meta_gradient(start(row), drawn(row)).gradient)
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        direction = torch.randn(len(gradient), dtype=torch.float64, generator=generator)
        direction /= direction.norm()
        torch.testing.assert_close(gradient @ direction, difference(row, direction), rtol=1e-6, atol=0)


@strategies
@rows(lambda row: row.algorithm is FirstOrderMAML)
def test_first_order_gradient_is_the_query_gradient_at_the_adapted_parameters(
    row: Row, strategy: str, close: Callable[..., None]
) -> None:
    algorithm, theta, episodes = made(row), start(row), drawn(row)
    expected = {name: torch.zeros_like(value) for name, value in theta.items()}
    for task in range(TASKS):
        episode = unstack(episodes, task)
        there = algorithm.inner.adapted(algorithm.loss, theta, episode.support)
        there = {name: value.detach().requires_grad_() for name, value in there.items()}
        parts = torch.autograd.grad(algorithm.loss(there, episode.query), list(there.values()))
        for name, part in zip(there, parts, strict=True):
            expected[name] += part
    gradient = engine(row, strategy).meta_gradient(theta, episodes).gradient
    close(flat(gradient), flat(expected))


@strategies
@rows()
def test_gradient_of_a_batch_is_the_sum_over_its_tasks(row: Row, strategy: str, close: Callable[..., None]) -> None:
    theta, episodes = start(row), drawn(row)
    alone = [single(row, theta, unstack(episodes, task)) for task in range(TASKS)]
    batch = engine(row, strategy).meta_gradient(theta, episodes)
    close(flat(batch.gradient), sum(flat(gradient) for gradient, _ in alone))
    for name, value in batch.metrics.items():
        close(value, torch.stack([metrics[name] for _, metrics in alone]))


@strategies
@rows(typical)
def test_scores_are_those_of_each_task_alone(row: Row, strategy: str, close: Callable[..., None]) -> None:
    theta, episodes = start(row), drawn(row)
    expected = [made(row).scores(theta, unstack(episodes, task), SCORED) for task in range(TASKS)]
    close(engine(row, strategy).scores(theta, episodes, SCORED), torch.stack(expected))


@strategies
@rows()
def test_a_repeated_call_gives_the_same_bits(row: Row, strategy: str, same_bits: Callable[..., bool]) -> None:
    theta, episodes = start(row), drawn(row)
    first, second = (engine(row, strategy).meta_gradient(theta, episodes) for _ in range(2))
    assert same_bits(first.gradient, second.gradient)
    assert same_bits(first.metrics, second.metrics)


@pytest.mark.parametrize(
    ("row", "dtype"),
    [(row, dtype) for row in ROWS for dtype in DTYPES if dtype == torch.float64 or typical(row)],
    ids=str,
)
def test_trace_gives_the_bits_of_vmap(row: Row, dtype: torch.dtype, same_bits: Callable[..., bool]) -> None:
    theta, episodes = start(row, dtype), place(drawn(row), dtype, "cpu")
    recorded, reference = (engine(row, name).meta_gradient(theta, episodes) for name in ("trace", "vmap"))
    assert same_bits(recorded.gradient, reference.gradient)
    assert same_bits(recorded.metrics, reference.metrics)


@strategies
@rows(typical)
def test_float32_agrees_with_float64(row: Row, strategy: str, close: Callable[..., None]) -> None:
    run = engine(row, strategy).meta_gradient
    exact = run(start(row), drawn(row))
    rounded = run(start(row, torch.float32), place(drawn(row), torch.float32, "cpu"))
    assert {value.dtype for value in rounded.gradient.values()} == {torch.float32}
    close(flat(rounded.gradient), flat(exact.gradient))


@strategies
@rows()
def test_gradient_and_metrics_have_their_shapes_and_carry_no_graph(row: Row, strategy: str) -> None:
    theta, episodes = start(row), drawn(row)
    result = engine(row, strategy).meta_gradient(theta, episodes)
    assert {name: value.shape for name, value in result.gradient.items()} == {
        name: value.shape for name, value in theta.items()
    }
    assert {tuple(value.shape) for value in result.metrics.values()} == {(TASKS,)}
    assert {"loss", made(row).objective.metric} <= result.metrics.keys()
    assert not any(value.requires_grad for value in (*result.gradient.values(), *result.metrics.values()))


@strategies
def test_inputs_are_left_as_they_were(strategy: str) -> None:
    row = Row(MAML, "tanh", "mse", 1)
    theta, episodes = start(row), stack([unstack(drawn(row), task) for task in range(TASKS)])
    engine(row, strategy).meta_gradient(theta, episodes)
    assert all(torch.equal(theta[name], value) for name, value in start(row).items())
    assert all(torch.equal(a, b) for a, b in zip(leaves(episodes), leaves(drawn(row)), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device")
@pytest.mark.parametrize("strategy", ["trace", "graph"])
@rows(typical)
def test_a_gpu_gives_the_processor_s_gradient(row: Row, strategy: str, close: Callable[..., None]) -> None:
    run = STRATEGIES[strategy](made(row)).meta_gradient
    theta = {name: value.to("cuda") for name, value in start(row).items()}
    episodes = place(drawn(row), torch.float64, "cuda")
    exact = engine(row, "vmap").meta_gradient(start(row), drawn(row))
    for _ in range(2):  # captured, then replayed
        result = run(theta, episodes)
        close(flat(result.gradient).cpu(), flat(exact.gradient))


def test_a_graph_needs_a_gpu() -> None:
    row = Row(MAML, "tanh", "mse", 1)
    with pytest.raises(Unsupported, match="engine graph expects tensors on a CUDA device, received some on cpu"):
        STRATEGIES["graph"](made(row)).meta_gradient(start(row), drawn(row))


if __name__ == "__main__":
    compile_all()

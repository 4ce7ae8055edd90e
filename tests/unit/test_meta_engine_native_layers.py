"""The compiled strategy on the layers of models people bring: first and second derivatives, against plain torch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from meta.algorithms import MAML
from meta.engine.native.program import Program, translated
from meta.engine.strategies import build
from meta.episode import Episode, Examples, stack, unstack
from meta.inner import Inner
from meta.models import TorchModel
from meta.models.elementary import Elementary
from meta.objectives import CROSS_ENTROPY
from meta.params import Params

Layer = Callable[[Params, Tensor], Tensor]
IMAGES, ROWS, TOKENS = (4, 9, 8), (6, 4), (5,)


def leaf(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 3


def weights(*shape: int) -> Params:
    return {"w": leaf(*shape), "b": leaf(shape[0], seed=2)}


def token_gradient(theta: Params, x: Tensor) -> Tensor:
    return F.embedding(x, theta["w"], padding_idx=3).tanh().sum(1)


def sliced(theta: Params, x: Tensor) -> Tensor:
    y = torch.zeros(*x.shape[:-1], 3, dtype=x.dtype) + x[..., :3]
    y[:, 0] = y[:, 1] * 2
    y[..., 1] = F.linear(x, theta["w"][:1])[..., 0]
    return y


# Parameters, shape of an example, the layer.
LAYERS: dict[str, tuple[Params, tuple[int, ...], Layer]] = {
    "grouped": (weights(6, 2, 3, 3), IMAGES, lambda t, x: F.conv2d(x, t["w"], t["b"], stride=2, padding=1, groups=2)),
    "depthwise": (weights(8, 1, 3, 2), IMAGES, lambda t, x: F.conv2d(x, t["w"], t["b"], (2, 1), (1, 0), groups=4)),
    "dilated": (weights(5, 4, 3, 3), IMAGES, lambda t, x: F.conv2d(x, t["w"], t["b"], padding=(3, 1), dilation=(3, 2))),
    "dilated-stride": (weights(4, 1, 3, 2), IMAGES, lambda t, x: F.conv2d(x, t["w"], None, 2, 2, 2, groups=4)),
    "same": (weights(5, 4, 2, 3), IMAGES, lambda t, x: F.conv2d(x, t["w"], t["b"], padding="same")),
    "transposed": (
        {"w": leaf(4, 5, 3, 2), "b": leaf(5)},
        IMAGES,
        lambda t, x: F.conv_transpose2d(x, t["w"], t["b"], stride=2, padding=1, output_padding=(1, 0)),
    ),
    "one-dimensional": (
        weights(5, 6, 3),
        ROWS,
        lambda t, x: F.max_pool1d(F.conv1d(x, t["w"], t["b"], padding=2, dilation=2), 2),
    ),
    "pooled": (
        weights(4, 4, 1, 1),
        IMAGES,
        lambda t, x: F.avg_pool2d(F.avg_pool2d(F.conv2d(x, t["w"]), 2), 3, 1, 1) + F.adaptive_avg_pool2d(x, 1),
    ),
    "group-norm": (weights(4), IMAGES, lambda t, x: F.group_norm(x, 2, t["w"], t["b"]) * x),
    "gelu": (
        weights(3, 4),
        ROWS,
        lambda t, x: F.gelu(F.linear(x, t["w"])) + F.gelu(F.linear(x, t["w"]), approximate="tanh"),
    ),
    "softmax": (
        weights(4, 4),
        ROWS,
        lambda t, x: F.linear(x, t["w"]).softmax(1) * F.log_softmax(F.linear(x, t["b"][None]), 0),
    ),
    "running-sum": (weights(3, 4), ROWS, lambda t, x: F.linear(x, t["w"]).cumsum(1)[:, ::2].flip(1)),
    "activations": (
        weights(4, 4),
        ROWS,
        lambda t, x: F.elu(x @ t["w"]) + F.hardtanh(x @ t["w"]) * F.softplus(x @ t["w"]) + F.mish(x @ t["w"]),
    ),
    "statistics": (
        weights(4, 4),
        ROWS,
        lambda t, x: (
            (x @ t["w"]).var(1, keepdim=True) + F.normalize(x @ t["w"], dim=2) + (x @ t["w"]).logsumexp(1)[:, None]
        ),
    ),
    "padded": (weights(4, 4), ROWS, lambda t, x: F.pad(x @ t["w"], (1, -1, 2, 1)) ** 2),
    "in-place": (weights(3, 4), ROWS, sliced),
    "batched-products": (weights(4, 4), ROWS, lambda t, x: (x @ t["w"]) @ x.transpose(1, 2) @ x),
    "embedding": (weights(11, 3), TOKENS, token_gradient),
    "read-at-integers": (
        weights(11, 3),
        TOKENS,
        lambda t, x: t["w"][x, x % 3].cos() + t["w"].index_select(0, x[0]).sum(),
    ),
    "gathered": (weights(11, 3), TOKENS, lambda t, x: t["w"].tanh().t().gather(1, x[:3]) * t["w"].sum()),
}


def task_of(shape: tuple[int, ...], tasks: int = 2, support: int = 4) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def examples(count: int) -> Examples:
        real = torch.randn(count, *shape, dtype=torch.float64, generator=generator)
        tokens = torch.randint(11, (count, *shape), generator=generator)
        return Examples(tokens if shape == TOKENS else real, torch.randint(2, (count,), generator=generator))

    return stack([Episode(examples(support), examples(5), torch.zeros(0)) for _ in range(tasks)])


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_value_and_derivatives_of_a_layer_are_those_of_torch(name: str) -> None:
    theta, shape, layer = LAYERS[name]

    def objective(theta: Params, episode: Episode) -> Tensor:
        return layer(theta, episode.support.inputs).tanh().square().sum()

    def function(theta: Params, episode: Episode) -> list[Tensor]:
        first = grad(objective)(theta, episode)
        second = grad(lambda at: sum((g**2).sum() for g in grad(objective)(at, episode).values()))(theta)
        return [layer(theta, episode.support.inputs), *first.values(), *second.values()]

    episodes = task_of(shape)
    results = Program(lambda theta, task, _: function(theta, task), theta, episodes, adds=False)(theta, episodes)
    for task in range(2):
        for result, expected in zip(results, function(theta, unstack(episodes, task)), strict=True):
            torch.testing.assert_close(result[task], expected, rtol=1e-11, atol=1e-12)


class Recurrent(nn.Module):
    def __init__(self, kind: str, **how: bool) -> None:
        super().__init__()
        self.net = getattr(nn, kind)(4, 5, batch_first=True, **how)
        self.head = nn.Linear(10 if how else 5, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.net(inputs)[0][:, -1])


class Language(nn.Module):
    """Tokens, places, causal attention, and the embedding's weight once more at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 6), nn.Embedding(5, 6)
        self.norm, self.qkv = nn.LayerNorm(6), nn.Linear(6, 18)

    def forward(self, inputs: Tensor) -> Tensor:
        h = self.tokens(inputs) + self.places(torch.arange(inputs.shape[1]))
        q, k, v = (part.unflatten(2, (2, 3)).transpose(1, 2) for part in self.qkv(self.norm(h)).chunk(3, -1))
        h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return F.linear(F.gelu(h), self.tokens.weight)[:, -1, :2]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 7, dropout=0.0, batch_first=True, activation="gelu")
        self.net, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.net(inputs).mean(1))


class Buffered(nn.Module):
    """Positions as a buffer of whole numbers, as BERT has them, and operations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.enter, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("positions", torch.arange(9))
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        positions: Any = self.positions
        hidden = self.enter(inputs * self.scale) + self.places(positions[: inputs.shape[1]])
        hidden = F.relu(hidden * 1.5, inplace=True) * 2
        hidden += 1
        return self.head(hidden.mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "buffers": (Buffered, ROWS),
    "lstm": (lambda: Recurrent("LSTM"), (9, 4)),
    "bidirectional-gru": (lambda: Recurrent("GRU", bidirectional=True), ROWS),
    "rnn": (lambda: Recurrent("RNN"), ROWS),
    "language": (Language, TOKENS),
    "encoder": (Encoder, ROWS),
}


@pytest.mark.parametrize(("name", "recompute"), [*((name, False) for name in MODELS), ("buffers", True)])
def test_meta_gradient_of_a_model_is_that_of_autograd_without_an_engine(name: str, recompute: bool) -> None:
    make, shape = MODELS[name]
    inner = Inner(lr=0.1, steps=2, recompute=recompute)
    algorithm = MAML(model=TorchModel(make), objective=CROSS_ENTROPY, inner=inner)
    theta, episodes, module = algorithm.init(torch.Generator().manual_seed(0), torch.float64), task_of(shape), make()
    total = {name: torch.zeros_like(value) for name, value in theta.items()}
    for task in range(2):
        episode = unstack(episodes, task)
        start = {name: value.clone().requires_grad_() for name, value in theta.items()}
        here = dict(start)
        with Elementary():
            for _ in range(2):
                loss = F.cross_entropy(functional_call(module, here, episode.support.inputs), episode.support.targets)
                slopes = torch.autograd.grad(loss, list(here.values()), create_graph=True)
                here = {name: here[name] - 0.1 * slope for name, slope in zip(here, slopes, strict=True)}
            loss = F.cross_entropy(functional_call(module, here, episode.query.inputs), episode.query.targets)
        for name, slope in zip(start, torch.autograd.grad(loss, list(start.values())), strict=True):
            total[name] += slope
    gradient = build("native", algorithm).meta_gradient(theta, episodes).gradient
    for name, value in total.items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-9, atol=1e-12)


def test_a_token_outside_of_the_vocabulary_gives_no_number() -> None:
    algorithm = MAML(model=TorchModel(Language), objective=CROSS_ENTROPY, inner=Inner(lr=0.1, steps=1))
    theta, episodes = algorithm.init(torch.Generator().manual_seed(0), torch.float64), task_of(TOKENS)
    episodes.query.inputs[1, 0, 0] = 11
    metrics = build("native", algorithm).meta_gradient(theta, episodes).metrics
    assert metrics["loss"].isfinite().tolist() == [True, False]


def test_steps_of_a_sequence_share_their_loops() -> None:
    sources = []
    for length in (16, 32):
        algorithm = MAML(model=TorchModel(lambda: Recurrent("LSTM")), objective=CROSS_ENTROPY, inner=Inner(lr=0.1))
        theta = algorithm.init(torch.Generator().manual_seed(0), torch.float64)
        program = translated(grad(algorithm.meta_loss, has_aux=True), theta, task_of((length, 4), 1), adds=True)
        sources.append(program.source)
    short, long = (source.count("static void loops") for source in sources)
    assert long == short

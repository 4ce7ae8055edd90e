"""Modules as users bring them: random layers, recurrent layers, attention, frozen parameters, state."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta.algorithms import MAML, gradient_of, noise_size
from meta.engine.strategies import build
from meta.episode import Episode, Examples, stack, unstack, with_noise
from meta.inner import Inner
from meta.models import TorchModel
from meta.models.elementary import Elementary
from meta.models.examine import examine
from meta.models.keyed import Keyed
from meta.objectives import MSE, cross_entropy, mean_squared_error
from meta.params import Params
from tasks.family import draw_noise

REAL = torch.float64


class Attention(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=dropout, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)[:, None])[:, 0])


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, dropout: float = 0.0) -> None:
        super().__init__()
        self.rnn = kind(1, 3, num_layers=2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.rnn(torch.stack([x, 0.5 * x], dim=1))
        return self.head(hidden[:, -1])


class StochasticDepth(nn.Module):
    """As torchvision and timm write it: a row of zeros and ones drawn in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(1, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        if self.training:
            hidden = hidden * torch.bernoulli(torch.full((len(x), 1), 0.5, dtype=x.dtype)) / 0.5
        return self.head(hidden + torch.tanh(self.second(hidden)))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))


RANDOM: dict[str, Callable[[], nn.Module]] = {
    "dropout": dropping,
    "attention": lambda: Attention(dropout=0.3),
    "lstm": lambda: Recurrent(dropout=0.4),
    "stochastic depth": StochasticDepth,
}
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "lstm": Recurrent,
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
}


def algorithm(make: Callable[[], nn.Module], *, steps: int = 2, recompute: bool = False) -> MAML:
    return MAML(model=TorchModel(make), objective=MSE, inner=Inner(lr=0.1, steps=steps, recompute=recompute))


def batch(tasks: int = 3) -> Episode:
    generator = torch.Generator().manual_seed(1)

    def examples() -> Examples:
        inputs = torch.randn(5, 1, generator=generator, dtype=REAL)
        return Examples(inputs, torch.sin(inputs) + torch.randn(1, generator=generator, dtype=REAL))

    return stack([Episode(examples(), examples(), torch.zeros(0, dtype=REAL)) for _ in range(tasks)])


def with_own_noise(one: MAML, params: Params, episodes: Episode) -> Episode:
    size = noise_size(one, params, unstack(episodes))
    return with_noise(episodes, draw_noise(0, range(len(episodes.description)), size, REAL))


@pytest.fixture
def globals_untouched() -> Iterator[None]:
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("recompute", [False, True])
def test_a_random_layer_gives_the_exact_gradient_of_its_own_draw(
    name: str, recompute: bool, globals_untouched: None
) -> None:
    """Central differences in float64, with the masks held fixed by the task's noise, in every strategy."""
    one = algorithm(RANDOM[name], recompute=recompute)
    params = one.init(torch.Generator().manual_seed(0), REAL)
    episodes = with_own_noise(one, params, batch())
    found = {
        engine: build(engine, one).meta_gradient(params, episodes).gradient for engine in ("vmap", "trace", "loop")
    }

    def total(params: Params) -> float:
        loss = 0.0
        for task in range(3):
            episode = unstack(episodes, task)
            with Keyed(episode.noise):  # type: ignore[attr-defined]
                loss += float(one.meta_loss(params, episode)[0])
        return loss

    for key, value in params.items():
        step = torch.zeros_like(value)
        step.view(-1)[0] = 1e-6
        slope = (total({**params, key: value + step}) - total({**params, key: value - step})) / 2e-6
        for engine, gradient in found.items():
            assert float(gradient[key].view(-1)[0]) == pytest.approx(slope, rel=1e-6, abs=1e-8), (engine, key)


@pytest.mark.parametrize("name", RANDOM)
def test_draws_belong_to_the_task_and_are_off_in_evaluation(name: str, globals_untouched: None) -> None:
    one = algorithm(RANDOM[name], steps=1)
    params = one.init(torch.Generator().manual_seed(0), REAL)
    episodes = batch(1)
    size = noise_size(one, params, unstack(episodes))
    gradient = gradient_of(one)

    def of_task(index: int) -> Params:
        noise = draw_noise(0, range(index, index + 1), size, REAL)
        return gradient(params, unstack(with_noise(episodes, noise)))[0]

    assert all(torch.equal(value, of_task(7)[key]) for key, value in of_task(7).items())
    assert not all(torch.equal(value, of_task(8)[key]) for key, value in of_task(7).items())
    scores = [build(engine, one).scores(params, episodes, (0, 1)) for engine in ("trace", "loop", "trace")]
    assert torch.equal(scores[0], scores[2])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-9, atol=1e-12)
    with torch.random.fork_rng():
        module = RANDOM[name]().double().eval()
    module.load_state_dict(params)
    query = unstack(episodes).query
    with torch.no_grad():
        expected = F.mse_loss(module(query.inputs), query.targets)
    assert float(scores[0][0, 0]) == pytest.approx(float(expected), rel=1e-12)


def test_draws_of_consecutive_ranges_are_those_of_single_tasks() -> None:
    together = draw_noise(3, range(10, 15), 9, REAL)
    assert torch.equal(together[2], draw_noise(3, range(12, 13), 9, REAL)[0])
    assert bool(((together > 0) & (together < 1)).all())
    assert torch.equal(together.float().double(), together)  # the same numbers in every type


LAWS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    # name: function of ones [100,000], expected mean, expected deviation
    "F.dropout": (lambda x: F.dropout(x, 0.25), 1.0, (1 / 0.75 - 1) ** 0.5),
    "torch.dropout": (lambda x: torch.dropout(x, 0.25, True), 1.0, (1 / 0.75 - 1) ** 0.5),
    "F.alpha_dropout": (lambda x: F.alpha_dropout(torch.randn_like(x), 0.3, training=True), 0.0, 1.0),
    "F.rrelu": (lambda x: F.rrelu(-x, 0.1, 0.3, training=True), -0.2, 0.2 / 12**0.5),
    "torch.rand": (lambda x: torch.rand(len(x)), 0.5, 12**-0.5),
    "torch.rand_like": (torch.rand_like, 0.5, 12**-0.5),
    "torch.randn": (lambda x: torch.randn((len(x),)), 0.0, 1.0),
    "torch.bernoulli": (lambda x: torch.bernoulli(0.2 * x), 0.2, 0.4),
    "bernoulli_": (lambda x: torch.empty_like(x).bernoulli_(0.2), 0.2, 0.4),
    "normal_": (lambda x: torch.empty_like(x).normal_(2.0, 3.0), 2.0, 3.0),
    "uniform_": (lambda x: torch.empty_like(x).uniform_(-1, 1), 0.0, 2 / 12**0.5),
    "exponential_": (lambda x: torch.empty_like(x).exponential_(2.0), 0.5, 0.5),
    "torch.normal": (lambda x: torch.normal(x, 2.0), 1.0, 2.0),
}


@pytest.mark.parametrize("name", LAWS)
def test_keyed_functions_have_the_laws_of_torchs(name: str, globals_untouched: None) -> None:
    function, mean, deviation = LAWS[name]
    count = 100_000
    with Keyed(torch.from_numpy(np.random.Generator(np.random.Philox(5)).random(2 * count))):
        drawn = function(torch.ones(count, dtype=REAL)).double()
    assert float(drawn.mean()) == pytest.approx(mean, abs=5 * deviation / count**0.5)
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.02)


def test_whole_channels_are_dropped_at_once() -> None:
    with Keyed(torch.rand(6, generator=torch.Generator().manual_seed(0))):
        kept = F.dropout2d(torch.ones(2, 3, 4, 4), 0.5)
    assert all(len(channel.unique()) == 1 for image in kept for channel in image)
    assert set(kept.unique().tolist()) == {0.0, 2.0}


def test_training_that_draws_more_than_it_has_is_refused() -> None:
    with Keyed(torch.full((3,), 0.5)), pytest.raises(ValueError, match="draws 3 random numbers per task, received one"):
        F.dropout(torch.ones(4))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lstm": (lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True, batch_first=True), (3, 6, 4)),
    "lstm with projections": (lambda: nn.LSTM(4, 5, proj_size=2), (6, 3, 4)),
    "gru": (lambda: nn.GRU(4, 5, num_layers=2, bidirectional=True, bias=False), (6, 3, 4)),
    "rnn": (lambda: nn.RNN(4, 5, nonlinearity="relu"), (6, 3, 4)),
    "unbatched": (lambda: nn.GRU(4, 5), (6, 4)),
    "lstm cell": (lambda: nn.LSTMCell(4, 5), (3, 4)),
    "gru cell": (lambda: nn.GRUCell(4, 5), (3, 4)),
    "rnn cell": (lambda: nn.RNNCell(4, 5), (3, 4)),
    "encoder": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).eval(), (3, 6, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_elementary_operations_compute_what_torch_does(name: str) -> None:
    make, shape = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, inputs = make().double(), torch.randn(shape, dtype=REAL)
    expected = torch.utils._pytree.tree_leaves(layer(inputs))
    with Elementary():
        found = torch.utils._pytree.tree_leaves(layer(inputs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("how", [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.ones(6, 6).tril() > 0}])
def test_attention_computes_what_torch_does(how: dict[str, object]) -> None:
    query, key, value = torch.randn(3, 2, 4, 6, 5, dtype=REAL, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(query, key, value, **how)  # type: ignore[arg-type]
    with Elementary():
        found = F.scaled_dot_product_attention(query, key, value, **how)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("engine", ["vmap", "trace", "loop"])
@pytest.mark.parametrize("name", PLAIN)
def test_recurrent_layers_and_attention_are_exact_in_every_strategy(name: str, engine: str) -> None:
    one = algorithm(PLAIN[name])
    params, episodes = one.init(torch.Generator().manual_seed(0), REAL), batch()
    gradient = build(engine, one).meta_gradient(params, episodes).gradient

    def total(params: Params) -> float:
        return sum(float(one.meta_loss(params, unstack(episodes, task))[0]) for task in range(3))

    for key, value in params.items():
        step = torch.zeros_like(value)
        step.view(-1)[-1] = 1e-6
        slope = (total({**params, key: value + step}) - total({**params, key: value - step})) / 2e-6
        assert float(gradient[key].view(-1)[-1]) == pytest.approx(slope, rel=1e-6, abs=1e-8), key
    assert build(engine, one).scores(params, episodes, (0, 2)).shape == (3, 2)


def test_packed_sequences_are_refused_by_name() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.zeros(3, 1), torch.zeros(2, 1)])
    with Elementary(), pytest.raises(ValueError, match="received a PackedSequence"):
        nn.LSTM(1, 2)(packed)


# ---- state ----------------------------------------------------------------------------------------------------------


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.setup()

    def setup(self) -> None: ...


class Reassigned(Base):
    def setup(self) -> None:
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.layer(x - self.mean)


class InPlace(Reassigned):
    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1)
        return self.layer(x)


class Counter(Base):
    def setup(self) -> None:
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x)


class Remembering(Base):
    def setup(self) -> None:
        self.last = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.last = 0.5 * self.last + x.detach().mean(0)
        return self.layer(x) + self.last


class History(Counter):
    def setup(self) -> None:
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return self.layer(x)


class NumpyNoise(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + float(np.random.default_rng().random())


class OwnGenerator(Base):
    def setup(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.rand(1, generator=self.generator)


class AlwaysDropping(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5)


class Shuffled(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[torch.randperm(len(x))] if self.training else x)


class NormedSpectrally(Base):
    def setup(self) -> None:
        self.layer = nn.utils.spectral_norm(nn.Linear(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class ParametrisedSpectrally(NormedSpectrally):
    def setup(self) -> None:
        self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 1))
        self.grow = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.grow(x))


def examined(make: Callable[[], nn.Module]) -> bool:
    model = TorchModel(make)
    return examine(
        model, model.init(torch.Generator().manual_seed(0), torch.float32), torch.linspace(-1, 1, 5)[:, None]
    )


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (Reassigned, "buffer 'mean' changes"),
        (InPlace, "buffer 'mean' changes"),
        (Counter, "attribute 'calls' changes"),
        (History, "attribute 'calls' changes"),
        (Remembering, r"other outputs for the same inputs.*\(last\)"),
        (NumpyNoise, "other outputs for the same inputs"),
        (OwnGenerator, "draws no random numbers in evaluation, received torch's 'rand' in OwnGenerator"),
        (AlwaysDropping, "draws no random numbers in evaluation"),
        (lambda: nn.Sequential(nn.Linear(1, 1), AlwaysDropping()), "in '1', a AlwaysDropping"),
        (Shuffled, "received torch's 'randperm'"),
        (NormedSpectrally, "buffer 'layer.weight_u' changes"),
        (ParametrisedSpectrally, "buffer 'layer.parametrizations.weight.0._[uv]' changes"),
    ],
)
def test_state_and_free_randomness_are_refused_by_name(make: Callable[[], nn.Module], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        examined(make)


class Caching(Base):
    """What is computed at the first call and kept is no state."""

    def setup(self) -> None:
        self.cache: dict[int, int] = {}
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.cache.setdefault(len(x), 1)
        self.seen = x  # for whoever wants to look at it
        return self.layer(x)


@pytest.mark.parametrize(
    ("make", "draws"), [(Caching, False), (Attention, False), (dropping, True), (Recurrent, False)]
)
def test_pure_modules_pass(make: Callable[[], nn.Module], draws: bool) -> None:
    assert examined(make) is draws


# ---- parameters and buffers -----------------------------------------------------------------------------------------


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(4))
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(x * self.frequencies))


def test_random_buffers_are_a_function_of_the_seed() -> None:
    def output(seed: int) -> Tensor:
        model = TorchModel(Features, seed)
        return model.apply(model.init(torch.Generator().manual_seed(0), REAL), torch.ones(1, 1, dtype=REAL))

    first = output(3)
    torch.rand(1)  # whatever else the process draws
    assert torch.equal(first, output(3))
    assert not torch.equal(first, output(4))
    assert first.dtype == REAL  # buffers follow the parameters' type


def test_constructors_that_draw_outside_torch_are_refused() -> None:
    class Numpy(Base):
        def setup(self) -> None:
            self.layer.weight.data.fill_(float(np.random.default_rng().random()))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    with pytest.raises(ValueError, match=r"another 'layer.weight' of Numpy the second time"):
        examined(Numpy)


class Complex(Base):
    def setup(self) -> None:
        self.phase = nn.Parameter(torch.zeros(1, dtype=torch.complex64))


class Whole(Base):
    def setup(self) -> None:
        self.table = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (Complex, "real numbers, received 'phase' of torch.complex64"),
        (Whole, "real numbers, received 'table' of torch.int64"),
        (lambda: nn.LazyLinear(1), "known shapes, received 'weight' of a lazy layer"),
        (lambda: nn.Linear(1, 1).requires_grad_(False), "2 parameters all have requires_grad=False"),
        (nn.Tanh, "a module with parameters"),
        (lambda: nn.BatchNorm1d(1), "a layer with running statistics, received BatchNorm1d"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_parameters_that_cannot_be_trained_are_refused(make: Callable[[], nn.Module], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TorchModel(make)


def test_frozen_parameters_are_named() -> None:
    model = TorchModel(lambda: nn.Sequential(nn.Linear(1, 2).requires_grad_(False), nn.Linear(2, 1)))
    assert model.frozen == {"0.weight", "0.bias"}


class Named(NamedTuple):
    loss: None
    logits: Tensor


@dataclass
class Record:
    logits: Tensor
    hidden: Tensor


class Structured(Base):
    """Returns what the test says, made of its output."""

    def __init__(self, wrap: Callable[[Tensor], Any] = lambda out: out) -> None:
        super().__init__()
        self._wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self._wrap(self.layer(x))


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda out: (out, out + 1), 0),
        (lambda out: [out + 1, out], -1),
        (lambda out: {"logits": out, "hidden": out + 1}, "logits"),
        (lambda out: Named(None, out), "logits"),
        (lambda out: Named(None, out), 1),
        (lambda out: Record(out, out + 1), "logits"),
    ],
    ids=["tuple", "list", "mapping", "named tuple", "named tuple by number", "dataclass"],
)
def test_an_output_is_chosen_by_name_or_number(wrap: Callable[[Tensor], Any], output: str | int) -> None:
    plain, model = TorchModel(Structured), TorchModel(lambda: Structured(wrap), output=output)
    params = plain.init(torch.Generator().manual_seed(0), torch.float32)
    inputs = torch.ones(2, 1)
    assert torch.equal(model.apply(params, inputs), plain.apply(params, inputs))
    assert not examine(model, params, inputs)


@pytest.mark.parametrize(
    ("wrap", "output", "named"),
    [
        (lambda out: (out, out + 1), None, r"received tuple from Structured; name one .*model.output.*: 0, 1$"),
        (lambda out: Record(out, out), None, "received Record from Structured; .*: logits, hidden$"),
        (lambda out: {"a": out}, "logits", r"Structured returns \(a\), received 'logits'$"),
        (lambda out: {"a": out}, 0, r"Structured returns \(a\), received 0$"),
        (lambda out: (out,), 1, r"Structured returns \(0\), received 1$"),
        (lambda out: Named(None, out), "loss", r"returns \(logits\), received 'loss'$"),
        (lambda out: Named(None, out), "index", "received 'index', which is builtin_function_or_method$"),
        (lambda out: out, "logits", "expected none for Structured, which returns a tensor, received 'logits'"),
        (lambda out: "text", None, "there is no tensor in it$"),
    ],
)
def test_what_names_no_output_is_told_what_there_is(
    wrap: Callable[[Tensor], Any], output: str | int | None, named: str
) -> None:
    model = TorchModel(lambda: Structured(wrap), output=output)
    with pytest.raises(ValueError, match=named):
        model.apply(model.init(torch.Generator(), torch.float32), torch.zeros(2, 1))


# ---- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outputs", "targets"), [((5,), (5, 1)), ((5, 1), (5,)), ((5, 2), (5, 1)), ((1, 1), (5, 1))])
def test_losses_never_broadcast(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=rf"outputs {str(outputs)[:-1]}.*targets {str(targets)[:-1]}".replace("(", r"\(")
    ):
        mean_squared_error(torch.zeros(outputs), torch.zeros(targets))


@pytest.mark.parametrize(
    ("outputs", "targets", "dtype", "named"),
    [
        ((5, 3), (5, 1), torch.int64, "a row of N logits"),
        ((5,), (5,), torch.int64, "a row of N logits"),
        ((5, 3), (4,), torch.int64, "a row of N logits"),
        ((5, 3), (5,), torch.float32, "received torch.float32"),
        ((5, 3), (5,), torch.int32, "received torch.int32"),
    ],
)
def test_class_labels_get_words(
    outputs: tuple[int, ...], targets: tuple[int, ...], dtype: torch.dtype, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        cross_entropy(torch.zeros(outputs), torch.zeros(targets, dtype=dtype))

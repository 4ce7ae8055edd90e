"""A real BERT, built from a configuration, under MAML: against plain torch in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from meta.algorithms import MAML, noise_size
from meta.engine.native.ir import Unsupported
from meta.engine.strategies import build
from meta.episode import Episode, Examples, stack, unstack, with_noise
from meta.inner import Inner
from meta.models import TorchModel
from meta.models.examine import examine
from meta.objectives import CROSS_ENTROPY
from meta.params import Params
from tasks.family import draw_batch, draw_noise
from tasks.vision import torchvision

transformers = pytest.importorskip("transformers", reason="needs the package transformers, which metaray does not")

assert (
    torchvision
)  # which transformers imports, and fails if it does not fit the machine's torch; tasks.vision mends it

REAL, WORDS, LENGTH, CLASSES, TASKS, LR = torch.float64, 11, 6, 3, 2, 0.1
SIZES = {"vocab_size": WORDS, "max_position_embeddings": LENGTH, "num_labels": CLASSES}
SIZES |= {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}


def bert(dropout: float = 0.0) -> Any:
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, **rates))


def made(dropout: float = 0.0) -> tuple[MAML, Params]:
    model = TorchModel(lambda: bert(dropout), output="logits")
    algorithm = MAML(model=model, objective=CROSS_ENTROPY, inner=Inner(lr=LR, steps=2))
    return algorithm, algorithm.init(torch.Generator().manual_seed(0), REAL)


def sentences() -> Episode:
    generator = torch.Generator().manual_seed(1)

    def examples(count: int) -> Examples:
        return Examples(torch.randint(WORDS, (count, LENGTH), generator=generator), torch.arange(count) % CLASSES)

    return stack([Episode(examples(6), examples(9), torch.zeros(0, dtype=REAL)) for _ in range(TASKS)])


def plainly(theta: Params, episodes: Episode) -> tuple[Params, Tensor]:
    """Meta-gradient and outputs by autograd alone, task by task, with the attention that differentiates twice."""
    module = bert().double().eval()
    start = {name: value.clone().requires_grad_() for name, value in theta.items()}

    def outputs(params: Params, inputs: Tensor) -> Tensor:
        logits: Tensor = functional_call(module, params, (inputs,)).logits
        return logits

    losses, predicted = [], []
    with sdpa_kernel(SDPBackend.MATH):
        for task in range(TASKS):
            episode, params = unstack(episodes, task), dict(start)
            for _ in range(2):
                loss = F.cross_entropy(outputs(params, episode.support.inputs), episode.support.targets)
                gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
                params = {name: params[name] - LR * part for name, part in zip(params, gradients, strict=True)}
            predicted.append(outputs(params, episode.query.inputs))
            losses.append(F.cross_entropy(predicted[-1], episode.query.targets))
        gradients = torch.autograd.grad(torch.stack(losses).sum(), list(start.values()))
    return dict(zip(start, gradients, strict=True)), torch.stack(predicted).detach()


@pytest.mark.parametrize("strategy", ["vmap", "trace", "loop", "eager", "native"])
def test_meta_gradient_is_that_of_plain_torch(strategy: str) -> None:
    algorithm, theta = made()
    episodes = sentences()
    expected, _ = plainly(theta, episodes)
    try:
        gradient = build(strategy, algorithm).meta_gradient(theta, episodes).gradient
    except Unsupported as error:
        pytest.skip(f"no compiled program: {error}")
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(gradient[name], value, rtol=0, atol=1e-12 * scale)


def test_predictions_are_those_of_plain_torch() -> None:
    algorithm, theta = made()
    episodes = sentences()
    _, expected = plainly(theta, episodes)
    for task in range(TASKS):
        episode = unstack(episodes, task)
        predicted = algorithm.predict(theta, episode.support, episode.query.inputs, 2)
        torch.testing.assert_close(predicted.detach(), expected[task], rtol=0, atol=1e-12)


def test_dropout_is_keyed_and_off_in_evaluation() -> None:
    algorithm, theta = made(dropout=0.1)
    episodes = sentences()
    assert examine(algorithm.model, theta, episodes.support.inputs[0])
    size = noise_size(algorithm, theta, unstack(episodes))
    noisy = with_noise(episodes, draw_noise(0, range(TASKS), size, REAL))
    one, other = (build(strategy, algorithm).meta_gradient(theta, noisy).gradient for strategy in ("vmap", "loop"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-14)
    scores = [build("loop", made(dropout)[0]).scores(theta, episodes, (0, 2)) for dropout in (0.0, 0.1)]
    assert torch.equal(*scores)


def test_the_example_takes_a_mask_as_transformers_does_and_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    from grammar import CLASSES, LENGTH, Grammar  # type: ignore[import-not-found]
    from lora_bert import LoRABert  # type: ignore[import-not-found]

    episodes = draw_batch(Grammar(shot=1, query=1), 0, "train", range(TASKS), REAL)
    shapes = {"input_ids": (LENGTH,), "attention_mask": (LENGTH,)}
    model = TorchModel(lambda: LoRABert(shapes, CLASSES, width=8, layers=1, rank=2), output="logits")
    algorithm = MAML(model=model, objective=CROSS_ENTROPY, inner=Inner(lr=LR, steps=1, adapt=("*.lora_*",)))
    theta = algorithm.init(torch.Generator().manual_seed(0), REAL)
    inputs = unstack(episodes).support.inputs
    assert not bool(inputs["attention_mask"].all())
    module = model.module(theta, training=False)
    with torch.no_grad():
        plain = functional_call(BertForward(module), {f"module.{name}": one for name, one in theta.items()}, (), inputs)
        torch.testing.assert_close(model.apply(theta, inputs), plain, rtol=0, atol=1e-12)
    one, other = (build(name, algorithm).meta_gradient(theta, episodes).gradient for name in ("eager", "trace"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-12)
    *_, (adapted, _) = algorithm.path(theta, unstack(episodes).support)
    moved = {name for name in theta if not torch.equal(theta[name], adapted[name])}
    assert moved
    assert all(".lora_" in name for name in moved)


class BertForward(torch.nn.Module):
    """The forward of transformers' own class, with a mask [B, L]."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Tensor) -> Tensor:
        logits: Tensor = transformers.BertForSequenceClassification.forward(self.module, **inputs).logits
        return logits

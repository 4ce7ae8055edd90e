"""Inputs that are several tensors by name: every strategy against plain torch in float64, and what is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from meta.algorithms import CAVIA, MAML, Oracle, Pretrain, ProtoNet, answers_of
from meta.engine.strategies import build
from meta.episode import (
    Episode,
    Examples,
    from_leaves,
    input_names,
    leaf_names,
    leaves,
    place,
    pooled,
    signature,
    split,
    stack,
    unstack,
)
from meta.inner import Implicit, Inner
from meta.inputs import each, length, names_of, one_shape, one_tensor, parts
from meta.models import TorchModel
from meta.models.examine import examine
from meta.objectives import CROSS_ENTROPY
from meta.params import Params

REAL, WORDS, LENGTH, CLASSES, TASKS, LR, STEPS = torch.float64, 11, 6, 3, 3, 0.1, 2


class Reader(nn.Module):
    """The mean of the words that the mask keeps, and of a number beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, 5), nn.Linear(6, CLASSES)

    def forward(self, tokens: Tensor, mask: Tensor, level: Tensor | None = None) -> Tensor:
        kept = mask.unsqueeze(-1).to(self.head.weight.dtype)
        mean = (self.embed(tokens) * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
        beside = torch.zeros_like(mean[:, :1]) if level is None else level
        return self.head(torch.cat([torch.tanh(mean), beside], dim=1))


def sentences(tasks: int = TASKS) -> Episode:
    generator = torch.Generator().manual_seed(1)

    def examples(count: int) -> Examples:
        longest = torch.randint(1, LENGTH + 1, (count, 1), generator=generator)
        inputs = {
            "tokens": torch.randint(WORDS, (count, LENGTH), generator=generator),
            "mask": (torch.arange(LENGTH) < longest).long(),
            "level": torch.randn(count, 1, generator=generator, dtype=REAL),
        }
        return Examples(inputs, torch.arange(count) % CLASSES)

    return stack([Episode(examples(6), examples(9), torch.zeros(0, dtype=REAL)) for _ in range(tasks)])


def made(**inner: Any) -> tuple[MAML, Params]:
    algorithm = MAML(model=TorchModel(Reader), objective=CROSS_ENTROPY, inner=Inner(lr=LR, steps=STEPS, **inner))
    return algorithm, algorithm.init(torch.Generator().manual_seed(0), REAL)


def plainly(theta: Params, episodes: Episode) -> tuple[Params, Tensor]:
    """Meta-gradient and adapted outputs by autograd alone, task by task."""
    module, start = Reader().double(), {name: value.clone().requires_grad_() for name, value in theta.items()}
    losses, predicted = [], []
    for task in range(len(episodes.description)):
        episode, params = unstack(episodes, task), dict(start)
        for _ in range(STEPS):
            outputs = functional_call(module, params, (), episode.support.inputs)
            loss = F.cross_entropy(outputs, episode.support.targets)
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {name: params[name] - LR * part for name, part in zip(params, gradients, strict=True)}
        predicted.append(functional_call(module, params, (), episode.query.inputs))
        losses.append(F.cross_entropy(predicted[-1], episode.query.targets))
    gradients = torch.autograd.grad(torch.stack(losses).sum(), list(start.values()))
    return dict(zip(start, gradients, strict=True)), torch.stack(predicted).detach()


@pytest.mark.parametrize("strategy", ["vmap", "trace", "loop", "eager", "native"])
def test_meta_gradient_and_predictions_are_those_of_plain_torch(strategy: str) -> None:
    algorithm, theta = made()
    episodes = place(sentences(), REAL, "cpu")
    gradients, outputs = plainly(theta, episodes)
    result = build(strategy, algorithm).meta_gradient(theta, episodes)
    scale = max(float(value.abs().max()) for value in gradients.values())
    for name, value in gradients.items():
        torch.testing.assert_close(result.gradient[name], value, rtol=0, atol=1e-13 * scale)
    predicted = build(strategy, answers_of(algorithm)).scores(theta, episodes, (STEPS,))[:, 0]
    torch.testing.assert_close(predicted, outputs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("inner", [{"recompute": True}, {"derivative": Implicit(strength=2.0)}])
def test_backward_passes_of_their_own_take_several_inputs(inner: dict[str, Any]) -> None:
    algorithm, theta = made(**inner)
    one, other = (build(name, algorithm).meta_gradient(theta, sentences()).gradient for name in ("eager", "trace"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-12)
    assert bool(one["embed.weight"].any())


@pytest.mark.parametrize("method", [ProtoNet, Pretrain])
def test_other_methods_take_several_inputs(method: Any) -> None:
    keys = {"classes": CLASSES} if method is ProtoNet else {}
    algorithm = method(model=TorchModel(Reader), objective=CROSS_ENTROPY, inner=Inner(lr=LR), **keys)
    theta = algorithm.init(torch.Generator().manual_seed(0), REAL)
    gradient = build("trace", algorithm).meta_gradient(theta, sentences()).gradient
    assert bool(gradient["head.weight"].any())


def test_a_program_is_kept_by_names_too() -> None:
    episodes = sentences()
    renamed = episodes._replace(
        support=Examples({"a" + name: one for name, one in episodes.support.inputs.items()}, episodes.support.targets),
        query=Examples({"a" + name: one for name, one in episodes.query.inputs.items()}, episodes.query.targets),
    )
    assert signature(renamed) != signature(episodes)


def test_leaves_are_in_sorted_order_whatever_the_order_of_the_mapping() -> None:
    episodes = sentences()
    turned = episodes._replace(
        support=Examples(dict(reversed(episodes.support.inputs.items())), episodes.support.targets)
    )
    assert all(one is other for one, other in zip(leaves(episodes), leaves(turned), strict=True))
    assert leaf_names(input_names(episodes))[:4] == (
        "support inputs level",
        "support inputs mask",
        "support inputs tokens",
        "support targets",
    )
    again = from_leaves(leaves(episodes), input_names(episodes))
    assert all(one is other for one, other in zip(leaves(episodes), leaves(again), strict=True))
    joined = stack([unstack(part) for part in split(episodes, 1)])
    assert all(torch.equal(*pair) for pair in zip(leaves(joined), leaves(episodes), strict=True))
    both = pooled(unstack(episodes)).inputs
    assert length(both) == 15
    assert names_of(both) == ("level", "mask", "tokens")
    assert [tuple(one.shape) for one in parts(each(lambda one: one[:2], both))] == [(2, 1), (2, 6), (2, 6)]


def test_names_that_differ_are_refused() -> None:
    one, two = unstack(sentences(), 0), unstack(sentences(), 1)
    less = two._replace(
        support=Examples({"tokens": two.support.inputs["tokens"]}, two.support.targets),
        query=Examples({"tokens": two.query.inputs["tokens"]}, two.query.targets),
    )
    with pytest.raises(ValueError, match=r"equal names in all tasks, received \['level', 'mask', 'tokens'\] and"):
        stack([one, less])
    with pytest.raises(ValueError, match="same names in support and query"):
        stack([one._replace(support=less.support)])


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"tokens": None, "mask": None, "masks": None}, r"declares \(tokens, mask, level\), received 'masks'"),
        ({"tokens": None, "level": None}, r"needs \(tokens, mask\), received level, tokens; .* 'mask'"),
        ({"": None}, r"needs \(tokens, mask\), received one tensor"),
        ({"tokens": "float", "mask": None}, r"received mask \[4, 6\] torch.int64, tokens \[4, 6\] torch.float64: "),
    ],
)
def test_inputs_that_forward_does_not_take_are_refused(inputs: dict[str, Any], named: str) -> None:
    _, theta = made()
    ids = torch.ones(4, LENGTH, dtype=torch.int64)
    tensors = {name: ids.double() if kind == "float" else ids for name, kind in inputs.items()}
    with pytest.raises(ValueError, match=named):
        examine(TorchModel(Reader), theta, tensors.get("", tensors))


def test_modules_that_pass_everything_on_take_any_name() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = Reader()

        def forward(self, **inputs: Tensor) -> Tensor:
            return self.inside(**inputs)

    class Dropping(Reader):
        def forward(self, tokens: Tensor, **others: Tensor) -> Tensor:
            return super().forward(tokens, torch.ones_like(tokens))

    inputs = unstack(sentences()).support.inputs
    model = TorchModel(Wrapped)
    examine(model, model.init(torch.Generator(), REAL), inputs)
    model = TorchModel(Dropping)
    with pytest.raises(ValueError, match=r"declares \(tokens\), received 'level'"):
        examine(model, model.init(torch.Generator(), REAL), inputs)


def test_parts_that_need_one_tensor_say_so() -> None:
    shapes = {"tokens": (LENGTH,), "mask": (LENGTH,)}
    for method in (CAVIA, Oracle):
        with pytest.raises(
            ValueError, match="expected a family of inputs in one tensor, received several: tokens, mask"
        ):
            method.sizes(shapes, CLASSES, 2)
    with pytest.raises(ValueError, match="model mlp: expected a family"):
        one_shape(shapes, "model mlp")
    with pytest.raises(ValueError, match="received several by name: mask, tokens"):
        one_tensor({"tokens": torch.zeros(1), "mask": torch.zeros(1)}, "ridge")

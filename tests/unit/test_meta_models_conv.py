from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta.models import MLP, Conv4, NormalisedModel, ResNet12
from meta.models.norm import EPSILON, batch_norm
from meta.params import Params

IMAGE, OUTPUTS = (2, 16, 16), 3
Make = Callable[..., NormalisedModel]
MODELS: dict[str, Make] = {
    "stride": lambda **more: Conv4(inputs=IMAGE, outputs=OUTPUTS, channels=4, **more),
    "pool": lambda **more: Conv4(inputs=IMAGE, outputs=OUTPUTS, channels=4, down="pool", **more),
    "resnet": lambda **more: ResNet12(inputs=IMAGE, outputs=OUTPUTS, widths=(3, 4), **more),
    "mlp": lambda **more: MLP(inputs=IMAGE, outputs=OUTPUTS, hidden=(6, 5), init_std=None, **more),
}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *IMAGE, dtype=torch.float64, generator=generator(seed))


def start(model: NormalisedModel) -> Params:
    """Parameters with offsets away from zero, so that a forgotten one shows."""
    params = model.init(generator(), torch.float64)
    return {name: value + (0.1 if name.endswith("offset") else 0.0) for name, value in params.items()}


class TestBatchNorm:
    @pytest.mark.parametrize("shape", [(7, 3), (7, 3, 4, 5)])
    def test_is_torchs_without_a_scale(self, shape: tuple[int, ...], close: Callable[..., None]) -> None:
        hidden = torch.randn(shape, dtype=torch.float64, generator=generator())
        offset = torch.randn(3, dtype=torch.float64, generator=generator(1))
        expected = F.batch_norm(hidden, None, None, None, offset, training=True, eps=EPSILON)
        close(batch_norm(hidden, offset), expected)

    def test_statistics_of_the_first_examples(self, close: Callable[..., None]) -> None:
        hidden = torch.randn(7, 3, 4, 5, dtype=torch.float64, generator=generator())
        mean = hidden[:4].mean((0, 2, 3))
        variance = hidden[:4].var((0, 2, 3), correction=0)
        expected = F.batch_norm(hidden, mean, variance, training=False, eps=EPSILON)
        close(batch_norm(hidden, torch.zeros(3, dtype=torch.float64), examples=4), expected)

    def test_a_constant_channel_stays_finite(self) -> None:
        hidden = torch.ones(4, 1, 2, 2, dtype=torch.float64, requires_grad=True)
        out = batch_norm(hidden, torch.zeros(1, dtype=torch.float64))
        (first,) = torch.autograd.grad(out.pow(2).sum(), hidden, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), hidden)
        assert torch.equal(out, torch.zeros_like(out))
        assert torch.isfinite(second).all()


class TestEveryNormalisedModel:
    @models
    def test_transductive_outputs_depend_on_the_whole_batch(self, make: Make) -> None:
        model = make(batch_norm="transductive")
        params, queries = start(model), images(6)
        assert model.batch_norm == "transductive"
        assert not torch.allclose(model.apply(params, queries)[:2], model.apply(params, queries[:2]))

    @models
    def test_inductive_outputs_depend_on_the_query_and_the_support_alone(
        self, make: Make, close: Callable[..., None]
    ) -> None:
        model = make(batch_norm="inductive")
        params, queries, support = start(model), images(6), images(5, seed=1)
        together = model.apply(params, queries, support)
        alone = torch.cat([model.apply(params, query[None], support) for query in queries])
        assert together.shape == (6, OUTPUTS)
        close(together, alone)
        assert not torch.allclose(together, model.apply(params, queries, images(5, seed=2)))

    @models
    def test_the_support_is_normalised_by_itself_in_both_modes(self, make: Make, close: Callable[..., None]) -> None:
        model = make(batch_norm="inductive")
        params, support = start(model), images(5)
        close(model.apply(params, support, support), model.apply(params, support))

    @models
    def test_every_parameter_matters(self, make: Make) -> None:
        model = make(batch_norm="transductive")
        params = {name: value.requires_grad_() for name, value in start(model).items()}
        gradients = torch.autograd.grad(model.apply(params, images(6)).square().sum(), list(params.values()))
        assert all(bool(gradient.any()) for gradient in gradients)


class TestConv4:
    @pytest.mark.parametrize("down", ["stride", "pool"])
    def test_computes_what_the_layers_of_torch_compute(self, down: str, close: Callable[..., None]) -> None:
        model = Conv4(inputs=IMAGE, outputs=OUTPUTS, channels=4, blocks=3, down=down)  # type: ignore[arg-type]
        params, inputs = start(model), images(6)
        layers: list[nn.Module] = []
        for block, entering in enumerate((2, 4, 4)):
            conv = nn.Conv2d(entering, 4, 3, stride=2 if down == "stride" else 1, padding=1, bias=False)
            norm = nn.BatchNorm2d(4, eps=EPSILON, track_running_stats=False)
            conv.weight.data, norm.bias.data = params[f"conv{block}.weight"], params[f"conv{block}.offset"]
            layers += [conv, norm, nn.ReLU(), *([nn.MaxPool2d(2)] if down == "pool" else [])]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if down == "stride" else [nn.Flatten()]
        features = nn.Sequential(*layers).double()(inputs)
        close(model.apply(params, inputs), F.linear(features.detach(), params["head.weight"], params["head.bias"]))

    def test_the_papers_network_for_mini_imagenet_has_800_features(self) -> None:
        assert Conv4(inputs=(3, 84, 84), outputs=5, channels=32, down="pool").features == 800

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"inputs": (5,)}, r"conv4 expects images \(channels, height, width\), received inputs of shape \(5,\)"),
            ({"channels": 0}, "channels and blocks of at least 1, received 0, 4"),
            ({"inputs": (1, 12, 20), "down": "pool"}, "at least 16 pixels a side, received 12×20"),
        ],
    )
    def test_bad_sizes_are_refused(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Conv4(**{"inputs": IMAGE, "outputs": OUTPUTS, **wrong})


class TestResNet12:
    def test_has_twelve_convolutions_on_the_way_and_one_skip_a_block(self) -> None:
        params = ResNet12(inputs=(3, 32, 32), outputs=5).init(generator(), torch.float32)
        convolutions = [name for name, value in params.items() if value.dim() == 4]
        assert sum(".skip." not in name for name in convolutions) == 12
        assert sum(".skip." in name for name in convolutions) == 4

    def test_a_block_computes_what_the_layers_of_torch_compute(self, close: Callable[..., None]) -> None:
        model = ResNet12(inputs=IMAGE, outputs=OUTPUTS, widths=(4,))
        params, inputs = start(model), images(6)

        def normed(hidden: Tensor, layer: str) -> Tensor:
            weight, offset = params[f"block0.{layer}.weight"], params[f"block0.{layer}.offset"]
            hidden = F.conv2d(hidden, weight, padding="same")
            return F.batch_norm(hidden, None, None, None, offset, training=True, eps=EPSILON)

        hidden = F.leaky_relu(normed(F.leaky_relu(normed(inputs, "conv0"), 0.1), "conv1"), 0.1)
        hidden = F.max_pool2d(F.leaky_relu(normed(hidden, "conv2") + normed(inputs, "skip"), 0.1), 2)
        expected = F.linear(hidden.mean((2, 3)), params["head.weight"], params["head.bias"])
        close(model.apply(params, inputs), expected)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"widths": ()}, r"widths of at least 1, received \[\]"),
            ({"inputs": (3, 3, 3)}, "2 blocks expect images of at least 4 pixels a side, received 3×3"),
        ],
    )
    def test_bad_sizes_are_refused(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ResNet12(**{"inputs": IMAGE, "outputs": OUTPUTS, "widths": (2, 3), **wrong})


def test_the_papers_classifier_without_convolutions_has_no_bias_before_a_norm() -> None:
    model = MLP(inputs=(1, 28, 28), outputs=5, hidden=(256, 128, 64, 64), batch_norm="transductive")
    names = set(model.init(generator(), torch.float32))
    assert {name for name in names if name.endswith("bias")} == {"layer4.bias"}
    assert {f"layer{layer}.offset" for layer in range(4)} < names

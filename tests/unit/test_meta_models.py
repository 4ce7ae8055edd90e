import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meta.models import MLP, Model, TorchModel

DTYPES = (torch.float32, torch.float64)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(inputs)))


MODELS: dict[str, Callable[[], Model]] = {
    "mlp": lambda: MLP(inputs=(3,), outputs=2, hidden=(4,), activation="tanh"),
    "module": lambda: TorchModel(TwoLayers),
}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestEveryModel:
    @models
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_init_is_a_function_of_the_generator_alone(
        self, make: Callable[[], Model], dtype: torch.dtype, same_bits: Callable[..., bool]
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            first = make().init(generator(), dtype)
            torch.manual_seed(2)
            state = torch.get_rng_state()
            second, third = make().init(generator(), dtype), make().init(generator(1), dtype)
            assert torch.equal(torch.get_rng_state(), state)
        assert same_bits(first, second)
        assert not same_bits(first, third)
        assert {value.dtype for value in first.values()} == {dtype}

    @models
    def test_float32_starts_from_the_rounded_float64_parameters(
        self, make: Callable[[], Model], same_bits: Callable[..., bool]
    ) -> None:
        double, single = (make().init(generator(), dtype) for dtype in (torch.float64, torch.float32))
        assert same_bits({name: value.float() for name, value in double.items()}, single)

    @models
    def test_outputs_depend_on_the_given_parameters_only(self, make: Callable[[], Model]) -> None:
        model, inputs = make(), torch.randn(5, 3, generator=generator())
        params = model.init(generator(), torch.float32)
        outputs = model.apply(params, inputs)
        model.apply({name: value + 1 for name, value in params.items()}, inputs)
        assert outputs.shape == (5, 2)
        assert torch.equal(model.apply(params, inputs), outputs)


class TestMLP:
    @pytest.mark.parametrize("activation", ["relu", "tanh"])
    def test_computes_what_the_layers_of_torch_compute(self, activation: str, close: Callable[..., None]) -> None:
        model = MLP(inputs=(2, 3), outputs=4, hidden=(7, 5), activation=activation, init_std=None)
        params = model.init(generator(), torch.float64)
        nonlinear = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
        layers = nn.Sequential(
            nn.Flatten(), nn.Linear(6, 7), nonlinear(), nn.Linear(7, 5), nonlinear(), nn.Linear(5, 4)
        ).double()
        places = {0: "1", 1: "3", 2: "5"}
        layers.load_state_dict(
            {f"{places[layer]}.{kind}": params[f"layer{layer}.{kind}"]
             for layer in places for kind in ("weight", "bias")}
        )  # fmt: skip
        inputs = torch.randn(9, 2, 3, dtype=torch.float64, generator=generator())
        close(model.apply(params, inputs), layers(inputs).detach())

    @pytest.mark.parametrize("std", [0.01, None])
    def test_weights_are_a_truncated_normal_and_biases_zero(self, std: float | None) -> None:
        params = MLP(inputs=(50,), outputs=3, hidden=(400,), init_std=std).init(generator(), torch.float64)
        weight = params["layer0.weight"]
        scale = math.sqrt(2 / 50) if std is None else std
        assert float(weight.abs().max()) <= 2 * scale
        # A normal cut at two deviations has 0.880 of the deviation; 20,000 draws know it to half a percent.
        assert float(weight.std()) == pytest.approx(0.880 * scale, rel=0.02)
        assert not params["layer0.bias"].any()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"hidden": (4, 0)}, r"hidden layers of at least one unit, received \[4, 0\]"),
            ({"init_std": 0.0}, "init_std above zero, received 0.0"),
            ({"init_std": math.nan}, "init_std above zero, received nan"),
        ],
    )
    def test_bad_sizes_are_refused(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            MLP(inputs=(1,), outputs=1, **wrong)

    def test_without_hidden_layers_it_is_linear(self, close: Callable[..., None]) -> None:
        model = MLP(inputs=(3,), outputs=2, hidden=())
        params = model.init(generator(), torch.float64)
        inputs = torch.randn(4, 3, dtype=torch.float64, generator=generator())
        close(model.apply(params, inputs), inputs @ params["layer0.weight"].T + params["layer0.bias"])


class TestTorchModel:
    def test_computes_what_the_module_computes(self, close: Callable[..., None]) -> None:
        model, module = TorchModel(TwoLayers), TwoLayers()
        params = model.init(generator(), torch.float32)
        module.load_state_dict(params)
        inputs = torch.randn(5, 3, generator=generator())
        close(model.apply(params, inputs), module(inputs).detach())

    def test_construction_leaves_the_global_generator_alone(self) -> None:
        state = torch.get_rng_state()
        TorchModel(TwoLayers)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)), "received BatchNorm1d at '1'"),
            (nn.ReLU, "expected a module with parameters, received ReLU"),
        ],
        ids=["running statistics", "no parameters"],
    )
    def test_modules_that_cannot_be_differentiated_through_are_refused(
        self, make: Callable[[], nn.Module], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            TorchModel(make)

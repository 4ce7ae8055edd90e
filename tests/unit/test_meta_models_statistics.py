"""Batch norms with running statistics, as pretrained networks have them, in three modes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from meta.algorithms import MAML, batch_norm_of
from meta.episode import Episode, Examples
from meta.inner import Inner
from meta.models import TorchModel
from meta.models.examine import examine
from meta.models.norm import BatchNormMode
from meta.objectives import MSE
from meta.params import Params

REAL = torch.float64
Close = Callable[..., None]


def network() -> nn.Module:
    """Two batch norms, one without weights, with statistics as if they had been trained."""
    layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))
    module = nn.Sequential(layers, nn.BatchNorm1d(4, affine=False), nn.Linear(4, 1))
    for norm in (layers[1], module[1]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return module.train()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=REAL)


def made(mode: BatchNormMode) -> tuple[TorchModel, Params]:
    model = TorchModel(network, batch_norm=mode)
    return model, model.init(torch.Generator().manual_seed(0), REAL)


def filled(module: nn.Module, params: Params) -> nn.Module:
    module.double().load_state_dict(params, strict=False)
    return module


def test_frozen_is_torchs_evaluation_mode(close: Close) -> None:
    model, params = made("frozen")
    module = filled(network(), params).eval()
    close(model.apply(params, images(5)), module(images(5)).detach())
    close(model.apply(params, images(5), images(3, seed=1)), module(images(5)).detach())


def test_transductive_is_torchs_training_mode(close: Close) -> None:
    model, params = made("transductive")
    close(model.apply(params, images(5)), filled(network(), params)(images(5)).detach())


def test_inductive_normalises_by_the_support_alone(close: Close) -> None:
    model, params = made("inductive")
    support, queries = images(5), images(4, seed=1)
    together = model.apply(params, queries, support)
    alone = torch.cat([model.apply(params, query[None], support) for query in queries])
    close(together, alone)
    close(model.apply(params, support, support), model.apply(params, support))
    close(model.apply(params, support), filled(network(), params)(support).detach())
    assert not torch.allclose(together, model.apply(params, queries, images(5, seed=2)))


@pytest.mark.parametrize("mode", ["frozen", "transductive", "inductive"])
def test_the_module_and_its_buffers_stay_as_they_were(mode: BatchNormMode) -> None:
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = TorchModel(lambda: module, batch_norm=mode)
    params = model.init(torch.Generator().manual_seed(0), REAL)
    task = Episode(
        Examples(images(5), torch.ones(5, 1, dtype=REAL)), Examples(images(4), torch.ones(4, 1, dtype=REAL)), Tensor()
    )
    algorithm = MAML(model=model, objective=MSE, inner=Inner(lr=0.1))
    theta = {name: value.clone() for name, value in params.items()}
    torch.func.grad(lambda params: algorithm.meta_loss(params, task)[0])(params)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(params[name], value) for name, value in theta.items())
    assert not examine(model, params, images(5))
    assert batch_norm_of(model) == mode


def test_frozen_statistics_are_frozen_members_of_theta() -> None:
    model, params = made("frozen")
    statistics = {f"{path}.running_{kind}" for path in ("0.1", "1") for kind in ("mean", "var")}
    assert model.frozen == statistics
    assert statistics <= params.keys()
    for mode in ("transductive", "inductive"):
        other, theta = made(mode)  # type: ignore[arg-type]
        assert not other.frozen
        assert theta.keys() == params.keys() - statistics


def test_a_copy_of_the_module_that_is_made_inside_a_transform_outlives_it() -> None:
    (first, params), (second, _) = made("frozen"), made("frozen")
    torch.func.grad(lambda params: first.apply(params, images(3)).sum())(params)
    with FakeTensorMode(allow_non_fake_inputs=True):
        second.module(params, training=False)
    for model in (first, second):
        buffers = list(model.module(params, training=False).buffers())
        assert {type(buffer) for buffer in buffers} == {Tensor}
        assert not any(torch._C._functorch.is_functorch_wrapped_tensor(buffer) for buffer in buffers)


@pytest.mark.parametrize(
    ("make", "mode", "named"),
    [
        (
            network,
            None,
            r"received BatchNorm2d at '0.1' without it; set it to transductive \(.*\), inductive \(.*\) or frozen",
        ),
        (lambda: nn.Sequential(nn.Linear(1, 1), nn.Tanh()), "frozen", "Sequential, which has no layer of batch norm"),
        (
            lambda: nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, track_running_stats=False)),
            "frozen",
            "received BatchNorm1d at '1', which has none; take transductive or inductive",
        ),
        (
            lambda: nn.Sequential(nn.BatchNorm1d(1), nn.InstanceNorm1d(1, affine=True, track_running_stats=True)),
            "frozen",
            "received InstanceNorm1d at '1'; construct it with track_running_stats=False",
        ),
    ],
)
def test_modes_that_do_not_suit_the_layers_are_refused(
    make: Callable[[], nn.Module], mode: BatchNormMode | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        TorchModel(make, batch_norm=mode)


def test_inductive_refuses_layers_whose_rows_are_no_examples() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(1), nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(x.reshape(-1, 1))).reshape(len(x), -1).mean(1, keepdim=True)

    model = TorchModel(Rows, batch_norm="inductive")
    params, rows = model.init(torch.Generator(), REAL), torch.ones(3, 2, dtype=REAL)
    with pytest.raises(ValueError, match="for each of the 6 support and query examples, received 12 rows"):
        model.apply(params, rows, rows)

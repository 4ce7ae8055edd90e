"""import metaray: meta-gradients and adaptation of modules, changes as keyword arguments, trained models as objects."""

import copy
import gc
import math
import os
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import metaray
from cluster.config.components import BUILT_IN
from cluster.config.schema import parse
from cluster.interrupts import stop_on_signals
from meta.engine.native.toolchain import NoCompiler, probe
from meta.inner import SGD, Adam
from metaray import programs
from metaray.words import words
from tasks.sinusoid import Sinusoid

Pair = tuple[Tensor, Tensor]
ROOT = Path(__file__).parents[2]


def net(dtype: torch.dtype = torch.float64, layers: tuple[nn.Module, ...] = (nn.Tanh(),)) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 4), *layers, nn.Linear(4, 3)).to(dtype)


def tasks(count: int = 3, classes: bool = False, shots: tuple[int, ...] = (5,)) -> list[tuple[Pair, Pair]]:
    generator = torch.Generator().manual_seed(1)

    def pair(size: int) -> Pair:
        inputs = torch.randn(size, 2, generator=generator, dtype=torch.float64)
        if classes:
            return inputs, torch.randint(3, (size,), generator=generator)
        return inputs, torch.randn(size, 3, generator=generator, dtype=torch.float64)

    return [(pair(shots[number % len(shots)]), pair(7)) for number in range(count)]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "cross_entropy": F.cross_entropy}


def query_loss(
    module: nn.Module, params: dict[str, Tensor], task: tuple[Pair, Pair], loss: str, steps: int, lr: float
) -> Tensor:
    """The outer loss of one task, written with torch.autograd alone."""
    (x, y), (query, targets) = task
    for _ in range(steps):
        value = LOSSES[loss](functional_call(module, params, (x,)), y)
        gradients = torch.autograd.grad(value, list(params.values()), create_graph=True)
        params = {name: p - lr * g for (name, p), g in zip(params.items(), gradients, strict=True)}
    return LOSSES[loss](functional_call(module, params, (query,)), targets)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("engine", ["auto", "loop", "eager"])
def test_the_meta_gradient_is_that_of_autograd(loss: str, steps: int, engine: str, close: Callable[..., None]) -> None:
    module, episodes = net(), tasks(4, classes=loss == "cross_entropy", shots=(5, 6))
    outer = metaray.meta_gradient(module, loss, episodes, lr=0.3, steps=steps, engine=engine)
    params = dict(module.named_parameters())
    losses = [query_loss(module, params, task, loss, steps, 0.3) for task in episodes]
    torch.stack(losses).mean().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        close(outer.gradient[name], parameter.grad)
    close(outer.loss.detach(), torch.stack(losses).mean().detach())
    close(outer.metrics["loss"], torch.stack(losses).detach())  # in the order of the episodes, whatever their shapes


def test_the_meta_gradient_is_that_of_central_differences() -> None:
    module, episodes = net(), tasks()
    outer = metaray.meta_gradient(module, "mse", episodes, lr=0.3, steps=2)
    for name, parameter in module.named_parameters():
        flat = parameter.data.view(-1)
        for place in range(len(flat)):
            values = []
            for change in (1e-5, -1e-5):
                flat[place] += change
                values.append(metaray.meta_gradient(module, "mse", episodes, lr=0.3, steps=2).loss.item())
                flat[place] -= change
            difference = (values[0] - values[1]) / 2e-5
            assert float(outer.gradient[name].view(-1)[place]) == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_a_loss_of_the_users_own_is_that_of_the_name() -> None:
    module, episodes = net(), tasks()
    named = metaray.meta_gradient(module, "mse", episodes, lr=0.1)
    own = metaray.meta_gradient(module, lambda outputs, targets: ((outputs - targets) ** 2).mean(), episodes, lr=0.1)
    of_torch = metaray.meta_gradient(module, nn.MSELoss(), episodes, lr=0.1)
    for name, value in named.gradient.items():
        assert torch.equal(own.gradient[name], value)
        assert torch.allclose(of_torch.gradient[name], value, rtol=1e-12)
    assert named.loss.item() == own.loss.item()


def test_backward_adds_the_gradient_to_the_parameters() -> None:
    module, episodes = net(), tasks()
    outer = metaray.meta_gradient(module, "mse", episodes, lr=0.1)
    penalty = sum(parameter.square().sum() for parameter in module.parameters())
    (2 * outer.loss + penalty).backward()
    for name, parameter in module.named_parameters():
        assert torch.allclose(parameter.grad, 2 * outer.gradient[name] + 2 * parameter.detach(), rtol=1e-12)
    torch.nn.utils.clip_grad_norm_(module.parameters(), 0.1)  # changes .grad in place


def test_a_training_loop_learns() -> None:
    module = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    x = torch.linspace(-1, 1, 10)[:, None]
    episodes = [((x, slope * x), (x, slope * x)) for slope in (-2.0, 2.0)]
    losses = []
    for _ in range(60):
        outer = metaray.meta_gradient(module, "mse", episodes, lr=0.1, steps=2)
        optimizer.zero_grad()
        outer.loss.backward()
        optimizer.step()
        losses.append(outer.loss.item())
    assert losses[-1] < 0.3 * losses[0]
    before = F.mse_loss(module(x), 2 * x)
    assert F.mse_loss(metaray.adapt(module, "mse", (x, 2 * x), steps=2, lr=0.1)(x), 2 * x) < 0.5 * before


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each program that is made appends its engine's argument."""
    calls: list[str] = []
    original = programs._made

    def counted(*arguments: Any) -> Any:
        calls.append(arguments[4])
        return original(*arguments)

    monkeypatch.setattr(programs, "_made", counted)
    return calls


def test_a_program_is_made_once_and_follows_parameters_alpha_and_examples(made: list[str]) -> None:
    module = net()
    for step in range(4):
        lr = 0.1 * (step + 1)
        episodes = [((x * (step + 1), y), query) for (x, y), query in tasks()]
        outer = metaray.meta_gradient(module, lambda outputs, targets: F.mse_loss(outputs, targets), episodes, lr=lr)
        fresh = metaray.meta_gradient(copy.deepcopy(module), "mse", episodes, lr=lr)
        assert all(torch.allclose(outer.gradient[name], fresh.gradient[name], rtol=1e-12) for name in fresh.gradient)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(0.1)
    assert len(made) == 1 + 4


def test_what_a_program_was_made_from_makes_another_when_it_changes(made: list[str]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.factor = nn.Linear(2, 3), 1.0
            self.register_buffer("shift", torch.zeros(3))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.factor * self.layer(inputs) + self.shift

    module, episodes = Scaled(), tasks()

    def loss() -> float:
        value = metaray.meta_gradient(module, "mse", episodes, lr=0.1).loss.item()
        assert value == pytest.approx(metaray.meta_gradient(copy.deepcopy(module), "mse", episodes, lr=0.1).loss.item())
        return value

    seen = [loss(), loss()]
    module.factor = 2.0
    seen.append(loss())
    module.shift += 1.0
    seen.append(loss())
    module.layer.bias.requires_grad_(False)
    seen.append(loss())
    assert len(set(seen)) == 4
    assert len(made) == 4 + 5  # a copy has a program of its own each time


def test_what_a_loss_holds_makes_another_program_when_it_changes(made: list[str]) -> None:
    module, episodes, weight = net(), tasks(), torch.ones(3, dtype=torch.float64)

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", weight.clone())

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (self.weight * (outputs - targets) ** 2).mean()

    class Holder:
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (weight * (outputs - targets) ** 2).mean()

    weighted, holder = Weighted(), Holder()

    def losses() -> list[float]:
        return [
            metaray.meta_gradient(module, loss, episodes, lr=0.1, engine="loop").loss.item()
            for loss in (weighted, holder.loss, lambda outputs, targets: (weight * (outputs - targets) ** 2).mean())
        ]

    first, again = losses(), losses()
    assert first == again == pytest.approx([first[0]] * 3)
    assert len(made) == 3  # a bound method and a lambda are new objects in every call
    weight.mul_(2)
    weighted.weight.mul_(2)
    assert losses() == pytest.approx([losses()[0]] * 3)
    assert losses()[0] > 1.5 * first[0]
    assert len(made) == 6


def test_many_programs_for_one_module_are_warned_of(made: list[str]) -> None:
    module, episodes = net(), tasks(1)
    for number in range(programs.MOST):
        metaray.meta_gradient(module, "mse", episodes, lr=0.1, steps=number, engine="eager")
    with pytest.warns(UserWarning, match="more than 8 programs for one Sequential: pass the same loss"):
        metaray.meta_gradient(module, "mse", episodes, lr=0.1, steps=programs.MOST, engine="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metaray.meta_gradient(module, "mse", episodes, lr=0.1, steps=programs.MOST, engine="eager")


def test_a_module_that_goes_takes_its_programs_along() -> None:
    module = net()
    metaray.meta_gradient(module, "mse", tasks(1), lr=0.1)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None


def test_frozen_parameters_stay() -> None:
    module, episodes = net(), tasks()
    module[0].weight.requires_grad_(False)
    outer = metaray.meta_gradient(module, "mse", episodes, lr=0.1)
    assert set(outer.gradient) == {"0.bias", "2.weight", "2.bias"}
    outer.loss.backward()
    assert module[0].weight.grad is None
    adapted = metaray.adapt(module, "mse", episodes[0][0], steps=2, lr=0.1)
    assert torch.equal(adapted[0].weight, module[0].weight)
    assert not torch.equal(adapted[2].weight, module[2].weight)
    assert not adapted[0].weight.requires_grad


def test_patterns_say_what_moves() -> None:
    module, episodes = net(), tasks()
    head = metaray.adapt(module, "mse", episodes[0][0], steps=2, lr=0.1, patterns=("2.*",))
    assert torch.equal(head[0].weight, module[0].weight)
    assert not torch.equal(head[2].weight, module[2].weight)
    anil = metaray.meta_gradient(module, "mse", episodes, lr=0.1, adapt=("2.*",))
    maml = metaray.meta_gradient(module, "mse", episodes, lr=0.1)
    assert not torch.equal(anil.gradient["0.weight"], maml.gradient["0.weight"])


def test_first_order_and_other_rules() -> None:
    module, episodes = net(), tasks()
    exact = metaray.meta_gradient(module, "mse", episodes, lr=0.3, steps=2)
    first = metaray.meta_gradient(module, "mse", episodes, lr=0.3, steps=2, derivative="first_order")
    assert exact.loss.item() == first.loss.item()
    assert not torch.allclose(exact.gradient["0.weight"], first.gradient["0.weight"])
    adam = metaray.meta_gradient(module, "mse", episodes, lr=0.3, steps=2, rule="adam")
    of_class = metaray.meta_gradient(module, "mse", episodes, lr=0.3, steps=2, rule=Adam())
    assert adam.loss.item() == of_class.loss.item() != exact.loss.item()


def test_dropout_draws_from_the_callers_generator_alone() -> None:
    module, episodes = net(layers=(nn.Tanh(), nn.Dropout(0.5))), tasks()

    def gradient(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return metaray.meta_gradient(module, "mse", episodes, lr=0.1, generator=generator).gradient["0.weight"]

    before = torch.get_rng_state()
    one, same, other = gradient(0), gradient(0), gradient(1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match=r"generator: expected a torch.Generator.*module.eval\(\)"):
        metaray.meta_gradient(module, "mse", episodes, lr=0.1)
    module.eval()
    quiet = metaray.meta_gradient(module, "mse", episodes, lr=0.1)
    without = nn.Sequential(module[0], module[1], module[3])
    plain = metaray.meta_gradient(without, "mse", episodes, lr=0.1)
    assert torch.allclose(quiet.gradient["0.weight"], plain.gradient["0.weight"], rtol=1e-12)


def test_one_layer_in_evaluation_mode_stays_there() -> None:
    module, episodes = net(layers=(nn.Tanh(), nn.Dropout(0.5))), tasks()
    module[2].eval()
    assert module.training
    metaray.meta_gradient(module, "mse", episodes, lr=0.1)  # asks for no generator


def test_a_stacked_episode_is_its_tasks() -> None:
    module, episodes = net(), tasks()
    sides = [[torch.stack([task[side][part] for task in episodes]) for part in (0, 1)] for side in (0, 1)]
    stacked = metaray.Episode(metaray.Examples(*sides[0]), metaray.Examples(*sides[1]), torch.zeros(3, 0))
    as_list = metaray.meta_gradient(module, "mse", episodes, lr=0.1)
    as_one = metaray.meta_gradient(module, "mse", stacked, lr=0.1)
    assert torch.equal(as_list.gradient["0.weight"], as_one.gradient["0.weight"])
    arrays = [tuple((x.numpy(), y.numpy()) for x, y in task) for task in episodes]
    of_numpy = metaray.meta_gradient(module, "mse", arrays, lr=0.1)
    assert torch.equal(as_list.gradient["0.weight"], of_numpy.gradient["0.weight"])


def test_numbers_take_the_parameters_dtype() -> None:
    outer = metaray.meta_gradient(net(torch.float32), "mse", tasks(), lr=0.1)
    assert outer.gradient["0.weight"].dtype == torch.float32 == outer.loss.dtype


def test_a_compiled_engine_gives_the_same_numbers() -> None:
    try:
        probe()
    except NoCompiler as error:
        pytest.skip(str(error))
    module, episodes = net(), tasks()
    recorded = metaray.meta_gradient(module, "mse", episodes, lr=0.1, steps=2)
    compiled = metaray.meta_gradient(module, "mse", episodes, lr=0.1, steps=2, engine="native")
    assert (recorded.engine, compiled.engine) == ("trace", "native")
    assert torch.allclose(recorded.gradient["0.weight"], compiled.gradient["0.weight"], rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": nn.Linear}, "module: expected an instance of torch.nn.Module, received the class Linear"),
        ({"module": 3}, "module: expected an instance of torch.nn.Module, received int"),
        ({"module": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))}, "running statistics, received BatchNorm1d"),
        ({"module": nn.Flatten()}, "expected a module with parameters, received Flatten"),
        (
            {"module": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3).double())},
            "expected parameters of one dtype on one device, received torch.float32 on cpu, torch.float64 on cpu",
        ),
        ({"loss": "l1"}, "loss: expected one of .* or a function, received 'l1'"),
        ({"loss": nn.MSELoss}, "received the class MSELoss"),
        ({"loss": lambda o, t: (o - t) ** 2}, r"loss: expected a scalar tensor, .* received shape \(5, 3\)"),
        ({"episodes": []}, "episodes: expected a list of .*, received none"),
        ({"episodes": tasks()[0]}, "received the two pairs of a single one; put it in a list"),
        ({"episodes": torch.zeros(3)}, "episodes: expected a list of .*, received Tensor"),
        ({"episodes": [tasks()[0], torch.zeros(3)]}, r"episodes\[1\]: expected \(\(support inputs"),
        (
            {"episodes": [((torch.zeros(5, 2), torch.zeros(4, 3)), tasks()[0][1])]},
            r"episodes\[0\]: support: expected inputs \[B, ...\].* shapes \(5, 2\) and \(4, 3\)",
        ),
        ({"lr": -1.0}, "lr: expected a finite step size of at least 0, received -1.0"),
        ({"lr": math.nan}, "lr: expected a finite step size"),
        ({"steps": 1.5}, "steps: expected a number of inner steps, 0 or more, received 1.5"),
        ({"engine": "fast"}, "engine: expected one of auto, vmap, .*, received 'fast'"),
        ({"adapt": ("heads.*",)}, "heads"),
        ({"adapt": "2.*"}, "adapt: expected a list of patterns"),
        ({"derivative": "truncated"}, r"received 'truncated'; pass meta.inner.Truncated\(last=…\)"),
        ({"rule": "learned_sgd"}, "rule: expected one without numbers of its own to learn, received LearnedSGD"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_have_words(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"module": net(), "loss": "mse", "episodes": tasks(), "lr": 0.1} | change
    with pytest.raises(ValueError, match=message):
        metaray.meta_gradient(**arguments)


def test_a_wrong_name_of_a_rule_names_the_nearest() -> None:
    with pytest.raises(metaray.ConfigError, match="did you mean 'momentum'"):
        metaray.meta_gradient(net(), "mse", tasks(), lr=0.1, rule="momentun")


def test_divergence_is_an_error_that_names_the_tasks() -> None:
    with pytest.raises(metaray.DivergedError, match=r"the loss of episodes \[0, 1, 2\] after adaptation; lower lr"):
        metaray.meta_gradient(net(layers=()), "mse", tasks(), lr=1e30, steps=20)
    with pytest.raises(metaray.DivergedError, match="after 20 inner steps"):
        metaray.adapt(net(layers=()), "mse", tasks()[0][0], steps=20, lr=1e30)


def test_adapt_takes_the_steps_of_gradient_descent(close: Callable[..., None]) -> None:
    module, (support, _) = net(), tasks()[0]
    adapted = metaray.adapt(module, "mse", support, steps=3, lr=0.2)
    by_hand = copy.deepcopy(module)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.2)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(by_hand(support[0]), support[1]).backward()
        optimizer.step()
    for one, other in zip(adapted.parameters(), by_hand.parameters(), strict=True):
        close(one.detach(), other.detach())
    assert type(adapted) is type(module)
    assert adapted[0].weight is not module[0].weight
    assert adapted.training
    assert torch.equal(net()[0].weight, module[0].weight)


# The front: configurations, words, runs.


class Net(nn.Module):
    """A model of one's own."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, hidden: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs[0], hidden), nn.Tanh(), nn.Linear(hidden, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> type[Net]:
    """The class Net as one of an importable module."""
    module = type(sys)("my_nets")
    copied = type("Net", Net.__bases__, dict(vars(Net)) | {"__module__": "my_nets", "__qualname__": "Net"})
    copied.__init__ = _init_of(copied)  # type: ignore[misc]
    module.Net = copied  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_nets", module)
    return copied


def _init_of(cls: type[nn.Module]) -> Callable[..., None]:
    def init(self: Any, inputs: tuple[int, ...], outputs: int, hidden: int = 6) -> None:
        super(cls, self).__init__()
        self.body = nn.Sequential(nn.Linear(inputs[0], hidden), nn.Tanh(), nn.Linear(hidden, outputs))

    return init


def test_words_of_classes_and_objects(here: type[Net]) -> None:
    assert words({"model": here, "task": Sinusoid(shot=3)})[:3] == [
        'model.name="my_nets:Net"',
        'task.family="tasks.sinusoid:Sinusoid"',
        "task.shot=3",
    ]
    assert words({"model": {"name": here, "hidden": 9}, "inner": {"rule": Adam()}})[:3] == [
        'model.name="my_nets:Net"',
        "model.hidden=9",
        'inner.rule.name="meta.inner.rules:Adam"',
    ]
    assert words({"search": {"space": {"inner.lr": {"choice": (0.1, 1)}}}}) == [
        'search.space={"inner.lr": {"choice": [0.1, 1]}}'
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": {"lr": torch.tensor(0.1)}}, "inner.lr: expected a nu"),
        ({"model": nn.Linear(1, 1)}, "model: expected a class of modules, .* object of Linear; pass model=Linear"),
        ({"algorithm": type("Own", (), {})}, "algorithm: expected a class that can be imported by its name"),
        ({"seed": SGD()}, "seed: expected a plain value, received an object of SGD"),
    ],
)
def test_what_no_configuration_holds_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(metaray.ConfigError, match=message):
        words(changes)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "task": {"family": "sinusoid", "shot": 5, "query": 5},
        "model": {"name": "mlp", "hidden": [8]},
        "outer": {"steps": 3},
        "meta_batch": 2,
        "eval": {"tasks": 4, "val_tasks": 2, "steps": [0, 1], "every": 2},
        "cluster": {"workers": 0},
        "checkpoint": {"root": str(tmp_path / "runs")},
        "tracking": {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> metaray.TrainedRun:
    folder = tmp_path_factory.mktemp("front")
    torch.set_num_threads(2)
    mode = torch.get_deterministic_debug_mode()
    trained = metaray.train(
        {"task": {"family": "sinusoid", "shot": 5, "query": 5}, "model": {"name": "mlp", "hidden": [8]}},
        outer={"steps": 4},
        meta_batch=2,
        eval={"tasks": 4, "val_tasks": 2, "steps": [0, 1], "every": 2},
        cluster={"workers": 0},
        tracking={"uri": f"sqlite:///{folder / 'mlflow.db'}", "every": 1},
        **{"checkpoint.root": str(folder / "runs"), "checkpoint.every": 2},
    )
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (2, mode)  # as the caller had them
    torch.set_num_threads(1)
    return trained


def test_a_run_is_an_object_to_look_at(run: metaray.TrainedRun) -> None:
    assert run.outcome is not None
    assert run.outcome["theta_sha256"] == run.theta_sha256
    assert run.path == Path(run.outcome["run_dir"])
    assert run.evaluation == run.outcome["evaluation"]
    frame = run.to_pandas()
    assert list(frame["inner_steps"]) == [0, 1]
    assert frame["mean"][1] == run.evaluation["steps"]["1"]["mean"]
    assert "maml on sinusoid, model mlp" in repr(run)
    assert repr(run.evaluation).startswith("Evaluation(mse on 4 test tasks after inner steps 0: ")
    assert run.table().row_count == 1
    assert {"train/loss", "val/mse_1"} <= set(run.history().columns)
    assert list(run.history()["train/loss"].dropna().index) == [1, 2, 3, 4]
    for figure in (run.plot(), run.plot_history()):
        assert figure.axes
    page = run._repr_html_()
    assert page.count("<tr") == 3
    assert "&#x27;" in page  # escaped


def test_a_run_loads_adapts_and_predicts(run: metaray.TrainedRun, close: Callable[..., None]) -> None:
    loaded = metaray.load(run.path)
    assert loaded.theta.keys() == run.theta.keys()
    x = torch.linspace(-2, 2, 7)[:, None]
    support = x[:5], x[:5].sin()
    adapted = loaded.adapt(support, steps=2, lr=0.05)
    by_module = metaray.adapt(loaded.module, "mse", support, steps=2, lr=0.05)
    close(adapted.predict(x), by_module(x).detach())
    close(adapted.module(x).detach(), by_module(x).detach())
    assert sorted(loaded.module.state_dict()) == sorted(loaded.theta)
    assert not loaded.module.training
    outer = metaray.meta_gradient(loaded.module, "mse", [(support, support)], lr=0.05)  # θ goes on elsewhere
    assert set(outer.gradient) == set(loaded.theta)
    with pytest.raises(ValueError, match=r"support_inputs \[T, S, 1\] float64: received shape"):
        loaded.adapt((torch.zeros(5, 2), torch.zeros(5, 1)))
    assert "5 examples, steps=2, lr=0.05" in repr(adapted)


def test_evaluate_scores_under_another_protocol(run: metaray.TrainedRun) -> None:
    assert metaray.evaluate(run) == run.evaluation
    other = metaray.evaluate(run.path, tasks=3, steps=[0, 2], split="val", task={"shot": 2})
    assert (other["tasks"], list(other["steps"]), other["split"], other["shot"]) == (3, ["0", "2"], "val", 2)


def test_a_run_goes_on_and_a_name_finds_it(settings: dict[str, Any]) -> None:
    first = metaray.train(settings, name="mine")
    again = metaray.train(settings, name="mine")
    assert again.path == first.path
    assert again.theta_sha256 == first.theta_sha256
    longer = metaray.train(resume=first, outer={"steps": 5})
    assert longer.outcome is not None
    assert longer.outcome["steps"] == 5
    whole = metaray.train(settings, name="whole", outer={"steps": 5})
    assert whole.theta_sha256 == longer.theta_sha256
    with pytest.raises(metaray.ConfigError, match="expected resume or name"):
        metaray.train(resume=first, name="other")


def test_a_class_of_ones_own_comes_back_as_itself(settings: dict[str, Any], here: type[nn.Module]) -> None:
    run = metaray.train(settings, model={"name": here, "hidden": 3})
    module = run.module
    assert type(module) is here
    assert module.body[0].weight.shape == (3, 1)
    x = torch.linspace(-1, 1, 5)[:, None]
    assert type(run.adapt((x, x)).module) is here
    assert torch.equal(run.module.body[0].weight, run.theta["body.0.weight"])


def test_classes_of_a_notebook_stay_in_its_process(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: type[nn.Module]
) -> None:
    monkeypatch.setattr(here, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Net", here, raising=False)
    settings["model"] = {"name": here}
    run = metaray.train(settings, cluster={"workers": "auto"})
    assert "cluster.workers: 0 (Net of __main__ cannot be imported by workers" in capsys.readouterr().err
    assert run.config.cluster.workers == 0
    assert metaray.evaluate(run, cluster={"workers": "auto"})["tasks"] == 4
    moved = "received Net of __main__, a notebook or a script; move the definition to a file in this folder"
    with pytest.raises(metaray.ConfigError, match=moved):
        metaray.train(settings, cluster={"workers": 2})
    with pytest.raises(metaray.ConfigError, match=moved):
        metaray.tune(settings, search={"space": {"inner.lr": {"choice": [0.1]}}, "metric": "val/mse_1", "trials": 1})
    with pytest.raises(metaray.ConfigError, match=moved):
        metaray.compare(settings, compare={"rows": {"a": {}}, "seeds": 1, "budget": {"steps": 2}})


def test_without_a_configuration_there_are_words() -> None:
    with pytest.raises(metaray.ConfigError, match=r"expected a configuration, received none; for example metaray"):
        metaray.train()
    with pytest.raises(metaray.ConfigError, match="expected a file or a configuration with a section 'search'"):
        metaray.tune()
    with pytest.raises(metaray.ConfigError, match="expected resume alone, received name too"):
        metaray.compare(resume="x", name="y")
    with pytest.raises(metaray.ConfigError, match="did you mean 'inner'"):
        metaray.train({"task": {"family": "sinusoid"}}, iner={"lr": 1})
    with pytest.raises(metaray.MetarayError, match="expected a run alone, received 'task' too"):
        metaray.load("x", task={"shot": 2})


def test_a_search_needs_no_file_of_its_own() -> None:
    from cluster.search.settings import of

    raw = {
        "search": {"space": {"inner.lr": {"choice": [0.1, 0.2]}}, "metric": "val/mse_1", "trials": 2},
        "task": {"family": "sinusoid"},
        "model": {"name": "mlp"},
        "outer": {"steps": 20},
        "meta_batch": 2,
        "eval": {"every": 1, "steps": [1]},
    }
    assert of(raw, Path("search")).base.outer.steps == 20


def test_a_training_runs_outside_the_main_thread() -> None:
    stopped: list[bool] = []

    def work() -> None:
        with stop_on_signals() as stop:
            stop.listen()
            stopped.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert stopped == [False]


def test_methods_without_a_network_of_their_own_say_so(
    settings: dict[str, Any], make_store: Callable[..., Path]
) -> None:
    images = {"family": "images", "root": str(make_store((8, 8, 1), 6, 6)), "way": 3, "shot": 2, "query": 2}
    model = {"name": "conv4", "channels": 4, "blocks": 2, "batch_norm": "inductive"}
    kept = {key: value for key, value in settings.items() if key not in ("task", "model")}
    run = metaray.train({"task": images, "model": model, **kept}, outer={"steps": 1})
    pixels = torch.arange(6 * 64).remainder(256).to(torch.uint8).reshape(6, 8, 8, 1)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    drawn = pixels.movedim(-1, 1).float() / 255
    of_files, of_floats = run.adapt((pixels, labels)), run.adapt((drawn, labels))
    assert torch.equal(of_files.predict(pixels), of_floats.predict(drawn))
    assert of_files.predict(pixels).sum(dim=1) == pytest.approx(torch.ones(6), abs=1e-5)
    logits = of_files.module(drawn)
    assert torch.softmax(logits, dim=1).detach() == pytest.approx(of_files.predict(pixels), abs=1e-4)
    proto = metaray.train({"task": images, "model": model, **kept}, outer={"steps": 1}, algorithm="protonet")
    with pytest.raises(metaray.MetarayError, match=r"ProtoNet predicts without; use \.predict"):
        _ = proto.adapt((drawn, labels)).module
    assert proto.adapt((drawn, labels)).predict(drawn).shape == (6, 3)


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_importing_metaray_loads_none_of_the_rest(tmp_path: Path) -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import metaray; "
        "heavy = {'ray', 'mlflow', 'matplotlib', 'pandas', 'pydantic', 'rich', 'yaml', 'pyarrow', 'scipy', 'meta'}; "
        "assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules); "
        "x = torch.ones(2, 1); "
        "print(metaray.meta_gradient(torch.nn.Linear(1, 1), 'mse', [((x, x), (x, x))], lr=.1, engine='eager').engine); "
        "assert not {'ray', 'mlflow', 'matplotlib', 'pandas'} & set(sys.modules)"
    )
    done = python(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "eager\n"), done.stderr


def test_a_package_of_the_same_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").touch()
    assert python("import metaray, tasks.family", tmp_path).returncode == 0
    done = python("import tasks, metaray", tmp_path)
    assert "expected metaray's own package 'tasks', received" in done.stderr
    assert "to my_tasks for one" in done.stderr


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(metaray._HOMES) == sorted(metaray.__all__)
    for name in metaray.__all__:
        assert getattr(metaray, name).__doc__
    assert set(metaray.__all__) <= set(dir(metaray))
    with pytest.raises(AttributeError, match="no attribute 'learn'; it has"):
        _ = metaray.learn


@pytest.mark.parametrize(("argument", "key"), [("rule", "inner.rule.name"), ("derivative", "inner.derivative.name")])
def test_the_names_of_the_configuration_are_those_of_the_function(argument: str, key: str) -> None:
    for name in sorted(BUILT_IN[key].keys() - {"learned_sgd", "truncated"}):
        outer = metaray.meta_gradient(net(), "mse", tasks(1), lr=0.1, engine="eager", **{argument: name})
        assert math.isfinite(outer.loss.item()), name


def test_a_checked_configuration_is_taken_as_it_is(settings: dict[str, Any]) -> None:
    run = metaray.train(parse(settings), seed=7)
    assert run.config.seed == 7

"""The outer optimizer: groups, clipping and averages by hand, torch's own classes as reference, and saved states."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cluster.config.outer import checked_outer
from cluster.config.outer_sections import OuterConfig
from cluster.errors import CheckpointError, ConfigError
from cluster.runs.checkpoint import Checkpoint, decode, encode
from cluster.training.learner import Learner
from helpers.learning import update
from meta.params import Layout, Params

PARAMS = {
    "body.bias": torch.tensor([1.0, -2.0, 0.5]),
    "body.weight": torch.linspace(-1.0, 1.0, 12).reshape(3, 4),
    "head.weight": torch.linspace(2.0, -1.0, 6).reshape(2, 3),
}
LAYOUT = Layout.of(PARAMS)
GROUPS = {"head": {"patterns": "head.*", "lr": 0.3}, "biases": {"patterns": ["*.bias"]}}
SCHEDULE = {"name": "cosine", "warmup": 2, "final": 0.1}
# Every class that the learner takes, with arguments that give it more state than by default.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adadelta": {},
    "adafactor": {},
    "adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.1},
    "adam": {"amsgrad": True},
    "adamax": {},
    "adamw": {"weight_decay": 0.1},
    "asgd": {"t0": 2.0},
    "nadam": {"decoupled_weight_decay": True},
    "radam": {},
    "rmsprop": {"momentum": 0.9, "centered": True},
    "sgd": {"momentum": 0.9, "nesterov": True},
}


def outer(**keys: Any) -> OuterConfig:
    return checked_outer(OuterConfig(**{"steps": 10, "lr": 0.1, **keys}))


def learner(params: Params = PARAMS, frozen: tuple[str, ...] = (), **keys: Any) -> Learner:
    return Learner(outer(**keys), Layout.of(params), params, frozen)


def gradients(count: int, size: int = LAYOUT.size) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)


def saved(one: Learner) -> dict[str, torch.Tensor]:
    """The state, after a checkpoint's bytes were written and read."""
    state = Checkpoint(step=1, skipped=0, engine="", data="", config={}, best=None, tensors=one.state())
    return dict(decode(encode(state), "x").tensors)


@pytest.mark.parametrize("groups", [{}, GROUPS], ids=["one vector", "groups"])
@pytest.mark.parametrize("name", [*OPTIMIZERS, "rprop"])
def test_a_saved_state_goes_on_with_the_same_bits(name: str, groups: dict[str, Any]) -> None:
    keys: dict[str, Any] = {"optimizer": {"name": name, **OPTIMIZERS.get(name, {}), "groups": groups}}
    keys |= {"ema": 0.9, "clip_norm": 1.0} | ({} if name == "rprop" else {"schedule": SCHEDULE})
    one, straight = learner(**keys), learner(**keys)
    for gradient in gradients(10):
        update(straight, gradient, 2)
        update(one, gradient, 2)
        resumed = learner(**keys)
        resumed.load(saved(one), step=one.step, skipped=0)
        one = resumed
    assert one.fingerprint == straight.fingerprint
    assert {key: value.tolist() for key, value in one.state().items()} == {
        key: value.tolist() for key, value in straight.state().items()
    }


@pytest.mark.parametrize("name", [*OPTIMIZERS, "muon"])
def test_groups_are_those_of_torch_itself(name: str) -> None:
    """The class in a plain loop over the parameters, with a scheduler of torch's, takes the same steps."""
    params = {key: value for key, value in PARAMS.items() if value.ndim == 2 or name != "muon"}
    groups = {"head": GROUPS["head"]}
    one = learner(params, optimizer={"name": name, **OPTIMIZERS.get(name, {}), "groups": groups}, schedule=SCHEDULE)
    own = {key: nn.Parameter(value.clone()) for key, value in params.items()}
    cls = next(cls for key, cls in vars(torch.optim).items() if key.lower() == name)
    rest = [value for key, value in own.items() if not key.startswith("head")]
    reference = cls([{"params": rest}, {"params": [own["head.weight"]], "lr": 0.3}], lr=0.1, **OPTIMIZERS.get(name, {}))
    scheduler = torch.optim.lr_scheduler.LambdaLR(reference, one.lr_share)
    layout = Layout.of(params)
    for gradient in gradients(10, layout.size):
        for key, value in layout.unflatten(torch.from_numpy(gradient / 2)).items():
            own[key].grad = value
        reference.step()
        scheduler.step()
        update(one, gradient, 2)
    expected = layout.flatten({key: value.detach() for key, value in own.items()})
    assert one.theta == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_of_the_same_settings_change_nothing(name: str) -> None:
    optimizer = {"name": name, **OPTIMIZERS[name]}
    if name == "adafactor":
        optimizer["d"] = 1e30  # else each tensor's update is clipped by its own norm, which is the same anyway
    whole = learner(optimizer=optimizer)
    parts = learner(optimizer={**optimizer, "groups": {"all": {"patterns": "*"}}})
    for gradient in gradients(5):
        update(whole, gradient, 1)
        update(parts, gradient, 1)
    assert parts.theta == pytest.approx(whole.theta, rel=1e-5, abs=1e-7)


def test_a_group_has_its_own_step_size_and_arguments_by_hand() -> None:
    groups = {"head": {"patterns": "head.*", "lr": 0.5, "weight_decay": 0.0}}
    one = learner(
        optimizer={"name": "sgd", "weight_decay": 0.2, "groups": groups}, schedule={"name": "step", "at": [1]}
    )
    theta, gradient = LAYOUT.flatten(PARAMS).numpy().astype(np.float64), gradients(1)[0].astype(np.float64)
    head = np.arange(LAYOUT.size) >= 15
    for share in (1.0, 0.1):
        update(one, gradient.astype(np.float32), 1)
        theta = theta - share * np.where(head, 0.5 * gradient, 0.1 * (gradient + 0.2 * theta))
        assert one.theta == pytest.approx(theta, rel=1e-5)


def test_values_are_clipped_before_the_norm() -> None:
    params = {"a": torch.zeros(3)}
    one = learner(params, optimizer="sgd", lr=1.0, clip_value=3.0, clip_norm=2.5)
    norm = update(one, np.array([40.0, 4.0, 0.0], dtype=np.float32), 2)
    assert norm == pytest.approx(np.hypot(20.0, 2.0))
    clipped = np.array([3.0, 2.0, 0.0])
    assert one.theta == pytest.approx(-clipped * 2.5 / np.linalg.norm(clipped))
    before = one.theta
    update(one, np.array([0.0, 2.4, 0.0], dtype=np.float32), 1)
    assert one.theta - before == pytest.approx([0.0, -2.4, 0.0]), "a shorter gradient stays as it is"


def test_a_norm_that_float32_cannot_hold_is_clipped_all_the_same() -> None:
    one = learner({"a": torch.zeros(2)}, optimizer="sgd", lr=1.0, clip_norm=1.0)
    update(one, np.array([3e38, 0.0], dtype=np.float32), 1)
    assert one.theta == pytest.approx([-1.0, 0.0])


def test_the_moving_average_by_hand() -> None:
    one = learner(ema=0.25)
    average = LAYOUT.flatten(PARAMS).numpy().astype(np.float64)
    for step, gradient in enumerate(gradients(6), start=1):
        update(one, gradient, 1)
        decay = min(0.25, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * one.theta
        assert one.sets["ema"] == pytest.approx(average, rel=1e-5)
    assert learner().sets.keys() == {"theta"}


def test_an_average_leaves_theta_and_frozen_parameters_alone() -> None:
    frozen = ("body.weight",)
    one, plain = learner(frozen=frozen, ema=0.9), learner(frozen=frozen)
    for gradient in gradients(5):
        update(one, gradient, 1)
        update(plain, gradient, 1)
    assert one.fingerprint == plain.fingerprint
    average = LAYOUT.unflatten(torch.from_numpy(one.sets["ema"]))
    assert torch.equal(average["body.weight"], PARAMS["body.weight"])
    assert not torch.equal(average["head.weight"], PARAMS["head.weight"])


def test_a_skipped_step_leaves_the_average() -> None:
    one = learner(ema=0.9)
    update(one, gradients(1)[0], 1)
    before = one.sets["ema"]
    one.skip()
    assert (one.sets["ema"] == before).all()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_frozen_parameters_stay_whatever_the_optimizer_sees(name: str) -> None:
    one = learner(frozen=("body.bias", "head.weight"), optimizer={"name": name, "weight_decay": 0.5})
    for gradient in gradients(3):
        update(one, gradient, 1)
    assert torch.equal(one.params["head.weight"], PARAMS["head.weight"])
    assert torch.equal(one.params["body.bias"], PARAMS["body.bias"])
    assert not torch.equal(one.params["body.weight"], PARAMS["body.weight"])


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["haed.*"], "'haed.*' fits none of body.bias, body.weight, head.weight"),
        (["head.*", "!tail.*"], "'!tail.*' fits none of"),
        (["head.*", "!head.weight"], "expected patterns that leave parameters"),
        (["body.*"], "'body.bias' is in biases too; leave it out of one with '!body.bias'"),
    ],
)
def test_patterns_fit_each_parameter_once(patterns: list[str], said: str) -> None:
    groups = {"biases": {"patterns": "*.bias"}, "other": {"patterns": patterns}}
    with pytest.raises(ConfigError) as raised:
        learner(optimizer={"name": "adam", "groups": groups})
    assert str(raised.value).startswith("outer.optimizer.groups.other.patterns: expected")
    assert said in str(raised.value)


def test_a_class_says_itself_which_parameters_it_does_not_take() -> None:
    with pytest.raises(ConfigError, match=r"outer\.optimizer: Muon only supports 2D"):
        learner(optimizer="muon")


def test_a_state_of_other_groups_is_refused() -> None:
    one, other = learner(), learner(optimizer={"name": "adam", "groups": GROUPS})
    update(one, gradients(1)[0], 1)
    with pytest.raises(CheckpointError, match=r"over body\.bias, body\.weight, head\.weight, received 'exp_avg"):
        other.load(saved(one), step=1, skipped=0)


class Counting(torch.optim.Optimizer):
    """Steps that shrink with a number of its own, and a setting of its groups that it changes."""

    def __init__(self, params: Any, lr: float = 0.1, kept: str = "number") -> None:
        super().__init__(params, {"lr": lr, "kept": kept, "scale": 1.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["scale"] *= 0.9
            for p in group["params"]:
                state = self.state[p]
                state["steps"] = state.get("steps", 0) + 1
                if group["kept"] == "list":
                    state["list"] = [1]
                p.sub_(p.grad, alpha=group["lr"] * group["scale"] / state["steps"])
                if group["kept"] == "elsewhere":
                    p.data = p.data.clone()


COUNTING = f"{__name__}:Counting"


@pytest.mark.parametrize("groups", [{}, GROUPS], ids=["no groups", "groups"])
def test_numbers_and_settings_of_a_user_s_class_are_saved(groups: dict[str, Any]) -> None:
    keys = {"optimizer": {"name": COUNTING, "groups": groups}}
    one, other = learner(**keys), learner(**keys)
    for gradient in gradients(2):
        update(one, gradient, 1)
    state = saved(one)
    assert state["optimizer.head.weight.steps#"].item() == 2
    other.load(state, step=2, skipped=0)
    for gradient in gradients(3):
        update(one, gradient, 1)
        update(other, gradient, 1)
    assert one.fingerprint == other.fingerprint
    assert state["optimizer.head/scale#" if groups else "optimizer.*/scale#"].item() == pytest.approx(0.81)


@pytest.mark.parametrize(
    ("kept", "said"),
    [("list", "whose state is tensors and numbers"), ("elsewhere", "that changes parameters in place")],
)
def test_what_the_learner_cannot_keep_is_refused(kept: str, said: str) -> None:
    one = learner(optimizer={"name": COUNTING, "kept": kept})

    def step_and_save() -> None:
        update(one, gradients(1)[0], 1)
        one.state()

    with pytest.raises(ConfigError, match=said):
        step_and_save()

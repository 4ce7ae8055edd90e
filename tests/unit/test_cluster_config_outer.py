"""The section ``outer``: names and arguments of optimizers and schedules, what is refused, and what is the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.outer import optimizer_class, schedule_of
from cluster.config.overrides import with_overrides
from cluster.config.schema import Config, differences, parse
from cluster.errors import ConfigError
from cluster.runs.checkpoint import require_config

RAW: dict[str, Any] = {
    "task": {"family": "sinusoid"},
    "model": {"name": "mlp"},
    "outer": {"steps": 100},
    "meta_batch": 4,
}


def changed(*overrides: str, **outer: Any) -> Config:
    return parse(with_overrides({**RAW, "outer": {**RAW["outer"], **outer}}, overrides))


numbers = st.floats(1e-6, 0.5)
betas = st.tuples(numbers, numbers).map(list)
ARGUMENTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "adagrad": {"lr_decay": numbers, "eps": st.just(0) | numbers},
    "adam": {"betas": betas, "amsgrad": st.booleans(), "weight_decay": st.integers(0, 1) | numbers},
    "adafactor": {"eps": st.tuples(st.none() | numbers, numbers).map(list), "d": st.floats(1, 2)},
    "adamw": {"betas": betas, "weight_decay": numbers},
    "nadam": {"momentum_decay": numbers, "decoupled_weight_decay": st.booleans()},
    "rmsprop": {"alpha": numbers, "momentum": numbers, "centered": st.booleans()},
    "sgd": {"momentum": numbers, "dampening": numbers, "weight_decay": numbers},
}


@st.composite
def optimizers(draw: st.DrawFn) -> Any:
    name = draw(st.sampled_from(sorted(ARGUMENTS)))
    if draw(st.booleans()):
        return draw(st.sampled_from([name, optimizer_class(name).__name__]))
    arguments = st.fixed_dictionaries({}, optional=ARGUMENTS[name])
    group = st.fixed_dictionaries(
        {"patterns": st.text(min_size=1) | st.lists(st.text(min_size=1), min_size=1)}, optional={"lr": numbers}
    )
    names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
    groups = draw(st.dictionaries(names, group, max_size=3))
    groups = {key: value | draw(arguments) for key, value in groups.items()}
    return {"name": name, **draw(arguments), **({"groups": groups} if groups else {})}


fading = {"warmup": st.integers(0, 9), "final": st.floats(0, 1), "steps": st.none() | st.integers(10, 1000)}
schedules = st.one_of(
    st.sampled_from(["constant", "linear", "cosine"]),
    st.fixed_dictionaries({"name": st.sampled_from(["linear", "cosine"])}, optional=fading),
    st.fixed_dictionaries({"warmup": st.integers(0, 9)}),
    st.fixed_dictionaries({"name": st.just("step"), "at": st.sets(st.integers(1, 99), min_size=1).map(sorted)}),
)
sections = st.fixed_dictionaries(
    {"steps": st.integers(10, 1000)},
    optional={
        "lr": numbers,
        "optimizer": optimizers(),
        "schedule": schedules,
        "clip_value": st.none() | numbers,
        "clip_norm": st.none() | numbers,
        "ema": st.none() | st.floats(0.01, 0.999),
    },
)


@given(sections)
def test_yaml_of_a_section_loads_to_an_equal_one(section: dict[str, Any]) -> None:
    config = parse({**RAW, "outer": section})
    again = parse(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert again.identity == config.identity
    require_config("x", parse(config.model_dump(mode="json")), config, moved=False)


@given(sections, st.sampled_from(["lr", "clip_norm", "ema"]), numbers)
def test_an_override_changes_its_key_alone(section: dict[str, Any], key: str, value: float) -> None:
    before = parse({**RAW, "outer": section})
    after = parse(with_overrides({**RAW, "outer": section}, [f"outer.{key}={value!r}"]))
    old = before.identity["outer"][key]
    lines = [f"outer.{key}: {old} there, {value} here"] if old != value else []
    assert differences(before.identity, after.identity) == lines


def test_every_class_of_torch_has_its_name_in_small_letters_and_its_own() -> None:
    for name in ("Adagrad", "Adam", "AdamW", "NAdam", "RMSprop", "SGD"):
        cls = getattr(torch.optim, name)
        assert optimizer_class(name) is optimizer_class(name.lower()) is optimizer_class(f"torch.optim:{name}") is cls
        assert changed(f"outer.optimizer={name}") == changed(f"outer.optimizer={name.lower()}")


def test_a_name_alone_takes_keys_from_overrides() -> None:
    outer = changed("outer.optimizer.momentum=0.9", "outer.schedule.warmup=5", optimizer="sgd", schedule="cosine").outer
    assert (outer.optimizer.name, outer.optimizer.params["momentum"]) == ("sgd", 0.9)
    assert (outer.schedule.name, outer.schedule.params["warmup"]) == ("cosine", 5)
    outer = changed("outer.optimizer=sgd", "outer.optimizer.momentum=0.9", "outer.schedule.warmup=5").outer
    assert (outer.optimizer.name, outer.optimizer.params["momentum"]) == ("sgd", 0.9)
    assert (outer.schedule.name, outer.schedule.params) == ("constant", {"warmup": 5})


def test_another_name_drops_the_arguments_it_does_not_take() -> None:
    own = changed(
        optimizer={"name": "adam", "betas": [0.8, 0.9], "weight_decay": 0.1}, schedule={"final": 0.5, "name": "cosine"}
    )
    other = parse(
        with_overrides(own.model_dump(mode="json"), ["outer.optimizer.name=sgd", "outer.schedule.name=constant"])
    )
    assert other.outer.optimizer.params["weight_decay"] == 0.1
    assert "betas" not in other.outer.optimizer.params
    assert other.outer.schedule.params == {"warmup": 0}


GROUP = "outer.optimizer.groups.head"
WRONG: dict[str, tuple[list[str], str]] = {
    "unknown argument": (
        ["outer.optimizer.weight_decai=0.1"],
        "outer.optimizer.weight_decai: unknown key; did you mean 'weight_decay'? (valid: betas, eps, weight_d",
    ),
    "argument of another class": (["outer.optimizer.momentum=0.9"], "outer.optimizer.momentum: unknown key"),
    "argument that the learner gives": (["outer.optimizer.fused=true"], "outer.optimizer.fused: unknown key"),
    "step size": (["outer.optimizer.lr=0.1"], "outer.optimizer.lr: expected none, the step size is outer.lr"),
    "text for a number": (["outer.optimizer.weight_decay=much"], "outer.optimizer.weight_decay: expected a valid num"),
    "truth for a number": (["outer.optimizer.eps=true"], "outer.optimizer.eps: expected a valid number"),
    "number for truth": (["outer.optimizer.amsgrad=1"], "outer.optimizer.amsgrad: expected a valid boolean"),
    "one beta": (["outer.optimizer.betas=[0.9]"], "outer.optimizer.betas.1: missing"),
    "negative decay": (["outer.optimizer.weight_decay=-1"], "outer.optimizer: Invalid weight_decay value: -1"),
    "values that do not go together": (
        ["outer.optimizer=sgd", "outer.optimizer.nesterov=true"],
        "outer.optimizer: Nesterov momentum requires a momentum",
    ),
    "unknown class": (["outer.optimizer=adamm"], "outer.optimizer.name: expected one of adadelta, adafactor, "),
    "closure": (["outer.optimizer=LBFGS"], "a closure that computes the loss anew"),
    "sparse gradients": (["outer.optimizer=SparseAdam"], "outer.optimizer.name: expected an optimizer of dense"),
    "no optimizer": (["outer.optimizer=meta.models:MLP"], "expected a subclass of torch.optim.Optimizer, received"),
    "unknown key of a group": (
        [f"{GROUP}={{patterns: 'a', weight_deca: 0}}"],
        f"{GROUP}.weight_deca: unknown key; did you mean 'weight_decay'? (valid: betas, eps, weight_decay, amsgrad",
    ),
    "type of a group's key": ([f"{GROUP}={{patterns: 'a', eps: no}}"], f"{GROUP}.eps: expected a valid number"),
    "range of a group's key": ([f"{GROUP}={{patterns: 'a', eps: -1}}"], f"{GROUP}: Invalid epsilon value: -1"),
    "argument of all groups": (
        ["outer.optimizer=adagrad", f"{GROUP}={{patterns: 'a', initial_accumulator_value: 1}}"],
        f"{GROUP}.initial_accumulator_value: expected settings that adagrad keeps for each group",
    ),
    "step size of a group": ([f"{GROUP}={{patterns: 'a', lr: 0}}"], f"{GROUP}.lr: expected greater than 0"),
    "group without patterns": ([f"{GROUP}.lr=0.1"], f"{GROUP}.patterns: missing"),
    "no patterns": ([f"{GROUP}.patterns=[]"], f"{GROUP}.patterns: expected at least 1 item"),
    "pattern as a group's name": (
        ["outer.optimizer.groups={'head.*': {patterns: a}}"],
        "outer.optimizer.groups.head.*: expected a group's name of letters, digits, - and _; patterns are a key of",
    ),
    "unknown schedule": (["outer.schedule=cosin"], "outer.schedule.name: expected one of constant, cosine, linear"),
    "key of another schedule": (["outer.schedule.final=0.5"], "outer.schedule.final: unknown key (valid: warmup)"),
    "step without stairs": (["outer.schedule=step"], "outer.schedule.at: missing"),
    "share above one": (["outer.schedule={name: cosine, final: 2}"], "outer.schedule: final: expected a share"),
    "nothing but warm-up": (["outer.schedule.warmup=100"], "outer.schedule: warmup: expected fewer than the 100 outer"),
    "no schedule": (["outer.schedule=meta.models:MLP"], "outer.schedule.name: expected a class with share(step"),
    "schedule of rprop": (["outer.optimizer=rprop", "outer.schedule=cosine"], "outer.schedule: expected none with rp"),
    "norm of zero": (["outer.clip_norm=0"], "outer.clip_norm: expected greater than 0"),
    "average that never moves": (["outer.ema=1"], "outer.ema: expected less than 1"),
    "average without one": (["eval.select_params=ema"], "eval.select_params: expected theta without outer.ema"),
    "schedule of a line search": (["outer.step=trpo", "outer.schedule=cosine"], "outer.schedule: expected none with"),
    "clipping of a line search": (["outer.step=trpo", "outer.clip_norm=1"], "outer.clip_norm: expected none with"),
    "arguments for a line search": (["outer.step=trpo", "outer.optimizer.eps=1"], "outer.optimizer: expected none wi"),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused_by_key(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        changed(*overrides)
    assert message in str(raised.value)


def test_a_line_search_takes_the_spelled_out_default() -> None:
    config = changed("outer.step=trpo")
    assert parse(config.model_dump(mode="json")) == config


def test_a_run_goes_on_for_longer_unless_its_schedule_spans_all_steps() -> None:
    def pair(schedule: Any, *more: str) -> tuple[Config, Config]:
        return changed(schedule=schedule), changed("outer.steps=200", *more, schedule=schedule)

    for free in ("constant", {"name": "step", "at": [50]}, {"name": "cosine", "steps": 80}, {"warmup": 9}):
        one, longer = pair(free)
        require_config("x", one, longer, moved=False)
    one, longer = pair({"name": "cosine", "warmup": 3})
    with pytest.raises(ConfigError, match=r"outer\.schedule\.steps: 100 there, 200 here"):
        require_config("x", one, longer, moved=False)
    one, longer = pair("cosine", "outer.schedule.steps=100")
    require_config("x", one, longer, moved=False)
    shares = [schedule_of(config.outer.schedule) for config in (one, longer)]
    assert [shares[0].share(step, 100) for step in range(100)] == [shares[1].share(step, 200) for step in range(100)]


def test_the_choice_of_parameters_is_kept_when_a_run_goes_on() -> None:
    one, other = changed(ema=0.9), changed("eval.select_params=ema", ema=0.9)
    with pytest.raises(ConfigError, match=r"eval\.select_params: theta there, ema here"):
        require_config("x", one, other, moved=False)


OWN = """
import torch


class Halving:
    def __init__(self, *, every: int, floor: float = 0.0):
        if every < 1:
            raise ValueError(f"every: expected at least 1, received {every}")
        self.every, self.floor = every, floor

    def share(self, step, total):
        return max(self.floor, 0.5 ** (step // self.every))


class Asks(torch.optim.SGD):
    def step(self, closure):
        return super().step(closure)


class Without(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})
"""


def test_parts_of_the_user_s_own_are_checked_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_outer.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    config = changed("outer.schedule={name: 'own_outer:Halving', every: 10}")
    assert config.outer.schedule.params == {"every": 10, "floor": 0.0}
    assert schedule_of(config.outer.schedule).share(25, 100) == 0.25
    for override, message in {
        "outer.schedule={name: 'own_outer:Halving', evry: 10}": "outer.schedule.evry: unknown key; did you mean",
        "outer.schedule={name: 'own_outer:Halving', every: 0}": "outer.schedule: every: expected at least 1, received",
        "outer.optimizer=own_outer:Asks": "whose step asks for a closure",
        "outer.optimizer=own_outer:Without": "expected a constructor with the argument lr",
        "outer.optimizer=own_outer:Missing": "outer.optimizer.name: module 'own_outer' has no 'Missing'",
    }.items():
        with pytest.raises(ConfigError) as raised:
            changed(override)
        assert message in str(raised.value)

"""The configuration: what it accepts, how it says no, and what decides that two runs are the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.components import BUILT_IN
from cluster.config.overrides import with_overrides
from cluster.config.schema import Config, differences, load, parse
from cluster.errors import ConfigError
from cluster.runs.checkpoint import require_config
from cluster.setups.build import build
from meta.engine.strategies import STRATEGIES
from tasks.family import draw_batch

ROOT = Path(__file__).parents[2]
SHIPPED = [
    path
    for path in sorted((ROOT / "tune_configs").rglob("*.yaml"))
    if not {"search", "compare", "cluster", "reproduce.yaml"} & set(path.relative_to(ROOT / "tune_configs").parts)
]
# The shape of the images in each of the stores that configurations name.
IMAGES = {
    "data/cifar_fs": (32, 32, 3),
    "data/fc100": (32, 32, 3),
    "data/folder": (84, 84, 3),
    "data/mini_imagenet": (84, 84, 3),
    "data/omniglot": (28, 28, 1),
    "glyphs": (28, 28, 1),
}
# What the tables that configurations name are prepared with.
TABLES: dict[str, dict[str, Any]] = {
    "data/digits": {"rows": 64},
    "data/sales": {"rows": 64, "inputs": ("y",), "categorical": (), "time": "day"},
}
RAW: dict[str, Any] = {
    "task": {"family": "sinusoid"},
    "model": {"name": "mlp"},
    "outer": {"steps": 10},
    "meta_batch": 4,
}


def changed(*overrides: str) -> Config:
    return parse(with_overrides(RAW, overrides))


rates = st.floats(1e-12, 1e6)
counts = st.integers(1, 1000)
configs = st.fixed_dictionaries(
    {
        "task": st.fixed_dictionaries(
            {"family": st.sampled_from(["sinusoid", "tasks.sinusoid:Sinusoid"])},
            optional={
                "shot": counts,
                "eval_query": st.none() | counts,
                "phase": st.lists(rates, min_size=2, max_size=2).map(sorted),
            },
        ),
        "model": st.fixed_dictionaries(
            {"name": st.just("mlp")},
            optional={
                "hidden": st.lists(counts, max_size=4),
                "activation": st.sampled_from(["relu", "tanh"]),
                "init_std": st.none() | rates,
            },
        ),
        "outer": st.fixed_dictionaries(
            {"steps": counts},
            optional={"lr": rates, "clip_value": st.none() | rates, "schedule": st.just("cosine")},
        ),
        "meta_batch": counts,
    },
    optional={
        "inner": st.fixed_dictionaries({}, optional={"lr": rates, "steps": st.integers(0, 50)}),
        "shard": st.just(1),
        "algorithm": st.sampled_from(sorted(BUILT_IN["algorithm"])),
        "engine": st.sampled_from(["auto", "measure", *STRATEGIES]),
        "seed": st.integers(0, 2**63 - 1),
        "eval": st.fixed_dictionaries({}, optional={"steps": st.sets(st.integers(0, 99), min_size=1).map(sorted)}),
        "tracking": st.fixed_dictionaries({}, optional={"experiment": st.text()}),
    },
)  # fmt: skip


@given(configs)
def test_yaml_of_a_configuration_loads_to_an_equal_one(raw: dict[str, Any]) -> None:
    config = parse(raw)
    again = parse(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert again.identity == config.identity


@pytest.fixture
def stand_in(make_store: Callable[..., Path], make_table: Callable[..., Path]) -> Callable[[str], Path]:
    """A store in the place of one that configurations name: data is not shipped; noise of the same shape will do."""
    return lambda root: make_table(**TABLES[root]) if root in TABLES else make_store(IMAGES[root])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_configuration_loads_and_builds(path: Path, stand_in: Callable[[str], Path]) -> None:
    store = yaml.safe_load(path.read_text())["task"].get("root")
    config = load(path, [f"task.root={stand_in(store)}"] if store else [])
    assert build(config).layout.size > 0


@pytest.mark.nightly
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_configuration_comes_to_an_engine(path: Path, stand_in: Callable[[str], Path]) -> None:
    store = yaml.safe_load(path.read_text())["task"].get("root")
    config = load(path, [f"task.root={stand_in(store)}"] if store else [])
    assert build(config).choice.name in STRATEGIES


def test_overrides_are_read_as_yaml_and_leave_the_original_alone() -> None:
    raw = with_overrides(RAW, ["model.hidden=[8, 8]", "inner.lr=1e-3", "tracking.uri=null", "task.shot=5"])
    assert RAW["task"] == {"family": "sinusoid"}
    config = parse(raw)
    assert config.model.params["hidden"] == (8, 8)
    assert (config.inner.lr, config.tracking.uri, config.task.params["shot"]) == (0.001, None, 5)


def test_an_override_may_hold_an_equals_sign() -> None:
    assert changed("tracking.experiment='a=b'").tracking.experiment == "a=b"


def test_a_meta_batch_is_sixteen_shards_or_fewer_by_default() -> None:
    assert [changed(f"meta_batch={size}").shard_size for size in (1, 4, 16, 17, 25, 32, 100)] == [1, 1, 1, 2, 2, 2, 7]


WRONG: dict[str, tuple[list[str], str]] = {
    "unknown section": (["trackin.uri=x"], "trackin: unknown key; did you mean 'tracking'?"),
    "unknown key": (["inner.step=3"], "inner.step: unknown key; did you mean 'steps'? (valid: lr, steps, adapt, rule"),
    "unknown key of the family": (["task.shots=5"], "task.shots: unknown key; did you mean 'shot'?"),
    "unknown key of the model": (["model.hiden=[8]"], "model.hiden: unknown key; did you mean 'hidden'?"),
    "key the builder gives": (["model.inputs=[3]"], "model.inputs: unknown key"),
    "no integer": (["meta_batch=many"], "meta_batch: expected a valid integer"),
    "broken integer": (["inner.steps=1.5"], "inner.steps: expected a valid integer"),
    "value for a section": (["outer=3"], "outer: expected"),
    "type of the family's key": (["task.shot=few"], "task.shot: expected a valid integer"),
    "type of the model's key": (["model.activation=gelu"], "activation: expected 'relu' or 'tanh', received 'gelu'"),
    "negative step size": (["inner.lr=-0.1"], "inner.lr: expected greater than or equal to 0, received -0.1"),
    "no outer step size": (["outer.lr=0"], "outer.lr: expected greater than 0, received 0"),
    "infinite step size": (["inner.lr=.inf"], "inner.lr: expected a finite number, received inf"),
    "negative seed": (["seed=-1"], "seed: expected greater than or equal to 0, received -1"),
    "too many shots": (["task.shot=10001"], "task: shot: a sinusoid gives 1 to 10000 points per task, received 10001"),
    "range upside down": (["task.amplitude=[5, 1]"], "task: amplitude: expected a range [low, high]"),
    "shard above the meta-batch": (["shard=5"], "shard: expected at most meta_batch (4) tasks, received 5"),
    "steps not increasing": (["eval.steps=[1, 0]"], "eval.steps: expected increasing numbers of inner steps, received"),
    "unknown family": (["task.family=sinus"], "import path 'module:Name', received 'sinus'; did you mean 'sinusoid'?"),
    "unknown model": (["model.name=mpl"], "received 'mpl'; did you mean 'mlp'?"),
    "unknown algorithm": (["algorithm=mamll"], "received 'mamll'; did you mean 'maml'?"),
    "unknown baseline": (["eval.baselines=[orakle]"], "received 'orakle'; did you mean 'oracle'?"),
    "unknown engine": (["engine=trase"], "loop, eager, native, graph, received 'trase'; did you mean 'trace'?"),
    "no such module": (["task.family=no.where:Family"], "cannot import 'no.where' of 'no.where:Family': No module"),
    "no such class": (["task.family=tasks.sinusoid:Cosine"], "task.family: module 'tasks.sinusoid' has no 'Cosine'"),
    "path without a module": (["task.family=':Name'"], "an import path 'module:Name', received ':Name'"),
    "relative path": (["task.family=..x:Y"], "an import path 'module:Name', received '..x:Y'"),
    "date for a seed": (["seed=2020-01-01"], "seed: expected"),
    "own algorithm as baseline": (["eval.baselines=[maml]"], "expected algorithms other than the run's own"),
    "password in an address": (
        ["tracking.uri=http://me:secret@host"],
        "tracking.uri: expected an address without user and password, received 'http://***@host'",
    ),
    "no class": (["algorithm=math:pi"], "algorithm: expected 'math:pi' to be a class, received float"),
    "several at once": (["seed=x", "inner.lr=y"], "inner.lr: expected a valid number"),
    "override without a value": (["seed"], "expected an override of the form section.key=value, received 'seed'"),
    "override without a key": (["=3"], "expected an override of the form section.key=value, received '=3'"),
    "override into a value": (["seed=3", "seed.x=1"], "seed.x: 'seed' is a value, not a section"),
    "override that is not YAML": (["inner.lr=[1"], "inner.lr: expected a YAML value, received '[1'"),
}  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_named_with_what_was_expected(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        changed(*overrides)
    assert message in str(raised.value)


@pytest.mark.parametrize("key", RAW)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: missing; give it a value$"):
        parse({name: value for name, value in RAW.items() if name != key})


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        changed("seed=x", "inner.lr=y", "outer.stebs=3")
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == ["inner.lr", "outer.stebs", "seed"]


FILES: dict[str, tuple[str | bytes, str]] = {
    "not YAML": ("task: [", "run.yaml: expected YAML, received a file that does not parse"),
    "not text": (b"\xff\xfe\x00", "run.yaml: expected YAML, received a file that does not parse"),
    "a list": ("- task", "run.yaml: expected sections and keys, received list"),
    "empty": ("", "run.yaml: expected sections and keys, received NoneType"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_holds_no_configuration_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_a_kind_of_step_is_no_optimizer() -> None:
    with pytest.raises(
        ConfigError,
        match=r"outer.optimizer.name: expected an optimizer, received .trpo., which is a kind .*: set outer.step=trpo",
    ):
        changed("outer.optimizer=trpo")
    with pytest.raises(ConfigError, match=r"outer.optimizer: expected none with outer.step=trpo.*received sgd"):
        changed("outer.step=trpo", "outer.optimizer=sgd")


def test_a_missing_file_is_named_with_the_nearest_there_is(tmp_path: Path) -> None:
    (tmp_path / "sinusoid.yaml").touch()
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "sinusiod.yaml")
    assert f"configuration file at '{tmp_path}/sinusiod.yaml', found none" in str(raised.value)
    assert f"did you mean '{tmp_path}/sinusoid.yaml'?" in str(raised.value)


@pytest.mark.parametrize("raw", [None, [], "task", 3], ids=str)
def test_a_configuration_must_be_a_mapping(raw: Any) -> None:
    with pytest.raises(ConfigError, match="expected a configuration of sections and keys, received"):
        parse(raw)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.hidden=[8, 0]"], "expected hidden layers of at least one unit, received [8, 0]"),
        (["model.init_std=0"], "expected init_std above zero, received 0.0"),
        (["model.name=tasks.sinusoid:Sinusoid"], "expected a class with init, apply"),
        (["algorithm=tasks.sinusoid:Sinusoid"], "expected a class with informed, sizes, init, numbers, stage"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_built_are_wrong_configuration(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(changed(*overrides))
    assert message in str(raised.value)


SAME = [
    "cluster.workers=8", "cluster.address=auto", "cluster.order_timeout=1", "cluster.max_failures=0",
    "tracking.experiment=other", "tracking.every=1", "tracking.uri=sqlite:///other.db",
    "checkpoint.root=elsewhere", "checkpoint.every=1", "checkpoint.keep=9",
    "eval.tasks=2", "eval.steps=[0]", "eval.every=5", "eval.baselines=[oracle]",
    "outer.steps=20", "shard=1", "task.shot=10", "seed=0", "engine=vmap",
]  # fmt: skip
DIFFERENT = [
    "task.shot=5", "task.amplitude=[1, 2]", "model.hidden=[8]", "model.activation=tanh", "inner.lr=0.1",
    "inner.adapt=['*.weight']",
    "inner.steps=5", "outer.lr=0.1", "outer.optimizer=sgd", "outer.schedule=cosine", "outer.clip_value=1",
    "outer.on_nonfinite=skip", "meta_batch=5", "shard=2", "algorithm=fomaml", "dtype=float64",
    "seed=1", "cluster.threads=2", "cluster.gpus_per_worker=0.5",
]  # fmt: skip


@pytest.mark.parametrize("override", SAME)
def test_what_does_not_change_theta_keeps_the_identity(override: str) -> None:
    assert changed(override).identity == changed().identity


@pytest.mark.parametrize("override", DIFFERENT)
def test_what_changes_theta_changes_the_identity(override: str) -> None:
    assert changed(override).identity != changed().identity


def test_a_store_may_move(tmp_path: Path) -> None:
    # No store is opened: a run's configuration can be read where its data is gone.
    one, other = (changed("task.family=images", f"task.root={tmp_path / name}") for name in ("here", "there"))
    require_config("x", one, other, moved=True)
    with pytest.raises(ConfigError, match=r"x is of another configuration \(task\.root: .*here there, .*there here\)"):
        require_config("x", one, other, moved=False)


@pytest.mark.parametrize(
    ("overrides", "strategy"),
    [
        (["task.query=1", "model.name=conv4"], "trace"),
        (["task.query=5", "model.name=conv4"], "loop"),
        (["task.query=5", "model.name=mlp"], "trace"),
        (["task.query=5", "model.name=conv4", "engine=vmap"], "vmap"),
        (["task.query=5", "model.name=conv4", "outer.steps=100000"], "native"),
        (["task.query=5", "model.name=mlp", "outer.steps=100000"], "native"),
    ],
)
def test_auto_chooses_by_model_sizes_and_length(
    overrides: list[str], strategy: str, make_store: Callable[..., Path]
) -> None:
    assert build(changed("task.family=images", f"task.root={make_store()}", *overrides)).engine.name == strategy


def test_a_pattern_that_fits_no_parameter_is_wrong_configuration() -> None:
    with pytest.raises(ConfigError, match=r"inner.adapt expects patterns of parameter names, 'haed\.\*' fits none of"):
        build(changed("inner.adapt=['haed.*']"))


def test_the_number_of_steps_counts_where_the_schedule_depends_on_it() -> None:
    one, other = (changed("outer.schedule=cosine", f"outer.steps={steps}") for steps in (10, 20))
    assert one.identity != other.identity


def test_differences_are_named_with_both_values() -> None:
    one, other = changed(), changed("inner.lr=0.5", "seed=1")
    assert differences(one.identity, other.identity) == [
        "inner.lr: 0.01 there, 0.5 here",
        "seed: 0 there, 1 here",
    ]


OWN = '''
from dataclasses import dataclass

import torch
from torch import nn

from meta.algorithms import MAML
from meta.episode import Episode, Examples
from tasks import FamilySpec


class Planes:
    """Which side of a plane a point lies on."""

    def __init__(self, *, corners: int = 3, noise: float = 0.0):
        if corners < 2:
            raise ValueError(f"corners: expected at least 2, received {corners}")
        self.corners, self.noise = corners, noise

    @property
    def spec(self):
        return FamilySpec(input_shape=(self.corners,), outputs=2, objective="cross_entropy")

    def draw(self, key):
        x = torch.from_numpy(key.rng().standard_normal((8, self.corners)))
        y = (x.sum(dim=1) > 0).long()
        return Episode(Examples(x[:4], y[:4]), Examples(x[4:], y[4:]), torch.zeros(0))


@dataclass(frozen=True, kw_only=True)
class Plain:
    inputs: tuple[int, ...]
    outputs: int
    scale: float = 1.0

    def init(self, generator, dtype):
        return {"w": self.scale * torch.randn(self.inputs[0], self.outputs, generator=generator, dtype=dtype)}

    def apply(self, params, inputs):
        return inputs @ params["w"]


class Module(nn.Module):
    def __init__(self, inputs: tuple[int, ...], outputs: int, width: int = 4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs[0], width), nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, inputs):
        return self.layers(inputs)


class Still(MAML):
    """MAML that scores only what it started from."""

    def scores(self, params, episode, steps, context):
        return super().scores(params, episode, (0,), context).expand(len(steps))
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """A configuration whose every part is the user's."""
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    parts = ["task.family=own_parts:Planes", "model.name=own_parts:Plain", "algorithm=own_parts:Still"]
    return lambda *overrides: changed(*parts, *overrides)


@pytest.mark.parametrize(
    ("overrides", "sizes"),
    [(["model.scale=2"], {6}), (["model.name=own_parts:Module", "model.width=5"], {15, 5, 10, 2})],
    ids=["plain class", "nn.Module"],
)
def test_parts_of_the_user_s_own_take_part(own: Callable[..., Config], overrides: list[str], sizes: set[int]) -> None:
    config = own(*overrides)
    setup = build(config)
    theta = setup.initial_params()
    assert {value.numel() for value in theta.values()} == sizes
    episodes = draw_batch(setup.family, 0, "train", range(3), setup.dtype)
    result = setup.engine.meta_gradient(theta, episodes)
    assert all(bool(value.any()) for value in result.gradient.values())
    assert result.metrics["accuracy"].shape == (3,)
    scores = setup.engine.scores(theta, episodes, (0, 5), setup.context(None))
    assert torch.equal(scores[:, 0], scores[:, 1])
    assert parse(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.corner=3", "task.corner: unknown key; did you mean 'corners'? (valid: corners, noise)"),
        ("task.noise=loud", "task.noise: expected a valid number"),
        ("task.corners=1", "task: corners: expected at least 2, received 1"),
        ("model.scal=1", "model.scal: unknown key; did you mean 'scale'?"),
        ("algorithm=own_parts:Stil", "algorithm: module 'own_parts' has no 'Stil'"),
    ],
)
def test_parts_of_the_user_s_own_are_checked_as_built_in_ones(
    own: Callable[..., Config], override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        own(override)
    assert message in str(raised.value)


def test_defaults_of_the_user_s_own_parts_are_spelled_out(own: Callable[..., Config]) -> None:
    assert own().task.params == {"corners": 3, "noise": 0.0}

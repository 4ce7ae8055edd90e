"""The reader of YAML: YAML 1.2 scalars, every key once, bounded; and configurations that mean what they say."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import strict_yaml
from cluster.config.components import parameters, strictly
from cluster.config.overrides import is_override, with_overrides
from cluster.config.schema import Config, load, parse
from cluster.errors import ConfigError
from cluster.search import settings

ROOT = Path(__file__).parents[2]
RAW: dict[str, Any] = {
    "task": {"family": "sinusoid"},
    "model": {"name": "mlp"},
    "outer": {"steps": 10},
    "meta_batch": 4,
}

SCALARS = {
    "1e-3": 0.001,
    "1E3": 1000.0,
    ".5": 0.5,
    "5.": 5.0,
    "-.inf": float("-inf"),
    "0o17": 15,
    "0x1F": 31,
    "+5": 5,
    "true": True,
    "FALSE": False,
    "~": None,
    "": None,
    "yes": "yes",
    "off": "off",
    "1_000": "1_000",
    "0b11": "0b11",
    "1:30": "1:30",
    "2020-01-01": "2020-01-01",
    "tRUE": "tRUE",
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items(), ids=repr)
def test_plain_values_are_those_of_the_core_schema(text: str, value: Any) -> None:
    found = strict_yaml.read(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
REFUSED = {
    "leading zero": ("x: 1\na: 010", "line 2: expected a number without leading zeros, received 010.* 10 or 0o10"),
    "no octal either": ("a: 08", "received 08, .* write 8, or '08' in quotes"),
    "leading zero by tag": ("a: !!int '010'", "without leading zeros"),
    "beyond double": ("a: 1e400", "expected a number below 1e308, received 1e400"),
    "key twice": ("outer: {lr: 1}\nb: 2\nouter: {steps: 2}", "'outer' at line 1 and again at line 3; keep one"),
    "key twice inside": ("outer:\n  lr: 1\n  steps: 2\n  lr: 3", "'lr' at line 2 and again at line 4"),
    "key twice in a list": ("- a: 1\n- {b: 1, 'b': 2}", "'b' at line 2 and again at line 2"),
    "number as key": ("1: 2", "line 1: expected a text as a key, received 1; put it in quotes"),
    "null as key": ("~: 2", "expected a text as a key, received None"),
    "list as key": ("? [a]\n: b", "expected a text as a key"),
    "merge key": ("b: &b {x: 1}\na:\n  <<: *b", "line 3: merge keys .* not part of YAML 1.2; write the keys out"),
    "object": ("a: !!python/object/apply:os.getcwd []", "line 1: expected plain values, received the tag '!!python"),
    "timestamp": ("a: !!timestamp 2020-01-01", "received the tag '!!timestamp'; leave it out"),
    "wrong tag": ("a: !!bool yes", "expected a value of the type !!bool, received 'yes'"),
    "two documents": ("a: 1\n---\na: 2", "expected a single document"),
    "billion laughs": (BOMB, r"expected at most 100000 values, received \d{12} with every alias"),
    "endless": ("a: &a [*a]", "line 1: expected a value, received an alias inside of what it stands for"),
    "deep": ("[" * 60 + "]" * 60, "expected at most 50 levels of nesting"),
    "very deep": ("[" * 100_000, "expected at most 50 levels of nesting"),
    "large": ("a: '" + "x" * 2**20 + "'", "expected at most 1048576 characters"),
    "control character": ("a: \x00", "unacceptable character"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_or_is_huge_is_refused(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        strict_yaml.read(text)


def test_an_anchor_is_written_out() -> None:
    assert strict_yaml.read("a: &x [1]\nb: *x") == {"a": [1], "b": [1]}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=8,
)


@given(plain | st.sampled_from([*SCALARS, "010", "<<", "=", "null", "a: b", "é"]))
def test_what_is_written_is_read_the_same_by_both_versions(value: Any) -> None:
    text = strict_yaml.write({"a": value})
    assert strict_yaml.read(text) == yaml.safe_load(text) == {"a": value}


def test_nothing_else_reads_yaml() -> None:
    sources = [path for folder in ("cluster", "tasks", "meta", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert [
        path.name for path in sources if re.search(r"yaml\.(load|safe_load|dump|safe_dump)\(", path.read_text())
    ] == ["strict_yaml.py"]


def test_shipped_files_mean_what_they_meant() -> None:
    for path in (ROOT / "tune_configs").rglob("*.yaml"):
        text = path.read_text()
        assert strict_yaml.read(text) == yaml.safe_load(text)


WRONG = {
    "seed=010": "seed: expected a YAML value, received '010': line 1: expected a number without leading zeros",
    "outer.lr=true": "outer.lr: expected a valid number, received True",
    "outer.lr='0.1'": "outer.lr: expected a valid number, received '0.1'",
    "outer.steps=yes": "outer.steps: expected a valid integer, received 'yes'",
    "outer.steps=true": "outer.steps: expected a valid integer, received True",
    "outer.steps=5.0": "outer.steps: expected a valid integer, received 5.0",
    "meta_batch=1_000": "meta_batch: expected a valid integer, received '1_000'",
    "meta_batch=0b11": "meta_batch: expected a valid integer",
    "inner.recompute=1": "inner.recompute: expected a valid boolean, received 1",
    "inner.recompute=on": "inner.recompute: expected a valid boolean, received 'on'",
    "eval.steps=[0, true]": "eval.steps.1: expected a valid integer, received True",
    "cluster.threads=1:30": "cluster.threads: expected a valid integer",
    "task.shot=true": "task.shot: expected a valid integer, received True",
    "task.amplitude=[0.1, yes]": "task.amplitude.1: expected a valid number",
    "model.hidden=[8.0]": "model.hidden.0: expected a valid integer, received 8.0",
    "inner={lr: 1, lr: 2}": "received '{lr: 1, lr: 2}': expected each key once, received 'lr'",
    "tracking.experiment=5": "tracking.experiment: expected a valid string, received 5",
}


@pytest.mark.parametrize(("override", "message"), WRONG.items(), ids=WRONG)
def test_a_value_of_another_type_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(with_overrides(RAW, [override]))
    assert message in str(raised.value)


def test_an_integer_will_do_for_a_real_number() -> None:
    config = parse(with_overrides(RAW, ["outer.lr=1", "task.amplitude=[1, 5]", "inner.lr=1e-3"]))
    assert (config.outer.lr, config.inner.lr, config.task.params["amplitude"]) == (1.0, 0.001, (1.0, 5.0))
    assert isinstance(config, Config)


class Bare:
    """A constructor without annotations."""

    def __init__(self, rate=0.1, count=2, centred=True, kind="a", free=None):  # type: ignore[no-untyped-def]
        self.rate, self.count, self.centred, self.kind, self.free = rate, count, centred, kind, free


@pytest.mark.parametrize("text", ["rate: fast", "count: '3'", "count: true", "centred: no", "centred: 0", "kind: 3"])
def test_defaults_tell_the_types_of_a_constructor_without_annotations(text: str) -> None:
    with pytest.raises(ValueError, match=text.split(":")[0]):
        strictly(parameters(Bare, frozenset()), strict_yaml.read(text))


def test_a_constructor_without_annotations_gets_numbers() -> None:
    values = strict_yaml.read("{rate: 1e-3, count: 3, centred: false, free: [1e-3]}")
    found = strictly(parameters(Bare, frozenset()), values).model_dump()
    assert found == {"rate": 0.001, "count": 3, "centred": False, "kind": "a", "free": [0.001]}


def test_a_search_file_is_read_as_strictly(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(strict_yaml.write(RAW | {"eval": {"every": 5, "steps": [0, 1]}}))
    text = "search: {base: base.yaml, metric: val/mse_1, trials: 2, space: {inner.lr: {uniform: [0.1, 1]}}%s}\n"
    path = tmp_path / "search.yaml"
    for more, message in ((", trials: 3", "'trials' at line 1"), (", seed: true", "search.seed: expected a valid int")):
        path.write_text(text % more)
        with pytest.raises(ConfigError, match=message):
            settings.load(path)
    path.write_text(text % "")
    assert settings.load(path).settings.trials == 2
    (tmp_path / "base.yaml").write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"base.yaml: expected each key once, received 'seed' at line 1 and again at"):
        settings.load(path)


def test_the_command_names_key_and_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(strict_yaml.write(RAW) + "outer: {steps: 2}\n")
    with pytest.raises(ConfigError, match="'outer' at line 5 and again at line 8"):
        load(path)
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "train", str(path)], cwd=tmp_path, capture_output=True, text=True, env=None
    )
    assert done.returncode == 2, done.stderr
    assert "again at line 8" in done.stderr
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("task.root=a/b", True),
        ("tracking.uri=sqlite:///a/b.db", True),
        ("checkpoint.root=s3://bucket/x=y", True),
        ("tune_configs/sinusoid.yaml", False),
        ("runs/lr=0.1/config.yaml", False),
        ("./a=b.yaml", False),
    ],
)
def test_overrides_are_told_from_files(word: str, expected: bool) -> None:
    assert is_override(word) is expected

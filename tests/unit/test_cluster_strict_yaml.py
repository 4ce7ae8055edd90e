"""The reader of YAML, and configurations that mean what they say."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster import strict_yaml
from cluster.config import is_override, load, parse, with_overrides
from cluster.errors import ConfigError

BASE = """\
task: {family: sinusoid, shot: 5, query: 5}
model: {name: mlp, hidden: [8]}
outer: {lr: 0.001, steps: 20}
meta_batch: 4
"""

BOMB = "a: &a0 [x, x, x]\n" + "".join(
    f"b{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(PLAIN)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert strict_yaml.read(strict_yaml.write(value)) == value


@pytest.mark.parametrize(
    "text", ["yes", "1e-3", "010", "0o10", "on", "~", "1_000", "12:30", "2026-11-27", ".inf", "1.", "true", "=", "<<"]
)
def test_texts_that_look_like_something_else_stay_texts(text: str) -> None:
    assert strict_yaml.read(strict_yaml.write({"name": text})) == {"name": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("6E4", 60000.0),
        ("-.5", -0.5),
        ("0x10", 16),
        ("0o10", 8),
        ("0", 0),
        ("-0", 0),
        ("yes", "yes"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-11-27", "2026-11-27"),
        ("TRUE", True),
        ("", None),
        ("-.inf", float("-inf")),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: Any) -> None:
    found = strict_yaml.read(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (BASE + "outer: {steps: 2}\n", r"'outer' at line 3 and again at line 5"),
        ("a: {b: 1, b: 1}", "'b' at line 1 and again at line 1"),
        ("1: x\n1: y", "'1' at line 1"),
        ("seed: 010", "without leading zeros, received 010.*write 10"),
        ("seed: -007", "write -7"),
        ("[1]: x", "a key that is a text or a number"),
        ("a: &a [*a]", "an alias inside of what it stands for"),
        (BOMB, "at most 100000 values"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deep"),
        ("x" * 2**20 + "x", "at most 1048576 characters"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_what_two_readers_understand_differently_is_refused(text: str, named: str) -> None:
    with pytest.raises(yaml.YAMLError) as raised:
        strict_yaml.read(text)
    assert re.search(named, str(raised.value).replace("\n", " ")), raised.value


def test_a_key_that_stands_twice_in_a_file_names_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "base.yaml"
    path.write_text(BASE + "outer: {steps: 2}\n")
    with pytest.raises(ConfigError, match="'outer' at line 3 and again at line 5"):
        load(path)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=010", "seed.*without leading zeros"),
        ("outer.lr=true", "outer.lr: expected.*number, received True"),
        ("outer.steps=yes", "outer.steps: expected.*integer, received 'yes'"),
        ("outer.steps=2.5", "outer.steps"),
        ("outer.steps=1.0", "outer.steps"),
        ("outer.steps='20'", "outer.steps"),
        ("outer.lr='0.1'", "outer.lr"),
        ("task.shot=true", "task.shot"),
        ("task.shot=2.5", "task.shot"),
        ("model.hidden=[true]", "model.hidden"),
        ("model.hidden=['8']", "model.hidden"),
        ("inner.recompute=yes", "inner.recompute"),
        ("inner.recompute=1", "inner.recompute"),
    ],
)
def test_values_of_another_kind_are_refused(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(with_overrides(strict_yaml.read(BASE), [override]))


def test_whole_numbers_are_numbers_and_scientific_notation_too() -> None:
    config = parse(with_overrides(strict_yaml.read(BASE), ["outer.lr=1", "inner.lr=1e-3", "seed=0x10"]))
    assert (config.outer.lr, config.inner.lr, config.seed) == (1.0, 0.001, 16)


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

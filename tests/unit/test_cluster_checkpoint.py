"""Guarantee 5: a checkpoint is whole or absent."""

import json
import os
import pickle
import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster import checkpoint as checkpoints
from cluster.checkpoint import Checkpoint, decode, encode
from cluster.config import parse
from cluster.errors import CheckpointError, ConfigError
from cluster.storage import Store, write_file

RAW = {"task": {"family": "sinusoid"}, "model": {"name": "mlp"}, "outer": {"steps": 10}, "meta_batch": 4}


def example(step: int = 3, dtype: torch.dtype = torch.float32) -> Checkpoint:
    config = parse(RAW)
    return Checkpoint(
        step=step,
        skipped=1,
        cursor=4 * step,
        engine="trace",
        data="",
        config=config.model_dump(mode="json"),
        config_hash=config.hash,
        best=(0.5, 2),
        tensors={"theta.a": torch.arange(6, dtype=dtype).reshape(2, 3), "optimizer.step": torch.tensor(3.0)},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_checkpoint_comes_back_as_it_was(dtype):
    before = example(dtype=dtype)
    after = decode(encode(before), "x")
    assert {**vars(after), "tensors": None} == {**vars(before), "tensors": None}
    assert all(torch.equal(after.tensors[name], before.tensors[name]) for name in before.tensors)
    assert after.params["a"].dtype == dtype


@given(st.data())
def test_any_flipped_bit_is_found(data):
    whole = bytearray(encode(example()))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CheckpointError, match=r"damaged|altered"):
        decode(bytes(whole), "x")


@given(st.integers(0, 10_000))
def test_any_cut_is_found(length):
    whole = encode(example())
    with pytest.raises(CheckpointError, match="damaged"):
        decode(whole[: length % len(whole)], "x")


@given(st.binary(max_size=300))
def test_other_files_are_refused(data):
    with pytest.raises(CheckpointError):
        decode(data, "x")


def test_a_pickle_is_never_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    with pytest.raises(CheckpointError):
        decode(pickle.dumps(Trap()), "x")
    assert list(tmp_path.iterdir()) == []


def test_another_schema_is_refused(monkeypatch):
    monkeypatch.setattr(checkpoints, "SCHEMA", 99)
    newer = encode(example())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="expected checkpoint schema 1, received 99"):
        decode(newer, "x")


def test_only_the_newest_are_kept(tmp_path):
    store = Store(str(tmp_path))
    for step in (1, 2, 3, 4):
        checkpoints.save(store, example(step), keep=2)
    assert store.names() == ["step-000000003.safetensors", "step-000000004.safetensors"]
    newest = checkpoints.newest(store)
    assert newest is not None
    assert newest.step == 4


def test_the_best_is_chosen_before_the_newest(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(CheckpointError, match="found none"):
        checkpoints.chosen(store)
    checkpoints.save(store, example(7), keep=2)
    assert checkpoints.chosen(store)[1].step == 7
    store.write(checkpoints.BEST, encode(example(5)))
    assert checkpoints.chosen(store)[1].step == 5


def test_a_damaged_newest_is_said_not_passed_over(tmp_path):
    store = Store(str(tmp_path))
    for step in (1, 2):
        checkpoints.save(store, example(step), keep=2)
    path = tmp_path / "step-000000002.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"step-000000002.*remove it to go on from the one before"):
        checkpoints.newest(store)


def test_going_on_under_another_configuration_names_the_keys():
    other = parse(RAW | {"inner": {"lr": 0.5}})
    with pytest.raises(ConfigError, match=r"inner\.lr: 0\.01 there, 0\.5 here"):
        checkpoints.require_same(example(), other, "trace", "")
    with pytest.raises(ConfigError, match=r"task\.shot: 10 there, 5 here"):
        checkpoints.require_same(example(), parse(RAW | {"task": {"family": "sinusoid", "shot": 5}}), "trace", "")
    with pytest.raises(ConfigError, match="engine"):
        checkpoints.require_same(example(), parse(RAW), "vmap", "")
    with pytest.raises(ConfigError, match=r"data of fingerprint none, received 0f3a; set task\.root"):
        checkpoints.require_same(example(), parse(RAW), "trace", "0f3a")
    checkpoints.require_same(example(), parse(RAW | {"cluster": {"workers": 7}}), "trace", "")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert Store(str(tmp_path)).names() == ["file"]


def test_a_store_by_uri(tmp_path):
    store = Store(tmp_path.as_uri() + "/there")
    assert store.names() == []
    store.write("a", b"1")
    assert (store.names(), store.read("a"), store.where("a")) == (["a"], b"1", tmp_path.as_uri() + "/there/a")
    assert stat.S_ISREG((tmp_path / "there" / "a").stat().st_mode)
    store.delete("a")
    assert store.names() == []


def test_an_unknown_scheme_is_refused():
    with pytest.raises(CheckpointError, match="expected a folder or a URI"):
        Store("nosuch://bucket/x")


def test_the_file_is_plain_safetensors(tmp_path):
    data = encode(example())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert set(header) == {"__metadata__", "theta.a", "optimizer.step"}

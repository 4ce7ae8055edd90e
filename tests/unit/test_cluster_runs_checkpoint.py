"""Guarantee 5: a checkpoint is whole or absent."""

import dataclasses
import hashlib
import json
import os
import pickle
import stat
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.schema import parse
from cluster.errors import CheckpointError, ConfigError, MetarayError
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint, decode, encode
from cluster.runs.storage import Store, write_file

RAW = {"task": {"family": "sinusoid"}, "model": {"name": "mlp"}, "outer": {"steps": 10}, "meta_batch": 4}


def example(step: int = 3, dtype: torch.dtype = torch.float32) -> Checkpoint:
    config = parse(RAW)
    return Checkpoint(
        step=step,
        skipped=1,
        engine="trace",
        data="",
        config=config.model_dump(mode="json"),
        best=(0.5, 2),
        tensors={"theta.a": torch.arange(6, dtype=dtype).reshape(2, 3), "optimizer.step": torch.tensor(3.0)},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_checkpoint_comes_back_as_it_was(dtype):
    before = dataclasses.replace(example(dtype=dtype), data="0f3a")
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
    with pytest.raises(
        CheckpointError, match=r"x: expected checkpoint schema 1 or 2, received 99; use the version that wrote it"
    ):
        decode(newer, "x")


def header_of(data: bytes) -> dict[str, Any]:
    """What a file says beside its tensors."""
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["metaray"])


def written(meta: dict[str, Any]) -> bytes:
    """The example's tensors in a file that says something else beside them, with a digest that is right."""
    tensors, text = dict(example().tensors), json.dumps(meta, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return safetensors.torch.save(tensors, metadata={"metaray": text, "sha256": digest.hexdigest()})


def test_a_file_of_the_first_schema_still_loads():
    """It also held ``cursor`` and ``config_hash``, which nothing ever read."""
    before = example()
    old = header_of(encode(before)) | {"schema": 1, "cursor": 12, "config_hash": "0f3a"}
    after = decode(written(old), "x")
    assert {**vars(after), "tensors": None} == {**vars(before), "tensors": None}


def test_a_file_says_nothing_that_nobody_reads():
    """Every entry but the schema comes back as an attribute."""
    assert set(header_of(encode(example()))) - {"schema"} == {
        field.name for field in dataclasses.fields(Checkpoint)
    } - {"tensors"}


def test_a_file_from_before_there_was_a_fingerprint_of_data_loads():
    meta = {key: value for key, value in header_of(encode(example())).items() if key != "data"}
    assert decode(written(meta), "x").data == ""


def test_only_the_newest_are_kept(tmp_path):
    store = Store(str(tmp_path))
    for step in (1, 2, 3, 4):
        checkpoints.save(store, example(step), keep=2)
    assert store.names() == ["step-000000003.safetensors", "step-000000004.safetensors"]
    newest = checkpoints.newest(store)
    assert newest is not None
    assert newest.step == 4


def test_a_state_taken_over_replaces_all_others(tmp_path):
    store = Store(str(tmp_path))
    for step in (1, 4, 7):
        checkpoints.save(store, example(step), keep=9)
    store.write(checkpoints.BEST, encode(example(1)))
    checkpoints.replace_all(store, example(5))
    assert store.names() == ["best.safetensors", "step-000000005.safetensors"]
    assert checkpoints.load(store, checkpoints.step_name(5)).step == 5


def test_only_whole_names_are_steps(tmp_path):
    store = Store(str(tmp_path))
    assert checkpoints.save(store, example(12), keep=1) == "step-000000012.safetensors"
    for name in ("step-000000099.safetensors.tmp", "old-step-000000098.safetensors", "step-97.safetensors"):
        store.write(name, b"")
    newest = checkpoints.newest(store)
    assert newest is not None
    assert newest.step == 12
    assert checkpoints.newest(Store(str(tmp_path / "empty"))) is None


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a checkpoint at .*step-000000003\.safetensors, found none"):
        checkpoints.load(Store(str(tmp_path)), checkpoints.step_name(3))


def test_a_run_without_a_best_says_so_in_its_file():
    state = dataclasses.replace(example(), best=None)
    assert decode(encode(state), "x").best is None
    assert decode(encode(example()), "x").best == (0.5, 2)


def test_theta_is_what_its_names_say():
    assert set(example().params) == {"a"}
    state = dataclasses.replace(
        example(), tensors={"theta.optimizer.x": torch.ones(1), "optimizer.theta.y": torch.ones(1)}
    )
    assert set(state.params) == {"optimizer.x"}


def test_tensors_that_are_views_are_written_as_they_look():
    table = torch.arange(6.0).reshape(2, 3)
    state = dataclasses.replace(example(), tensors={"theta.a": table.T, "theta.s": torch.tensor(2.0)})
    after = decode(encode(state), "x")
    assert torch.equal(after.params["a"], table.T)
    assert after.params["s"].shape == ()


@pytest.mark.parametrize(
    ("other", "shape", "dtype"), [("b", (2, 3), "float32"), ("a", (3, 2), "float32"), ("a", (2, 3), "int32")]
)
def test_names_shapes_and_types_are_in_the_digest(other, shape, dtype):
    """The same bytes under another name, shape or type are another θ."""
    tensors = {"theta.a": torch.arange(6, dtype=torch.float32).reshape(2, 3)}
    data = encode(dataclasses.replace(example(), tensors=tensors))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    moved = {f"theta.{other}": tensors["theta.a"].view(getattr(torch, dtype)).reshape(shape)}
    with pytest.raises(CheckpointError, match="x: the contents do not match their SHA-256"):
        decode(safetensors.torch.save(moved, metadata=header), "x")


def test_a_store_that_moved_is_no_other_configuration(tmp_path):
    """Where data has a fingerprint, that tells; elsewhere the root is a key like any other."""
    here, there = (parse(RAW | {"task": {"family": "images", "root": str(tmp_path / one)}}) for one in "ab")
    state = dataclasses.replace(example(), config=here.model_dump(mode="json"), data="0f3a")
    checkpoints.require_same(state, there, "trace", "0f3a")
    with pytest.raises(ConfigError, match=r"task\.root"):
        checkpoints.require_same(dataclasses.replace(state, data=""), there, "trace", "")
    with pytest.raises(
        ConfigError, match=r"the checkpoint at step 3 is of another configuration \(meta_batch: 4 there"
    ):
        checkpoints.require_same(example(), parse(RAW | {"meta_batch": 6}), "trace", "")


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
    with pytest.raises(
        MetarayError, match=r"file: expected room to write this file, received: No space left.*free some"
    ):
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

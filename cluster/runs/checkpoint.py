"""Checkpoints: θ, optimizer state, step and configuration in one safetensors file with a digest."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from cluster.config.schema import Config, differences, parse
from cluster.errors import CheckpointError, ConfigError
from cluster.runs.storage import Store
from meta.params import Params

SCHEMA = 2
READABLE = (1, SCHEMA)  # the first also held a task cursor and a hash, which followed from the rest
BEST = "best.safetensors"
THETA, EMA = "theta", "ema"
_STEP_NAME = re.compile(r"step-(\d{9})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training's state after ``step`` outer steps.

    Attributes:
        step: outer steps done.
        skipped: those of them that left θ as it was (``on_nonfinite: skip``).
        engine: the execution strategy in use.
        data: fingerprint of the data that tasks are drawn from, empty for families that need none.
        config: the run's configuration, as nested plain values.
        best: the best validation score so far and the step it was reached at, or None.
        frozen: names of the parameters that the outer loop leaves as they are.
        tensors: ``theta.<name>``, ``optimizer.<state>`` and, of a run with a moving average of θ, ``ema.<name>``.
    """

    step: int
    skipped: int
    engine: str
    data: str
    config: dict[str, Any]
    best: tuple[float, int] | None
    tensors: Mapping[str, Tensor]
    frozen: tuple[str, ...] = ()

    @property
    def params(self) -> Params:
        """The parameters by name that are evaluated and registered: θ, or its average where the run selects that."""
        return self.selected(self.config.get("eval", {}).get("select_params", THETA))[1]

    @property
    def sets(self) -> dict[str, Params]:
        """The parameters by name: θ under ``theta``, and its moving average, if there is one, under ``ema``."""
        sets: dict[str, Params] = {}
        for full, tensor in self.tensors.items():
            kind, _, name = full.partition(".")
            if kind in (THETA, EMA):
                sets.setdefault(kind, {})[name] = tensor
        return sets

    def selected(self, kind: str) -> tuple[str, Params]:
        """The set of parameters of a kind, and its name: θ where there is no other, as in a registered model.

        Args:
            kind: ``theta`` or ``ema``, as ``eval.select_params`` says.
        """
        sets = self.sets
        name = kind if kind in sets else THETA
        return name, sets[name]


def step_name(step: int) -> str:
    """File name of the checkpoint after ``step`` steps."""
    return f"step-{step:09d}.safetensors"


def encode(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as the bytes of a safetensors file."""
    meta = {
        "schema": SCHEMA,
        "step": checkpoint.step,
        "skipped": checkpoint.skipped,
        "engine": checkpoint.engine,
        "data": checkpoint.data,
        "config": checkpoint.config,
        "best": checkpoint.best,
        "frozen": checkpoint.frozen,
    }
    text = json.dumps(meta, sort_keys=True)
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    header = {"metaray": text, "sha256": _digest(text, tensors)}
    return safetensors.torch.save(tensors, metadata=header)


def decode(data: bytes, name: str) -> Checkpoint:
    """The checkpoint in the bytes of a file, as :func:`encode` gave them; nothing in the file is executed.

    Args:
        data: contents of the file.
        name: path or URI of the file, for messages.

    Raises:
        CheckpointError: if the file is cut short, altered, or of another schema.
    """
    advice = "remove it to go on from the one before, or restore it from a copy"
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors = safetensors.torch.load(data)
        text, digest = header["metaray"], header["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{name}: expected a whole checkpoint, received a damaged file ({error}); {advice}"
        ) from error
    if _digest(text, tensors) != digest:
        raise CheckpointError(f"{name}: the contents do not match their SHA-256, the file was altered; {advice}")
    meta = json.loads(text)
    if meta["schema"] not in READABLE:
        known = " or ".join(map(str, READABLE))
        raise CheckpointError(
            f"{name}: expected checkpoint schema {known}, received {meta['schema']}; use the version that wrote it"
        )
    best = meta["best"]
    return Checkpoint(
        step=meta["step"],
        skipped=meta["skipped"],
        engine=meta["engine"],
        data=meta.get("data", ""),  # younger than the rest of the schema
        config=meta["config"],
        best=None if best is None else (best[0], best[1]),
        tensors=tensors,
        frozen=tuple(meta.get("frozen", ())),
    )


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(store: Store, checkpoint: Checkpoint, keep: int) -> str:
    """Write a checkpoint, then remove all but the newest ``keep``; returns its name.

    Args:
        store: the checkpoints of the run.
        checkpoint: the state to write.
        keep: number of checkpoints of outer steps to keep.
    """
    name = step_name(checkpoint.step)
    store.write(name, encode(checkpoint))
    for old in _steps(store)[:-keep]:
        store.delete(step_name(old))
    return name


def replace_all(store: Store, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then remove those of all other steps.

    Args:
        store: the checkpoints of the run.
        checkpoint: the state to write.
    """
    store.write(step_name(checkpoint.step), encode(checkpoint))
    for other in _steps(store):
        if other != checkpoint.step:
            store.delete(step_name(other))


def load(store: Store, name: str) -> Checkpoint:
    """Read one checkpoint.

    Args:
        store: the checkpoints of the run.
        name: file name of the checkpoint.
    """
    try:
        data = store.read(name)
    except FileNotFoundError as error:
        raise CheckpointError(f"expected a checkpoint at {store.where(name)}, found none") from error
    return decode(data, store.where(name))


def newest(store: Store) -> Checkpoint | None:
    """The checkpoint of the most steps, or None if there is none.

    Raises:
        CheckpointError: if that one is damaged; which one to go on from is then for the user to say.
    """
    steps = _steps(store)
    return load(store, step_name(steps[-1])) if steps else None


def chosen(store: Store) -> tuple[str, Checkpoint]:
    """The checkpoint to use: the best by validation where there is one, else the newest; with its name."""
    names = store.names()
    steps = _steps(store)
    if BEST not in names and not steps:
        raise CheckpointError(f"expected a checkpoint in {store.root}, found none; train for some steps first")
    name = BEST if BEST in names else step_name(steps[-1])
    return name, load(store, name)


def require_same(checkpoint: Checkpoint, config: Config, engine: str, data: str) -> None:
    """Raise an error if a checkpoint's θ was made by another configuration, strategy or data set.

    Args:
        checkpoint: the state to go on from.
        config: the configuration to go on under.
        engine: name of the execution strategy to go on with.
        data: fingerprint of the data at hand, empty for families that need none.

    Raises:
        ConfigError: naming every key that differs.
    """
    require_data(checkpoint, data)
    require_config(f"the checkpoint at step {checkpoint.step}", parse(checkpoint.config), config, moved=bool(data))
    if checkpoint.engine != engine:
        raise ConfigError(
            f"the checkpoint was made with engine {checkpoint.engine}, received {engine}; "
            f"set engine={checkpoint.engine}"
        )


def require_data(checkpoint: Checkpoint, data: str) -> None:
    """Raise an error if a checkpoint was made with other data.

    Args:
        checkpoint: the state to use.
        data: fingerprint of the data at hand.

    Raises:
        ConfigError: naming both fingerprints.
    """
    if checkpoint.data != data:
        raise ConfigError(
            f"the checkpoint was made with data of fingerprint {checkpoint.data or 'none'}, received {data or 'none'}; "
            "set task.root to the store it was made with"
        )


def require_config(what: str, own: Config, config: Config, *, moved: bool) -> None:
    """Raise an error if a run would continue under a configuration that gives another θ.

    Args:
        what: whose configuration ``own`` is, for the message.
        own: the configuration so far.
        config: the one to go on under.
        moved: the data may lie elsewhere, since its fingerprint tells whether it is the same.

    Raises:
        ConfigError: naming every key that differs.
    """
    changes = differences(own.identity, config.identity)
    changes = [line for line in changes if not (moved and line.startswith("task.root:"))]
    if changes:
        raise ConfigError(
            f"{what} is of another configuration ({'; '.join(changes)}); resume with the values it was made with, or "
            "start a new run"
        )


def _steps(store: Store) -> list[int]:
    matches = (_STEP_NAME.fullmatch(name) for name in store.names())
    return sorted(int(match[1]) for match in matches if match)

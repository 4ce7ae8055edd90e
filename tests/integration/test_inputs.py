"""Several inputs by name, tokens and their mask, from training to the answers of a registered model."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cluster.registry.trust import VARIABLE
from helpers.commands import kill_after_checkpoint
from helpers.waiting import wait_for
from meta.inputs import parts
from tasks.family import draw_batch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
STEPS, INLINE = 40, "cluster.workers=0"
READER = """
import torch
from torch import Tensor, nn


class Reader(nn.Module):
    def __init__(self, inputs: dict[str, tuple[int, ...]], outputs: int, words: int = 32):
        super().__init__()
        self.embed, self.place = nn.Embedding(words, 8), nn.Embedding(inputs["input_ids"][0], 8)
        self.head = nn.Linear(8, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = torch.tanh(self.embed(input_ids) * self.place.weight)
        kept = attention_mask.unsqueeze(-1).to(words.dtype)
        return self.head((words * kept).sum(dim=1) / kept.sum(dim=1))
"""
FRESH = """
import sys
import mlflow
import numpy as np

model = mlflow.pyfunc.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(dict(np.load(sys.argv[2])), params={"inner_steps": 2}))
"""
MODELS = {
    "reader": {"model": {"name": "reader:Reader"}, "inner": {"lr": 0.5, "steps": 2}},
    "bert": {
        "model": {"name": "lora_bert:LoRABert", "output": "logits", "width": 8, "layers": 1, "rank": 2},
        "inner": {"lr": 0.3, "steps": 1, "adapt": ["*.lora_*"]},
        "engine": "trace",
    },
}
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def place(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example's family and both modules, as a user's own."""
    for name in ("grammar.py", "lora_bert.py"):
        (tmp_path / name).write_text((EXAMPLES / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "reader.py").write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "reader,lora_bert,grammar")
    return tmp_path


@pytest.mark.parametrize("name", MODELS)
def test_train_kill_resume_evaluate_register_predict_serve_and_adapt(
    name: str, metaray: Start, finished: Callable[..., Any], settings: dict[str, Any], place: Path
) -> None:
    if name == "bert" and find_spec("transformers") is None:
        pytest.skip("needs the package transformers, which metaray does not")

    def done(*arguments: str) -> Any:
        status, output, errors = finished(metaray(*arguments, "--json"))
        assert status == 0, errors
        return json.loads(output)

    changed = settings | {"task": {"family": "grammar:Grammar", "shot": 1, "query": 2}, "outer": {"steps": STEPS}}
    changed["checkpoint"] |= {"every": 2}
    changed["eval"] |= {"tasks": 4, "val_tasks": 2, "every": STEPS}
    (place / "own.yaml").write_text(yaml.safe_dump(changed | MODELS[name]))
    alone = done("train", "own.yaml", INLINE, "tracking.experiment=alone")

    run = kill_after_checkpoint(metaray("train", "own.yaml", "checkpoint.root=killed"), place / "killed")
    result = done("train", "own.yaml", "checkpoint.root=killed", "--resume", str(run))
    assert result["theta_sha256"] == alone["theta_sha256"]
    evaluated = done("evaluate", str(run), "--steps", "0,1", INLINE)
    assert evaluated["steps"]["1"] == result["evaluation"]["steps"]["1"]

    done("register", str(run), "--name", "text", "--alias", "champion", INLINE)
    arrays = asked(place)
    predicted = answers_in_a_fresh_process(place)
    assert predicted.shape == (3, 12, 3)
    uri = f"tracking.uri=sqlite:///{place / 'mlflow.db'}"
    question = {"inputs": {name: array.tolist() for name, array in arrays.items()}, "params": {"inner_steps": 2}}
    np.testing.assert_allclose(served(uri, question, place), predicted, rtol=1e-5, atol=1e-6)

    (place / "asked.json").write_text(json.dumps(question))
    for support in ("asked.npz", "asked.json"):
        adapted = done("adapt", "models:/text@champion", uri, "--support", support, "--steps", "2")
        np.testing.assert_allclose(adapted["predictions"], predicted, rtol=1e-5, atol=1e-6)


def asked(place: Path) -> dict[str, Any]:
    """Three test tasks by the names of the model's arrays; ``asked.npz`` holds them too."""
    from grammar import Grammar  # type: ignore[import-not-found]

    drawn = draw_batch(Grammar(shot=1, query=2), 0, "test", range(3), torch.float64)
    names = ("attention_mask", "input_ids")
    halves = {"support": drawn.support.inputs, "query": drawn.query.inputs}
    arrays = {
        f"{half}_{name}": one.numpy()
        for half, inputs in halves.items()
        for name, one in zip(names, parts(inputs), strict=True)
    }
    arrays["support_targets"] = drawn.support.targets.numpy()
    np.savez(place / "asked.npz", **arrays)
    return arrays


def answers_in_a_fresh_process(place: Path) -> Any:
    """Predictions of the registered model for ``asked.npz``, by MLflow alone."""
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH, "models:/text@champion", place / "asked.npz", place / "predicted.npy"],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert fresh.returncode == 0, fresh.stderr
    return np.load(place / "predicted.npy")


def served(uri: str, question: dict[str, Any], place: Path) -> Any:
    """The answer of ``metaray serve`` to one question."""
    log = place / "serving.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster", "serve", "models:/text@champion", uri, "--port", "0"],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=stream,
        )
    try:
        listening = re.compile(r"^serving .* at (https?://127\.0\.0\.1:\d+)$", re.MULTILINE)
        found = wait_for(lambda: process.poll() is not None or listening.search(log.read_text()), "the server")
        assert isinstance(found, re.Match), log.read_text()
        request = urllib.request.Request(
            f"{found[1]}/invocations", json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())["predictions"]
    finally:
        process.terminate()
        process.wait(60)

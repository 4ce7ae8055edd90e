"""A newcomer's first hour from the wheel, in an environment and a folder of their own; each step's time is kept."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.waiting import wait_for

ROOT = Path(__file__).parents[2]
SOURCES = ("cluster", "meta", "metaray", "tasks", "tune_configs", "pyproject.toml", "README.md", "LICENSE")
SHORT = (
    "outer.steps=20",
    "eval.every=10",
    "eval.tasks=10",
    "eval.val_tasks=6",
    "checkpoint.every=10",
    "tracking.every=5",
)
CLASSES, IMAGES, SIZE = 15, 8, 16
pytestmark = [pytest.mark.slow, pytest.mark.nightly]

MODEL = '''
"""A small convolutional network."""

from torch import Tensor, nn


class Small(nn.Module):
    """One convolution, and a linear layer on its average."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, width: int = 6) -> None:
        """Make the layers."""
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs[0], width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(width * (inputs[1] // 4) * (inputs[2] // 4), outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns outputs [B, outputs]."""
        outputs: Tensor = self.head(self.body(inputs))
        return outputs
'''
PICTURES = """
task: {family: images, root: data/pictures, way: 2, shot: 2, query: 2}
model: {name: "lab.pictures:Small"}
inner: {lr: 0.1, steps: 1}
outer: {lr: 0.01, steps: 20}
meta_batch: 4
eval: {steps: [0, 1], every: 10, tasks: 10, val_tasks: 6}
checkpoint: {every: 10}
"""
SEARCH = """
search:
  base: pictures.yaml
  space: {inner.lr: {loguniform: [0.01, 0.5]}}
  metric: val/accuracy_1
  trials: 2
  at_once: 1
  grace: 10
  confirm_tasks: 6
"""
LOADED = """
import json, numpy, metaray
model = metaray.load("models:/pictures@champion", trust=["lab"])
rng = numpy.random.Generator(numpy.random.Philox(key=[0, 0]))
images = rng.integers(256, size=(7, 16, 16, 3), dtype=numpy.uint8)
query = model.adapt((images[:4], numpy.array([0, 0, 1, 1]))).predict(images[4:])
print(json.dumps({"rows": query.sum(dim=1).tolist(), "place": metaray.__file__}))
"""


class Hour:
    """Runs steps in a folder with the environment's own programs, and notes how long each takes."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.seconds: dict[str, float] = {}
        self.folder, self._programs = folder, programs
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment = kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0"}

    def start(self, program: str, *words: str) -> subprocess.Popen[str]:
        """A program of the environment, output piped."""
        pipe = subprocess.PIPE
        command = [str(self._programs / program), *words]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def step(self, name: str, *words: str, program: str = "metaray") -> str:
        """The standard output of a program, which has to succeed."""
        began = time.monotonic()
        process = self.start(program, *words)
        output, errors = process.communicate()
        self.seconds[name] = round(time.monotonic() - began, 1)
        assert process.returncode == 0, f"{name}: {errors}"
        return output

    def json(self, name: str, *words: str) -> dict[str, Any]:
        """The object that a command prints with ``--json``."""
        found: dict[str, Any] = json.loads(self.step(name, *words, "--json"))
        return found

    @contextmanager
    def served(self, *words: str) -> Iterator[str]:
        """The address of a server for the time of a block; it ends without an error when asked to."""
        process = self.start("metaray", "serve", *words, "--port", "0")
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            yield next(match[0] for line in lines if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 0
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def hour(tmp_path: Path) -> Hour:
    """The wheel in a new environment that shares the large libraries of this one, so that nothing is downloaded."""
    tree, wheels, environment = tmp_path / "tree", tmp_path / "wheels", tmp_path / "environment"
    tree.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    began = time.monotonic()
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, tree], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    [site] = environment.glob("lib/python3*/site-packages")
    # torch (2.13.0 in constraints.txt), Ray and the rest come from here; a line of a .pth file adds the folder, and of
    # the .pth files in it none is read, the one of an editable metaray neither.
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    [wheel] = wheels.glob("*.whl")
    python = environment / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    shutil.rmtree(tree)
    folder = tmp_path / "home"
    for name in ("tasks", "meta"):  # folders of the user's own, which do no harm
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('not the package')\n")
    hour = Hour(environment / "bin", folder)
    hour.seconds["wheel, environment"] = round(time.monotonic() - began, 1)
    return hour


def draw(folder: Path) -> None:
    """Folders of images, a colour for each class."""
    for number in range(CLASSES):
        (folder / f"class{number:02}").mkdir(parents=True)
        for image in range(IMAGES):
            colour = (number * 16, 255 - number * 16, image * 30)
            Image.new("RGB", (SIZE, SIZE), colour).save(folder / f"class{number:02}" / f"{image}.png")


def asked(address: str, inputs: dict[str, Any]) -> tuple[int, Any]:
    """Status and body of a server's answer."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        body = json.dumps({"inputs": inputs})
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_from_the_wheel_to_answers(hour: Hour, record_property: Callable[[str, object], None]) -> None:
    listed = hour.json("configs", "configs")["configurations"]
    assert str(ROOT) not in listed[0]["path"]
    demo = hour.json("demo", "train", "sinusoid_demo", *SHORT, "eval.baselines=[]", "cluster.workers=1")
    assert demo["steps"] == 20

    hour.step("init", "init", "project", "--name", "lab")
    hour.folder = hour.folder / "project"
    own = hour.json("own family and model", "train", "config.yaml", *SHORT, "cluster.workers=0")
    assert own["evaluation"]["metric"] == "mse"

    draw(hour.folder / "pictures")
    hour.step(
        "own images", "data", "prepare", "folder", "--source", "pictures", "--root", "data/pictures", "--size", "16"
    )
    (hour.folder / "lab" / "pictures.py").write_text(textwrap.dedent(MODEL))
    (hour.folder / "pictures.yaml").write_text(PICTURES)
    (hour.folder / "search.yaml").write_text(SEARCH)
    checked = hour.json("check", "check", "lab.pictures:Small", "--config", "pictures.yaml")
    assert checked["kind"] == "model"
    best = hour.json("search", "tune", "search.yaml")["best"]
    registered = hour.json("register", "register", best["run_dir"], "--name", "pictures", "--alias", "champion")
    assert registered["version"] == 1

    loaded = json.loads(hour.step("load, predict", "-c", LOADED, program="python"))
    assert loaded["rows"] == pytest.approx([1.0] * 3, abs=1e-5)
    assert "environment" in loaded["place"]

    began = time.monotonic()
    with hour.served("models:/pictures@champion", "--trust", "lab") as address:
        wait_for(lambda: urllib.request.urlopen(f"{address}/ready", timeout=60).status == 200, "the server")
        images = [[[[255 * one] * 3] * SIZE] * SIZE for one in (0, 1, 0, 1)]
        inputs = {"support_inputs": [images], "support_targets": [[0, 1, 0, 1]], "query_inputs": [images[:2]]}
        status, answer = asked(address, inputs)
    hour.seconds["serve"] = round(time.monotonic() - began, 1)
    assert status == 200, answer
    assert [len(row) for row in answer["predictions"][0]] == [2, 2]

    page = Path(hour.json("report", "report", best["run_dir"])["page"])
    assert (hour.folder / page).is_file()
    for name, seconds in hour.seconds.items():
        record_property(name, seconds)
    print(*(f"{seconds:6.1f} s  {name}" for name, seconds in hour.seconds.items()), sep="\n")

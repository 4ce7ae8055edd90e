"""From a folder of pictures to a table of accuracies, as a user goes there."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from PIL import Image

Start = Callable[..., subprocess.Popen[str]]
Finish = Callable[..., tuple[int, str, str]]
INLINE = "cluster.workers=0"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Classes told apart by their colour."""
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    for number in range(15):
        folder = tmp_path / "pictures" / f"class{number}"
        folder.mkdir(parents=True)
        colour = rng.integers(256, size=3)
        for image in range(6):
            noise = rng.integers(-20, 20, size=(12, 12, 3))
            pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{image}.png")
    return tmp_path / "pictures"


@pytest.fixture
def image_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {
        "task": {"family": "images", "root": "data/pictures", "way": 3, "shot": 2, "query": 3, "eval_query": 2},
        "model": {"name": "conv4", "channels": 4, "blocks": 2},
        "inner": {"lr": 0.4, "steps": 1, "adapt": ["*.weight", "*.bias"]},
    }


def test_from_a_folder_of_pictures_to_accuracies(
    metaray: Start, finished: Finish, pictures: Path, image_settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "pictures.yaml").write_text(json.dumps(image_settings))
    prepare = ("data", "prepare", "folder", "--source", str(pictures), "--root", "data/pictures", "--size", "12")
    status, output, errors = finished(metaray(*prepare, "--ratio", "0.4,0.3,0.3", "--json"))
    assert status == 0, errors
    fingerprint = json.loads(output)["fingerprint"]

    status, output, errors = finished(metaray("train", "pictures.yaml", "--json"))
    assert status == 0, errors
    result = json.loads(output)
    protocol = {
        "metric": "accuracy",
        "way": 3,
        "shot": 2,
        "query_per_class": 2,
        "batch_norm": "transductive",
        "data": fingerprint,
    }
    assert protocol.items() <= result["evaluation"].items()
    assert result["evaluation"]["best_step"] in {10, 20}
    run = Path(result["run_dir"])
    assert {"adaptation.png", "episode.png", "learning_curves.png"} <= {
        path.name for path in (run / "figures").iterdir()
    }
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "figures/episode.png" in {file.path for file in client.list_artifacts(result["run_id"], "figures")}

    status, output, errors = finished(metaray("evaluate", str(run), "--steps", "0,2", "--json", INLINE))
    assert status == 0, errors
    assert json.loads(output)["steps"].keys() == {"0", "2"}

    # Other pictures under the same name: the run does not go on with them.
    status, _, errors = finished(metaray(*prepare, "--ratio", "0.4,0.3,0.3", "--seed", "1", "--replace"))
    assert status == 0, errors
    for command in (("train", "--resume", str(run), "outer.steps=30"), ("evaluate", str(run)), ("report", str(run))):
        status, _, errors = finished(metaray(*command, *([] if command[0] == "report" else [INLINE])))
        assert status == 2, command
        assert f"the checkpoint was made with data of fingerprint {fingerprint}" in errors

    # Asked for by name, other data is no mistake, and the result says so.
    status, output, errors = finished(metaray("evaluate", str(run), "task.root=data/pictures", "--json", INLINE))
    assert status == 0, errors
    other = json.loads(output)
    assert other["data"] != other["trained_on"] == fingerprint

    # The same data in another place: the run goes on.
    status, _, errors = finished(metaray(*prepare, "--ratio", "0.4,0.3,0.3", "--replace"))
    assert status == 0, errors
    (tmp_path / "data").rename(tmp_path / "moved")
    status, _, errors = finished(metaray("evaluate", str(run), INLINE))
    assert status == 2
    assert "expected an image store at 'data/pictures', found none" in errors
    moved = "task.root=moved/pictures"
    for command in (("train", "--resume", str(run), "outer.steps=22", moved), ("report", str(run), moved)):
        status, _, errors = finished(metaray(*command, *([] if command[0] == "report" else [INLINE])))
        assert status == 0, errors


def test_inductive_batch_norm_is_stated(
    metaray: Start, finished: Finish, make_store: Callable[..., Path], image_settings: dict[str, Any], tmp_path: Path
) -> None:
    image_settings["task"]["root"] = str(make_store((12, 12, 3), classes=5, images=6))
    image_settings["model"]["batch_norm"] = "inductive"
    (tmp_path / "noise.yaml").write_text(json.dumps(image_settings))
    status, output, errors = finished(metaray("train", "noise.yaml", "outer.steps=2", INLINE))
    assert status == 0, errors
    assert "batch norm inductive" in output

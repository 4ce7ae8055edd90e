"""``metaray reproduce`` as a user calls it: rows listed, one interrupted, gone on with, recorded, and its page made."""

import json
import signal
from typing import Any

import pytest
import yaml

from helpers.waiting import HANGS_AFTER, wait_for

ENTRY = {
    "title": "Small",
    "group": "regression",
    "metric": "mse",
    "published": {"source": "Nobody (2017)", "scores": {"maml": {"1": [0.5, 0.1]}}},
    "compare": {"base": "small.yaml", "seeds": 2, "at_once": 1},
    "also": {"tested on 3 points": {"task.eval_shot": 3}},
}
IMAGES = {
    "title": "Images",
    "group": "images",
    "metric": "accuracy",
    "compare": {"base": "images.yaml"},
}


@pytest.mark.timeout(6 * HANGS_AFTER)
def test_a_row_is_interrupted_gone_on_with_and_recorded(
    metaray, finished, settings, small_images, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # the default waits for all other work on the machine
    folder = tmp_path / "tune_configs"
    folder.mkdir()
    images: dict[str, Any] = small_images | {"task": small_images["task"] | {"root": "data/omniglot"}}
    small = settings | {"outer": {"steps": 200}, "eval": settings["eval"] | {"every": 100}}
    small |= {"cluster": {"workers": 0}, "checkpoint": settings["checkpoint"] | {"every": 100}}
    for name, content in {
        "small": small,
        "images": settings | images,
        "reproduce": {"small": ENTRY, "images": IMAGES},
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "results.md"
    page.write_text("# Results\n\n<!-- records: begin -->\n\n<!-- records: end -->\n")

    status, output, errors = finished(metaray("reproduce", "images"))
    assert (status, output) == (2, "")
    assert "metaray data prepare omniglot --source FOLDER --root data/omniglot" in errors
    assert not (tmp_path / "runs").exists()

    process = metaray("reproduce", "small")
    trials = tmp_path / "runs" / "reproduce-small" / "trials"
    wait_for(lambda: any(trials.glob("000/checkpoints/step-*.safetensors")), "the first checkpoint", 2 * HANGS_AFTER)
    process.send_signal(signal.SIGTERM)
    status, _, errors = finished(process)
    assert status == 1
    assert "row small was stopped, what is done is kept; go on with: metaray reproduce small" in errors

    status, output, errors = finished(metaray("reproduce", "small", "--record", "--json"), 2 * HANGS_AFTER)
    assert status == 0, errors
    plain = json.loads(output)
    assert plain["kept"] == {"record": "docs/results/small.json"}
    record = json.loads((tmp_path / "docs" / "results" / "small.json").read_text())
    (row,) = record["rows"]
    assert [run["status"] for run in row["runs"]] == ["finished", "finished"]
    mean = plain["rows"][0]["evaluation"]["steps"]["1"]["mean"]
    assert row["evaluation"]["steps"]["1"]["mean"] == pytest.approx(mean, rel=1e-5)
    assert record["also"]["tested on 3 points"]["maml"]["shot"] == 3
    assert str(tmp_path) not in json.dumps(record)
    assert f"| `small` | Small | 0.500 ± 0.100 | {mean:.3f} |" in page.read_text()

    status, output, errors = finished(metaray("reproduce", "--json"))
    assert status == 0, errors
    assert [(line["name"], line["ours"][:5]) for line in json.loads(output)["rows"]] == [
        ("small", f"{mean:.3f}"),
        ("images", "not r"),
    ]

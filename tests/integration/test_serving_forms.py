"""A server asked with arrays and image files, its figures, and another version in place of the one that it serves."""

import io
import itertools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cluster.bench.forms import FORMS, questions
from cluster.config.schema import parse
from cluster.config.sections import TrackingConfig
from cluster.interrupts import stop_on_signals
from cluster.registry.client import Registry
from cluster.registry.register import register
from cluster.runs.folder import RunFolder
from cluster.training import run as training
from cluster.training.start import resume
from helpers.folders import new_run
from tests.integration.test_serving import Served, eventually, pictures, points, serving, written

ROOT = Path(__file__).parents[2]
NPZ = {"Content-Type": "application/x-npz", "Accept": "application/x-npz"}


def trained(base: dict[str, Any], name: str, **sections: Any) -> RunFolder:
    """A run."""
    config = parse(base | {"cluster": {"workers": 0}} | sections)
    folder = new_run(config, name)
    with stop_on_signals() as stop:
        training.run(resume(config, folder), stop)
    return folder


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    small_settings: Callable[[Path], dict[str, Any]],
    small_images: dict[str, Any],
) -> Path:
    """A folder whose MLflow has a model of points and one of pictures."""
    root = tmp_path_factory.mktemp("forms")
    register(trained(small_settings(root), "sine"), "sine", alias="champion")
    register(trained(small_settings(root), "pictures", **small_images), "pictures", alias="champion")
    return root


@pytest.fixture(scope="module")
def served(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(place, "pictures", tmp_path_factory.mktemp("pictures") / "log") as found:
        yield found


def archive(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def predictions(body: bytes) -> Any:
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        assert arrays.files == ["predictions"]
        return arrays["predictions"]


def test_all_forms_are_answered_alike(served: Served):
    arrays = pictures(np.random.default_rng(0))
    expected = served.model.predict(arrays, served.model.inner_steps, served.model.inner_lr)
    for form in FORMS:
        asked = questions(form, [arrays], served.model.images)
        status, body, headers = served.receive("POST", "/invocations", asked.bodies[0], asked.headers)
        assert status == 200, body
        assert headers["x-model-version"] == "1"
        found = np.array(json.loads(body)["predictions"]) if form == "json" else predictions(body)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    status, body, _ = served.receive("POST", "/invocations", archive(arrays), {"Content-Type": NPZ["Content-Type"]})
    np.testing.assert_allclose(json.loads(body)["predictions"], expected, rtol=1e-3, atol=1e-5)
    other = archive(arrays | {"inner_steps": 0, "inner_lr": 0.1})
    found = predictions(served.receive("POST", "/invocations", other, NPZ)[1])
    np.testing.assert_allclose(found, served.model.predict(arrays, 0, 0.1), rtol=1e-3, atol=1e-5)


def test_what_is_wrong_is_said_in_json(served: Served):
    arrays = pictures(np.random.default_rng(1))
    for body, headers, status, reason in (
        (archive(arrays | {"support_targets": np.full((1, 12), 0.5)}), NPZ, 400, "support_targets .* received float64"),
        (archive(arrays | {"query_inputs": np.ones((1, 6, 8, 9, 1))}), NPZ, 400, "query_inputs .* received"),
        (archive({"query_inputs": arrays["query_inputs"]}), NPZ, 400, "received no support_inputs"),
        (b"PK", NPZ, 400, "expected an archive that np.savez wrote"),
        (b"", {"Content-Type": "multipart/form-data"}, 400, "with a boundary, received none"),
        (b"", {"Content-Type": "image/png"}, 415, "application/x-npz, multipart/form-data, received"),
    ):
        found, text, _ = served.receive("POST", "/invocations", body, headers)
        assert found == status, text
        assert re.search(reason, json.loads(text)["message"]), text


def test_photographs_that_are_too_much_in_json_fit_as_files(served: Served):
    # 25 support images and 25 queries of 84 × 84 in colour, as noise, which no file makes smaller.
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (50, 84, 84, 3), dtype=np.uint8)
    assert len(json.dumps(noise.tolist())) / 2**20 > 4
    parts = [("support_targets", (None, json.dumps([[0, 1, 2] * 4])))]
    for number, image in enumerate(noise[:18]):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=95)
        name = "support_inputs" if number < 12 else "query_inputs"
        parts.append((name, ("photo.jpg", stream.getvalue())))  # type: ignore[arg-type]
    answer = requests.post(f"http://127.0.0.1:{served.port}/invocations", files=parts, timeout=60)
    assert answer.status_code == 200, answer.text
    assert np.array(answer.json()["predictions"]).shape == (1, 6, 3)


def examples(start: str) -> str:
    """The indented block of the guide that begins with a line."""
    lines = (ROOT / "docs" / "serving.md").read_text().split("\n")
    first = lines.index(f"    {start}")
    block = itertools.takewhile(lambda line: not line or line.startswith("    "), lines[first:])
    return "\n".join(line.removeprefix("    ") for line in block)


def test_the_guides_clients_are_answered(place: Path, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(6).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    for name, one in zip(("cat", "dog", "unknown"), pixels, strict=True):
        Image.fromarray(one).save(f"{name}.png")
    arrays = {
        "support_inputs": pixels[None, :2, ..., None],
        "support_targets": np.array([[0, 1]]),
        "query_inputs": pixels[None, 2:, ..., None],
    }
    expected = served.model.predict(arrays, served.model.inner_steps, served.model.inner_lr)
    ours = f"127.0.0.1:{served.port}"
    found: dict[str, Any] = {}
    exec(examples("from pathlib import Path").replace("127.0.0.1:8000", ours), found)
    np.testing.assert_allclose(found["predictions"], expected, rtol=1e-3, atol=1e-5)
    if shutil.which("curl"):
        command = examples("curl -s 127.0.0.1:8000/invocations \\").partition("\n\n")[0].replace("127.0.0.1:8000", ours)
        output = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60).stdout
        three = served.model.predict(arrays, 3, served.model.inner_lr)
        np.testing.assert_allclose(json.loads(output)["predictions"], three, rtol=1e-3, atol=1e-5)
    with serving(place, "sine", tmp_path / "log") as points_served:
        exec(examples("import io").replace("127.0.0.1:8000", f"127.0.0.1:{points_served.port}"), found)
        expected = points_served.model.predict(
            {name: np.asarray(found["arrays"][name]) for name in arrays}, inner_steps=5, inner_lr=0.01
        )
        np.testing.assert_allclose(found["predictions"], expected, rtol=1e-3, atol=1e-5)


def figures(served: Served) -> dict[tuple[str, ...], float]:
    """What ``/metrics`` says, by name and labels."""
    status, text, headers = served.receive("GET", "/metrics")
    assert (status, headers["content-type"].startswith("text/plain")) == (200, True)
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_requests_are_counted_and_timed(served: Served):
    before = figures(served)
    arrays = pictures(np.random.default_rng(3), tasks=2)
    assert served.receive("POST", "/invocations", archive(arrays), NPZ)[0] == 200
    assert served.receive("POST", "/invocations", written(arrays))[0] == 200
    assert served.receive("POST", "/invocations", b"{}")[0] == 400
    for kind in ("text/csv", "text/" + "x" * 50, "image/gif"):
        assert served.receive("POST", "/invocations", b"", {"Content-Type": kind})[0] == 415
    assert served.receive("GET", "/elsewhere")[0] == 404
    after = figures(served)

    def grown(*key: str) -> float:
        return after.get(key, 0.0) - before.get(key, 0.0)

    assert grown("metaray_requests_total", "form=npz", "status=200") == 1
    assert grown("metaray_requests_total", "form=json", "status=200") == 1
    assert grown("metaray_requests_total", "form=json", "status=400") == 1
    assert grown("metaray_requests_total", "form=other", "status=415") == 3
    assert grown("metaray_request_seconds_count", "form=npz") == 1
    assert grown("metaray_tasks_total") == 4
    assert grown("metaray_batch_tasks_count") == 2
    assert after["metaray_model_info", "name=pictures", "version=1"] == 1
    assert after["metaray_requests_inside",] == after["metaray_requests_waiting",] == 0
    assert after["process_resident_memory_bytes",] > 1e8
    assert {key for key in after if "text" in str(key) or "elsewhere" in str(key)} == set()


def test_a_moved_alias_is_followed_without_a_lost_answer(
    place: Path, small_settings: Callable[[Path], dict[str, Any]], tmp_path: Path
):
    inputs, versions, lost = points(np.random.default_rng(4)), [], []
    done, other = threading.Event(), trained(small_settings(place), "other", seed=5)
    with serving(place, "sine", tmp_path / "log", "--reload", "0.1") as served:

        def ask() -> None:
            while not done.is_set():
                status, answer, headers = served.send("POST", "/invocations", written(inputs))
                if status != 200:
                    lost.append(answer)
                    return
                versions.append((int(headers["x-model-version"]), answer["predictions"]))

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            eventually(lambda: len(versions) > 10, served.process)
            second = register(other, "sine", alias="champion").version
            eventually(lambda: lost or {version for version, _ in versions} == {1, second}, served.process)
            assert served.send("GET", "/model")[1]["version"] == second
        finally:
            done.set()
            for client in clients:
                client.join()
    assert not lost
    order = [version for version, _ in versions]
    assert order[:10] == [1] * 10
    assert order[-1] == second
    assert not {json.dumps(p) for v, p in versions if v == 1} & {json.dumps(p) for v, p in versions if v != 1}
    assert f"serving sine, version {second}, in place of version 1" in (tmp_path / "log").read_text()


def damage(place: Path, name: str, version: int) -> None:
    """Take θ out of a version's files."""
    registry = Registry(TrackingConfig(uri=f"sqlite:///{place / 'mlflow.db'}"))
    source = registry._client.get_model_version_download_uri(name, str(version))
    folder = Path(str(source).removeprefix("file://"))
    weights = list(folder.rglob("best.safetensors"))
    assert weights
    for path in weights:
        path.write_bytes(b"damaged")


def test_a_version_that_cannot_be_loaded_leaves_the_one_before(
    place: Path, small_settings: Callable[[Path], dict[str, Any]], tmp_path: Path
):
    inputs, folder = points(np.random.default_rng(5)), trained(small_settings(place), "broken", seed=7)
    with serving(place, "sine", tmp_path / "log", "--reload", "0.1") as served:
        first = served.send("GET", "/model")[1]["version"]
        registry = Registry(TrackingConfig(uri=f"sqlite:///{place / 'mlflow.db'}"))
        broken = register(folder, "sine").version
        damage(place, "sine", broken)
        registry._client.set_registered_model_alias("sine", "champion", str(broken))
        eventually(lambda: served.send("GET", "/ready")[1].get("warning"), served.process)
        status, _, headers = served.send("POST", "/invocations", written(inputs))
        assert (status, int(headers["x-model-version"])) == (200, first)
        failure = served.send("GET", "/model")[1]["reload"]["failure"]
        assert f"version {broken}" in failure
        assert "is served on" in (tmp_path / "log").read_text()
        registry._client.set_registered_model_alias("sine", "champion", str(first))
        eventually(lambda: "warning" not in served.send("GET", "/ready")[1], served.process)
        assert served.send("GET", "/ready")[0] == 200

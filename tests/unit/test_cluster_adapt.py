"""`metaray adapt`: tables, pictures and arrays in, the registered model's own predictions and adapted weights out."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from cluster.commands.cli import app
from cluster.config.schema import parse, read_yaml
from cluster.registry.loading import load_adaptable
from cluster.registry.models import AdaptableModel
from cluster.setups.build import build
from helpers.packages import pack
from tasks.data.tables.prepare import prepare_table
from tasks.data.tables.request import TableSource

SINUSOID: Mapping[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 4},
    "model": {"name": "mlp", "hidden": [20, 20], "init_std": None},
    "inner": {"lr": 0.02, "steps": 2},
    "outer": {"steps": 3},
    "meta_batch": 6,
    "shard": 2,
    "cluster": {"workers": 0},
}
POINTS = ([0.0, 1.0, 2.0], [0.0, 0.8, 0.9])
ASKED = [0.5, 1.5]


def packed(raw: Mapping[str, Any], root: Path) -> Path:
    """The package of a run that has not learned anything yet."""
    config = parse({**SINUSOID, **raw, "checkpoint": {"root": str(root / "runs")}})
    return pack(config, root)[2]


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["adapt", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object, status: int = 2) -> str:
    result = CliRunner().invoke(app, ["adapt", *map(str, arguments)])
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    return str(result.stderr)


def expected(path: Path, steps: int = 2, lr: float = 0.02, dtype: str = "float64") -> np.ndarray:
    """The registered model's predictions for the points."""
    model = load_adaptable(path)
    x, y = (np.array(values, dtype=dtype)[None, :, None] for values in POINTS)
    queries = np.array(ASKED, dtype=dtype)[None, :, None]
    return model.predict({"support_inputs": x, "support_targets": y, "query_inputs": queries}, steps, lr)


@pytest.fixture
def points(tmp_path: Path, write_csv: Callable[..., Path]) -> tuple[object, ...]:
    """The points as tables, and the options that name their columns."""
    support = write_csv(tmp_path / "support.csv", ("x", "y"), list(zip(*POINTS, strict=True)))
    query = write_csv(tmp_path / "query.csv", ("x", "note"), [(x, "ignored") for x in ASKED])
    return "--support", support, "--query", query, "--inputs", "x", "--targets", "y"


def test_tables_give_what_the_registered_model_predicts(tmp_path: Path, points: tuple[object, ...]) -> None:
    path = packed({}, tmp_path)
    printed = list(csv.DictReader(io.StringIO(run(path, *points))))
    assert [row["query"] for row in printed] == ["1", "2"]
    assert [float(row["y"]) for row in printed] == expected(path).flatten().tolist()
    plain = json.loads(run(path, *points, "--steps", 3, "--lr", 0.1, "--json"))
    assert plain["predictions"] == expected(path, 3, 0.1).tolist()
    assert (plain["inner_steps"], plain["inner_lr"]) == (3, 0.1)


def test_parquet_and_csv_are_the_same(tmp_path: Path, points: tuple[object, ...]) -> None:
    path = packed({}, tmp_path)
    table = tmp_path / "support.parquet"
    pq.write_table(pa.table({"x": POINTS[0], "y": POINTS[1]}), table)
    assert run(path, *points) == run(path, "--support", table, *points[2:])


def test_a_run_is_adapted_as_its_package(tmp_path: Path, points: tuple[object, ...]) -> None:
    path = packed({}, tmp_path)
    runs = tmp_path / "runs" / "run"
    (path / "checkpoints").rename(runs / "checkpoints")
    out = tmp_path / "out.csv"
    assert run(runs, *points, "--out", out) == ""
    (runs / "checkpoints").rename(path / "checkpoints")
    assert out.read_text() == run(path, *points)


def test_arrays_come_in_one_file_or_two(tmp_path: Path) -> None:
    path = packed({}, tmp_path)
    x, y = (np.array(values, dtype=np.float32)[None, :, None] for values in POINTS)
    queries = np.array(ASKED, dtype=np.float32)[None, :, None]
    np.savez(tmp_path / "both.npz", support_inputs=x, support_targets=y, query_inputs=queries, inner_steps=3)
    np.savez(tmp_path / "support.npz", support_inputs=x, support_targets=y)
    np.savez(tmp_path / "query.npz", query_inputs=queries)
    inputs = {"support_inputs": x.tolist(), "support_targets": y.tolist(), "query_inputs": queries.tolist()}
    (tmp_path / "both.json").write_text(json.dumps({"inputs": inputs, "params": {"inner_steps": 3}}))
    (tmp_path / "query.json").write_text(json.dumps({"inputs": {"query_inputs": inputs.pop("query_inputs")}}))
    (tmp_path / "support.json").write_text(json.dumps({"inputs": inputs}))
    for kind in ("npz", "json"):
        together = json.loads(run(path, "--support", tmp_path / f"both.{kind}", "--json"))
        apart = ("--support", tmp_path / f"support.{kind}", "--query", tmp_path / f"query.{kind}")
        assert together["predictions"] == json.loads(run(path, *apart, "--steps", 3, "--json"))["predictions"]
        assert together["predictions"] == expected(path, 3, dtype="float32").tolist()


GAUSSIAN = {"objective": "gaussian_nll", "model": {"name": "mlp", "hidden": [20]}}  # of small outputs at the start


@pytest.mark.parametrize("change", [{}, GAUSSIAN, {"algorithm": "mamlpp"}], ids=str)
def test_saved_weights_predict_the_same(tmp_path: Path, points: tuple[object, ...], change: dict[str, Any]) -> None:
    path = packed(change, tmp_path)
    predictions = np.array(json.loads(run(path, *points, "--json"))["predictions"][0])
    model = load_adaptable(path)
    assert isinstance(model, AdaptableModel)
    queries = torch.tensor(ASKED)[:, None]
    for name in ("weights.pt", "weights.safetensors"):
        run(path, *points, "--save", tmp_path / name)
        read = load_file if name.endswith("safetensors") else lambda file: torch.load(file, weights_only=True)
        outputs = model.network.apply(read(tmp_path / name), queries)
        np.testing.assert_allclose(model.objective.predictions(outputs).numpy(), predictions, rtol=1e-5, atol=1e-6)
    run(path, *points, "--save", tmp_path / "weights.pt2")
    program = torch.export.load(tmp_path / "weights.pt2").module()
    np.testing.assert_allclose(program(queries).numpy(), predictions, rtol=1e-5, atol=1e-6)
    assert program(torch.zeros(7, 1)).shape == (7, predictions.shape[1])


def test_methods_without_weights_of_a_task_cannot_save_them(tmp_path: Path, points: tuple[object, ...]) -> None:
    path = packed({"algorithm": "ridge"}, tmp_path)
    message = refused(path, *points, "--save", tmp_path / "weights.pt")
    assert "ridge needs the support examples or more than the network's parameters to predict" in message
    assert not (tmp_path / "weights.pt").exists()


@pytest.fixture
def sales(tmp_path: Path, write_csv: Callable[..., Path]) -> Callable[..., Path]:
    """Prepares a table of shops, and packs a model of it."""

    def make(**change: Any) -> Path:
        rng = np.random.Generator(np.random.Philox(key=[5, 0]))
        rows = [
            (
                f"shop{shop:02}",
                f"{price:.4f}",
                "ab"[day % 2],
                f"{50 + 10 * price + shop:.3f}",
                "many" if price > 0 else "few",
            )
            for shop in range(12)
            for day, price in enumerate(rng.normal(size=12))
        ]
        source = write_csv(tmp_path / "sales.csv", ("shop", "price", "kind", "sold", "level"), rows)
        roles = {"inputs": ("price", "kind"), "categorical": ("kind",), "targets": ("sold",)} | change
        prepare_table(TableSource(source, group="shop", **roles), str(tmp_path / "store"))
        return packed({"task": {"family": "table", "root": str(tmp_path / "store"), "shot": 4, "query": 4}}, tmp_path)

    return make


def test_a_model_of_a_table_knows_its_columns_and_units(
    tmp_path: Path, sales: Callable[..., Path], write_csv: Callable[..., Path]
) -> None:
    path = sales()
    family = build(parse(read_yaml(path / "config.yaml"))).family
    support = {"price": [0.1, -0.5, 1.0], "kind": ["a", "b", "a"], "sold": [51.0, 45.0, 60.0]}
    query = {"price": [0.3, -1.0], "kind": ["b", "a"]}
    files = [
        write_csv(tmp_path / f"{name}.csv", tuple(columns), list(zip(*columns.values(), strict=True)))
        for name, columns in (("support", support), ("query", query))
    ]
    rows = list(csv.DictReader(io.StringIO(run(path, "--support", files[0], "--query", files[1]))))
    model = load_adaptable(path)
    predicted = model.predict(family.arrays(support, query), 2, 0.02)
    assert [float(row["sold"]) for row in rows] == pytest.approx(family.in_units(predicted[0], support)[:, 0].tolist())
    assert 20 < float(rows[0]["sold"]) < 90
    message = refused(path, "--support", files[1], "--query", files[1])
    assert f"{files[1]}: expected columns price, kind, sold, received price, kind; add sold" in message
    assert "--inputs, --targets: expected none" in refused(
        path, "--support", files[0], "--query", files[1], "--inputs", "price", "--targets", "sold"
    )
    wrong = write_csv(tmp_path / "wrong.csv", ("price", "kind"), [("dear", "a")])
    assert f"{wrong}: rows, row 1, column 'price': expected a number, received 'dear'" in refused(
        path, "--support", files[0], "--query", wrong
    )


def test_labels_of_a_table_are_predicted_by_name(
    tmp_path: Path, sales: Callable[..., Path], write_csv: Callable[..., Path]
) -> None:
    path = sales(targets=(), labels="level")
    support = write_csv(tmp_path / "support.csv", ("price", "kind", "level"), [(1, "a", "many"), (-1, "b", "few")])
    query = write_csv(tmp_path / "query.csv", ("price", "kind"), [(0.5, "a")])
    (row,) = csv.DictReader(io.StringIO(run(path, "--support", support, "--query", query)))
    assert list(row) == ["query", "predicted", "probability few", "probability many"]
    assert row["predicted"] == max(("few", "many"), key=lambda name: float(row[f"probability {name}"]))
    assert float(row["probability few"]) + float(row["probability many"]) == pytest.approx(1)


@pytest.fixture
def pictures(tmp_path: Path, make_store: Callable[..., Path]) -> tuple[Path, Path]:
    """The package of a model of three classes of pictures, and a folder of class folders and queries."""
    root = make_store((8, 8, 3), 6, 6)
    path = packed(
        {
            "task": {"family": "images", "root": str(root), "way": 3, "shot": 2, "query": 2},
            "model": {"name": "conv4", "channels": 4, "blocks": 2},
        },
        tmp_path,
    )
    rng = np.random.Generator(np.random.Philox(key=[1, 0]))
    for name in ("support/ant/1", "support/ant/2", "support/bee/1", "support/bee/2", "support/cat/1", "ask/x", "ask/y"):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(file)
    return path, tmp_path


def test_class_folders_are_adapted_to(pictures: tuple[Path, Path]) -> None:
    path, folder = pictures
    (folder / "support" / "ant" / "notes.txt").write_text("no picture")
    files = ("--support", folder / "support", "--query", folder / "ask")
    result = CliRunner().invoke(app, ["adapt", *map(str, (path, *files)), "--json"])
    assert result.exit_code == 0, result.output
    assert (
        "classes differ in their number of pictures, each of which counts alike: ant 2, bee 2, cat 1" in result.stderr
    )
    assert "notes.txt" in result.stderr
    plain = json.loads(result.stdout)
    assert [row["query"] for row in plain["rows"]] == ["x.png", "y.png"]
    support = [np.asarray(Image.open(file)) for file in sorted((folder / "support").glob("*/*.png"))]
    asked = [np.asarray(Image.open(folder / "ask" / name)) for name in ("x.png", "y.png")]
    arrays = {
        "support_inputs": np.stack(support)[None],
        "support_targets": np.array([[0, 0, 1, 1, 2]]),
        "query_inputs": np.stack(asked)[None],
    }
    assert plain["predictions"] == load_adaptable(path).predict(arrays, 2, 0.02).tolist()
    one = json.loads(run(path, "--support", folder / "support", "--query", folder / "ask" / "x.png", "--json"))
    assert [row["query"] for row in one["rows"]] == ["x.png"]


def test_folders_that_cannot_be_adapted_to(pictures: tuple[Path, Path]) -> None:
    path, folder = pictures
    (folder / "support" / "dog").mkdir()
    files = ("--support", folder / "support", "--query", folder / "ask")
    assert "expected 3 class folders, as many as the model has classes, received 4: ant, bee, cat, dog" in refused(
        path, *files
    )
    (folder / "support" / "dog").rmdir()
    (folder / "support" / "cat" / "1.png").rename(folder / "ask" / "z.png")
    assert "expected pictures in every class folder" in refused(path, *files)
    (folder / "support" / "cat" / "1.png").write_bytes(b"no picture")
    assert "replace it, or take it out of the folder" in refused(path, *files)
    assert "the model's inputs are images" in refused(
        path, "--support", write(folder / "a.csv", "x\n1\n"), "--query", folder / "a.csv"
    )


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_what_the_command_refuses(tmp_path: Path, points: tuple[Any, ...]) -> None:
    path = packed({}, tmp_path)
    support, query = points[1], points[3]
    assert "--query: expected a file or folder beside --support" in refused(path, *points[:2])
    assert "--support: expected a file or folder at" in refused(path, "--support", tmp_path / "none.csv", *points[2:])
    assert "add --inputs A,B --targets Y" in refused(path, *points[:4])
    assert "--inputs: expected 1 columns, the numbers of one input [1], received 2: x, y" in refused(
        path, *points[:4], "--inputs", "x,y", "--targets", "y"
    )
    assert "--targets: expected 1 columns, received 2" in refused(path, *points[:6], "--targets", "x,y")
    gap = write(tmp_path / "gap.csv", "x,y\n1,\n")
    assert "column 'y': expected a number, received none" in refused(path, "--support", gap, *points[2:])
    assert "expected at least one row" in refused(path, *points[:2], "--query", write(gap, "x\n"), *points[4:])
    assert "--out: expected a file that ends in .csv or .json" in refused(path, *points, "--out", "p.txt")
    assert "--save: expected a file that ends in .pt" in refused(path, *points, "--save", "w.onnx")
    assert "the model's inputs are no images" in refused(path, "--support", tmp_path, "--query", query)
    lists = write(tmp_path / "wrong.json", json.dumps({"inputs": {"support_inputs": [[[1]]]}}))
    assert "support_targets" in refused(path, "--support", lists)
    assert "expected arrays that --support does not hold, received 'support_inputs' again" in refused(
        path, "--support", lists, "--query", lists
    )
    np.savez(tmp_path / "wrong.npz", support_inputs=np.zeros((1, 2, 3)))
    assert "support_inputs [T, S, 1] float64: received shape [1, 2, 3]" in refused(
        path, "--support", tmp_path / "wrong.npz"
    )
    odd = write(tmp_path / "odd.txt", "")
    assert "or arrays (.json, .npz), received" in refused(path, "--support", odd, "--query", odd)
    message = refused(path, *points, "--lr", "1e30", "--steps", "9", "--out", tmp_path / "p.csv", status=1)
    assert "adaptation diverged" in message
    assert not (tmp_path / "p.csv").exists()
    assert "a model is adapted as it is" in refused(path, "inner.steps=3", *points)
    assert support


def test_classes_of_packages_that_are_not_trusted_are_refused(tmp_path: Path, points: tuple[object, ...]) -> None:
    path = packed({}, tmp_path)
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("name: mlp", "name: somebodys_package:Net"))
    assert "add --trust somebodys_package" in refused(path, *points)


def test_objectives_of_a_registered_model_are_trusted_or_not(tmp_path: Path, points: tuple[object, ...]) -> None:
    path = packed({"objective": "huber"}, tmp_path)
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("name: huber", "name: somebodys_package:Loss"))
    assert "objective.name: expected a class of metaray or of a package that you trust" in refused(path, *points)

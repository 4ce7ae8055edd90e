"""import metaray on real Ray and MLflow: what the commands give, to the bit."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml

import metaray
from cluster.registry.register import register

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_command(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """The fixture ``metaray``, whose name is the package's here."""
    start: Callable[..., Any] = request.getfixturevalue("metaray")
    return start


@pytest.fixture
def trained(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> metaray.TrainedRun:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    return metaray.train("small.yaml", inner={"lr": 0.02})


def test_train_evaluate_register_load_adapt_predict(
    trained: metaray.TrainedRun, run_command: Callable[..., Any], finished: Callable[..., Any], tmp_path: Path
) -> None:
    status, output, errors = finished(run_command("train", "small.yaml", "inner.lr=0.02", "--json"))
    assert status == 0, errors
    of_command = json.loads(output)
    assert trained.outcome is not None
    assert trained.outcome.keys() == of_command.keys()
    assert trained.theta_sha256 == trained.outcome["theta_sha256"] == of_command["theta_sha256"]
    assert trained.evaluation == of_command["evaluation"]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert mlflow.MlflowClient(uri).get_run(trained.outcome["run_id"]).info.status == "FINISHED"

    status, output, errors = finished(
        run_command("evaluate", of_command["run_id"], "--steps", "0,2", "--tasks", "5", "--json")
    )
    assert status == 0, errors
    assert metaray.evaluate(trained, steps=[0, 2], tasks=5) == json.loads(output)

    made = register(trained.folder, "sine", alias="champion", overrides=(f"tracking.uri={uri}",))
    model = metaray.load("models:/sine@champion", tracking={"uri": uri})
    assert model.theta.keys() == trained.theta.keys()
    assert all(torch.equal(value, trained.theta[name]) for name, value in model.theta.items())
    assert model.evaluation == trained.evaluation
    assert "models:/sine@champion" in repr(model)
    x = torch.linspace(-2, 2, 6)[:, None]
    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model(made.uri)
    arrays = {"support_inputs": x, "support_targets": x.sin(), "query_inputs": x + 0.1}
    expected = served.predict({name: value[None].double().numpy() for name, value in arrays.items()})
    assert torch.equal(model.adapt((x, x.sin())).predict(x + 0.1), torch.from_numpy(expected[0]))
    assert metaray.evaluate("models:/sine@champion", steps=[0, 2], tasks=5, tracking={"uri": uri}) == (
        metaray.evaluate(trained, steps=[0, 2], tasks=5)
    )


def test_the_page_about_python_searches_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page.split("## Searches and comparisons")[1], re.DOTALL)
    x = torch.linspace(-2, 2, 6)[:, None]
    names: dict[str, Any] = {"metaray": metaray, "x": x, "y": x.sin()}
    exec(block, names)
    search, table = names["search"], names["table"]
    frame = search.to_pandas()
    assert list(frame["trial"]) == [0, 1]
    assert frame["inner.lr"].between(0.001, 0.1).all()
    assert search.best.path == Path(search.data["best"]["run_dir"])
    assert search.table().row_count == 2
    assert search.plot().axes
    assert names["model"].predict(x).shape == (6, 1)
    assert repr(search).startswith("SearchTable(2 trials by val/mse_1, best ")
    assert list(table.to_pandas()["row"].unique()) == ["maml", "first order"]
    assert table.table().row_count == 2
    assert table.plot().axes
    assert "first order" in table._repr_html_()
    assert repr(table) == "ComparisonTable(maml, first order; mse, 2 seeds)"
    again = metaray.tune(resume=search.data["search_dir"])
    assert again.to_pandas().equals(frame)

"""The forms of input that a registered model takes through MLflow: arrays of any real type, lists, tensors, frames."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import _parse_json_data

from cluster.config.schema import parse
from cluster.registry.loading import load_adaptable
from cluster.registry.pyfunc import save
from helpers.packages import pack

SETTINGS: Mapping[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 4},
    "model": {"name": "mlp", "hidden": [20, 20], "init_std": None},
    "outer": {"steps": 3},
    "meta_batch": 6,
    "cluster": {"workers": 0},
}


def loaded(raw: Mapping[str, Any], root: Path) -> PyFuncModel:
    """A model as MLflow keeps it, without a server."""
    config = parse({**raw, "checkpoint": {"root": str(root / "runs")}})
    _, _, package = pack(config, root)
    entry = LoggedModel("0", "m-1", "meta_model", str(root / "model"), 0, 0)
    save(root / "model", entry, package=package, model=load_adaptable(package))
    return mlflow.pyfunc.load_model(str(root / "model"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PyFuncModel:
    return loaded(SETTINGS, tmp_path_factory.mktemp("model"))


X, Y, ASKED = (np.array(values)[None, :, None] for values in ([0.0, 1.0, 2.0], [0.0, 0.5, 1.0], [0.5, 1.5]))
NAMES = ("support_inputs", "support_targets", "query_inputs")
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "float64": lambda array: array,
    "float32": lambda array: array.astype(np.float32),
    "lists": lambda array: array.tolist(),
    "tensors": torch.from_numpy,
    "tensors of float32": lambda array: torch.from_numpy(array).float().requires_grad_(),
    "bfloat16": lambda array: torch.from_numpy(array).bfloat16(),
    "frames": lambda array: pd.DataFrame(array[0], columns=["a"]),
    "series": lambda array: pd.Series(array[0, :, 0]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(model: PyFuncModel, form: str) -> None:
    given = {name: FORMS[form](array) for name, array in zip(NAMES, (X, Y, ASKED), strict=True)}
    expected = model.predict(dict(zip(NAMES, (X, Y, ASKED), strict=True)), params={"inner_steps": 2})
    assert model.predict(given, params={"inner_steps": 2}).tolist() == expected.tolist()


def test_the_signature_is_kept(model: PyFuncModel) -> None:
    signature = model.metadata.signature
    assert signature.inputs.input_names() == list(NAMES)
    assert [spec.shape for spec in signature.inputs.inputs] == [(-1, -1, 1)] * 3


def test_a_server_of_mlflow_reads_lists(model: PyFuncModel) -> None:
    body = '{"inputs": {"support_inputs": [[[0], [1]]], "support_targets": [[[0], [1]]], "query_inputs": [[[2]]]}}'
    parsed = _parse_json_data(body, model.metadata, model.metadata.get_input_schema())
    assert model.predict(parsed.data).shape == (1, 1, 1)


REFUSED = {
    "text": ([[["a"]]], r"support_inputs \[T, S, 1\] float64: received"),
    "ragged": ([[[1.0], [2.0, 3.0]]], "expected lists of equal lengths"),
    "shape": ([[1.0, 2.0]], r"received shape \[1, 2\]"),
    "objects": ([[[None]]], "received list of other things than numbers"),
    "infinite": ([[[np.inf]]], "expected finite numbers"),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_input_is_refused_by_name(model: PyFuncModel, value: Any, message: str) -> None:
    with pytest.raises(MlflowException, match=message):
        model.predict({"support_inputs": value, "support_targets": Y, "query_inputs": ASKED})
    with pytest.raises(MlflowException, match="by name, received list"):
        model.predict(value)


def test_pixels_and_classes_are_whole_numbers_in_range(tmp_path: Path, make_store: Callable[..., Path]) -> None:
    images = loaded(
        {
            **SETTINGS,
            "task": {"family": "images", "root": str(make_store((8, 8, 1), 6, 6)), "way": 3, "shot": 1, "query": 1},
            "model": {"name": "conv4", "channels": 4, "blocks": 2},
        },
        tmp_path,
    )
    pixels = np.zeros((1, 3, 8, 8, 1), np.uint8)
    given = {"support_inputs": pixels, "support_targets": np.array([[0, 1, 2]]), "query_inputs": pixels}
    expected = images.predict(given).tolist()
    whole = {
        "support_inputs": pixels.tolist(),
        "support_targets": pd.Series([0, 1, 2]),
        "query_inputs": pixels.tolist(),
    }
    assert images.predict(whole).tolist() == expected
    with pytest.raises(MlflowException, match="expected whole numbers that uint8 holds, received 300 to 300"):
        images.predict(given | {"query_inputs": np.full((1, 3, 8, 8, 1), 300)})
    with pytest.raises(MlflowException, match=r"support_targets \[T, S\] int64: received float64"):
        images.predict(given | {"support_targets": np.array([[0.0, 1.0, 2.0]])})

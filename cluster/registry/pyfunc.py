"""A registered model as MLflow keeps it: the package, the code that serves it, signature, example and requirements."""

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ParamSchema, ParamSpec, Schema, TensorSpec
from numpy.typing import NDArray

from cluster.registry.adapting import Adaptable
from cluster.registry.fields import smallest

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

PACKAGE = "run"  # name of the package among the artifacts
NEEDED = ("metaray", "mlflow", "torch")  # the first brings what else it takes
CODE = Path(__file__).with_name("served.py")


def save(path: Path, logged: "LoggedModel", *, package: Path, model: Adaptable) -> None:
    """Write what is uploaded as the logged model ``logged`` into a new folder.

    Args:
        path: the folder to make.
        logged: MLflow's entry for it.
        package: folder of the package, named :data:`PACKAGE`.
        model: the same, loaded.
    """
    known = Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
        run_id=logged.source_run_id,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about types of MLflow's own chat models
        from mlflow import pyfunc

        save_model = pyfunc.save_model
    save_model(
        str(path),
        python_model=str(CODE),
        artifacts={PACKAGE: str(package)},
        signature=signature_of(model),
        input_example=(example_of(model), {"inner_steps": model.inner_steps, "inner_lr": model.inner_lr}),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in NEEDED],
        mlflow_model=known,
    )


def signature_of(model: Adaptable) -> ModelSignature:
    """Inputs, output and parameters of a model.

    MLflow would refuse float32, lists, tensors and frames: all but arrays of exactly these types. The signature is
    therefore marked as that of a model which checks its inputs itself, as MLflow marks signatures made of type hints.
    """
    steps, lr = ParamSpec("inner_steps", "long", model.inner_steps), ParamSpec("inner_lr", "double", model.inner_lr)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(field.dtype), field.sizes, field.name) for field in model.inputs]),
        outputs=Schema([TensorSpec(np.dtype(model.output.dtype), model.output.sizes)]),
        params=ParamSchema([steps, lr]),
    )
    signature._is_signature_from_type_hint = True
    return signature


def example_of(model: Adaptable) -> dict[str, NDArray[Any]]:
    """The smallest input that a model takes."""
    return smallest(model.inputs, model.inner_steps)

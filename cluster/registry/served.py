"""The code that MLflow keeps beside a registered model and runs to load it («models from code»)."""

from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray

try:
    from cluster.errors import MetarayError
    from cluster.registry.adapting import Adaptable
    from cluster.registry.loading import load_adaptable
except ImportError as error:
    raise ImportError(f"expected the package metaray to be installed where its models are loaded: {error}") from error


class Adaptive:
    """Adapts to tasks and predicts, by the names and shapes of the model's signature."""

    model: Adaptable

    def load_context(self, context: Any) -> None:
        """Load the model; MLflow goes by the argument's name."""
        self.model = load_adaptable(Path(context.artifacts["run"]))

    # MLflow would take an annotation of the input for another signature.
    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> NDArray[Any]:  # type: ignore[no-untyped-def]
        """Predictions after adaptation.

        Args:
            context: MLflow's, not used.
            model_input: arrays by name.
            params: ``inner_steps`` and ``inner_lr``; the model's own where they are left out.

        Raises:
            MlflowException: if the input cannot be used; a server answers with it.
        """
        del context
        settings = params or {}
        inner_steps = settings.get("inner_steps", self.model.inner_steps)
        inner_lr = settings.get("inner_lr", self.model.inner_lr)
        try:
            return self.model.predict(model_input, inner_steps, inner_lr)
        except (ValueError, MetarayError) as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


class Served(Adaptive, PythonModel):
    """The same to MLflow, which warns of methods without annotations in the class itself."""


set_model(Served())

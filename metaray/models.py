"""Trained models that adapt to a task of the caller's own and predict."""

import dataclasses
import html
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.config.schema import Config
from cluster.errors import MetarayError
from cluster.registry.adapting import without_recomputation
from cluster.registry.models import AdaptableModel
from cluster.registry.package import Package
from cluster.setups.base import DTYPES
from cluster.setups.episodes import build_algorithm
from meta.algorithms import context_of
from meta.context import Context
from meta.episode import Examples
from meta.inputs import Inputs, each, names_of, of_parts, parts
from meta.params import Params
from metaray.data import Pair, examples, inputs_of
from metaray.evaluations import Evaluation, in_html
from metaray.networks import adapted_network, trained_network
from tasks.environments.contract import EnvironmentSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.table import Table


class LoadedModel(ABC):
    """θ with the method that adapts it, and its held-out scores.

    Attributes:
        name: the address or the run's name.
        config: the configuration that it was trained with.
    """

    def __init__(self, name: str, config: Config) -> None:
        """Name it; θ is read when it is first used."""
        self.name, self.config = name, config

    @property
    @abstractmethod
    def package(self) -> Package:
        """θ, configuration and the family's spec."""

    @abstractmethod
    def scores(self) -> Evaluation | None:
        """Returns the held-out scores that are kept with it; None if there are none yet."""

    @property
    def evaluation(self) -> Evaluation:
        """The held-out scores that are kept with it.

        Raises:
            MetarayError: if there are none yet.
        """
        scores = self.scores()
        if scores is None:
            raise MetarayError(
                f"expected held-out scores with {self.name}, found none; score it with metaray.evaluate, or go on with "
                "its training: metaray.train(resume=…)"
            )
        return scores

    @property
    def theta(self) -> Params:
        """The meta-parameters θ by name."""
        return self.package.params

    @property
    def module(self) -> nn.Module:
        """A new module with θ, in evaluation mode: of your own class, where the model is one.

        Raises:
            MetarayError: if the method's θ is not the parameters of its model.
        """
        return trained_network(self._algorithm, self.theta)

    def adapt(self, support: Pair, steps: int | None = None, lr: float | None = None) -> "AdaptedModel":
        """Adapts to one task by its support examples.

        Args:
            support: (inputs [S, ...], targets [S, ...]), tensors or arrays; inputs are a dictionary where they are
                several. Images are floating-point numbers [S, C, H, W] in [0, 1], as the family draws them, or
                uint8 [S, H, W, C], as files are.
            steps: inner steps; by default those at which θ was selected.
            lr: α; by default the configuration's.

        Returns:
            What predicts for the task.

        Raises:
            MetarayError: if the model is a policy.
            ValueError: if an example is of another shape or type.
        """
        if isinstance(self.package.spec, EnvironmentSpec):
            raise MetarayError(
                f"adapt: expected a model of drawn tasks, {self.name} is a policy, which adapts to its own rollouts; "
                "register it and use mlflow.pyfunc or metaray serve (docs/registry.md)"
            )
        steps = self.config.select_steps if steps is None else steps
        return AdaptedModel(self, support, steps, self.config.inner.lr if lr is None else lr)

    @cached_property
    def _algorithm(self) -> Any:
        return build_algorithm(without_recomputation(self.config), self.package.spec)

    def table(self) -> "Table":
        """Returns the table of held-out scores."""
        return self.evaluation.table()

    def plot(self) -> "Figure":
        """Returns the figure of held-out scores against inner steps."""
        return self.evaluation.plot()

    def to_pandas(self) -> "DataFrame":
        """Returns the held-out scores."""
        return self.evaluation.to_pandas()

    def __repr__(self) -> str:
        """Name, method, family, model."""
        config = self.config
        return (
            f"{type(self).__name__}('{self.name}', {config.algorithm.name} on {config.task.family}, model "
            f"{config.model.name})"
        )

    def _repr_html_(self) -> str:
        scores = self.scores()
        return f"<p>{html.escape(repr(self))}</p>" if scores is None else in_html(repr(self), scores.to_pandas())


class AdaptedModel:
    """A model adapted to one task; it is computed when it is asked.

    Attributes:
        steps: inner steps.
        lr: α.
    """

    def __init__(self, model: LoadedModel, support: Pair, steps: int, lr: float) -> None:
        """Check the support examples.

        Raises:
            ValueError: if one is of another shape or type.
        """
        self._model, self.steps, self.lr = model, steps, lr
        self._support = examples(support, "support")
        self._adaptable = AdaptableModel(self._package)
        first = each(lambda one: one[:1], self._support.inputs)
        self._adaptable.check(self._arrays(first), steps, lr)

    @property
    def _package(self) -> Package:
        """The package, taking images as the support has them."""
        package = self._model.package
        stored = package.pixels and self._support.tensor.dtype == torch.uint8
        return dataclasses.replace(package, pixels=stored)

    def predict(self, query: Any) -> Tensor:
        """Returns values, or the probabilities of the classes, for inputs of the task, [Q, N].

        Args:
            query: inputs [Q, ...] as those of the support, a dictionary where they are several.

        Raises:
            ValueError: if an input is of another shape or type, or adaptation diverges.
        """
        arrays = self._arrays(inputs_of(query))
        predictions = self._adaptable.predict(arrays, self.steps, self.lr)
        return torch.from_numpy(predictions[0])

    @property
    def module(self) -> nn.Module:
        """A new module with the adapted parameters, in evaluation mode: of your own class, where the model is one.

        Its outputs are the model's: values, or logits of the classes. Inputs are as the family draws them.

        Raises:
            MetarayError: if the method adapts no parameters.
        """
        algorithm, dtype = self._model._algorithm, DTYPES[self._model.config.dtype]
        now = context_of(algorithm, None, dtype)
        if "lr" in now.numbers:
            now = Context({**now.numbers, "lr": torch.tensor(self.lr, dtype=dtype)})
        return adapted_network(algorithm, self._model.theta, self._drawn(dtype), self.steps, now)

    def _drawn(self, dtype: torch.dtype) -> Examples:
        """The support as the family draws it."""
        inputs, targets = self._support
        if self._package.pixels:
            inputs = self._support.tensor.movedim(-1, -3).to(torch.float32) / 255
        specs = self._package.spec.tensors
        names = names_of(inputs)
        kinds = [getattr(torch, specs[name].dtype) for name in names or ("",)]
        drawn = [one.to(dtype if kind is torch.float else kind) for one, kind in zip(parts(inputs), kinds, strict=True)]
        by_class = self._package.spec.objective == "cross_entropy"
        return Examples(of_parts(drawn, names), targets.to(torch.int64 if by_class else dtype))

    def _arrays(self, query: Inputs) -> dict[str, Any]:
        """One task's arrays by the names that registered models take."""
        values = {"support_targets": self._support.targets}
        for half, inputs in (("support", self._support.inputs), ("query", query)):
            names = names_of(inputs) or ("inputs",)
            values |= {f"{half}_{name}": one for name, one in zip(names, parts(inputs), strict=True)}
        return {name: np.asarray(value.detach().cpu())[None] for name, value in values.items()}

    def __repr__(self) -> str:
        """Examples, inner steps, α and the model."""
        return (
            f"AdaptedModel({len(self._support.targets)} examples, steps={self.steps}, lr={self.lr:g}, {self._model!r})"
        )

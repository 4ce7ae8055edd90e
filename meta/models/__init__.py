"""Models as pure functions of a parameter dictionary."""

from meta.models.base import Model
from meta.models.mlp import MLP
from meta.models.module import TorchModel

__all__ = ["MLP", "Model", "TorchModel"]

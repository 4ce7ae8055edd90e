"""Models as pure functions of a parameter dictionary."""

from meta.models.base import Model
from meta.models.conv import Conv4, ResNet12
from meta.models.mlp import MLP
from meta.models.module import TorchModel
from meta.models.norm import BatchNorm, NormalisedModel

__all__ = ["MLP", "BatchNorm", "Conv4", "Model", "NormalisedModel", "ResNet12", "TorchModel"]

"""Meta-learning algorithms: what is differentiated in training, and how a task is adapted to.

Each is written for one task; the engine runs it over a batch of tasks. An algorithm of your own is a class
with these methods, named in the configuration by its import path.
"""

from meta.algorithms.answers import answers_of
from meta.algorithms.base import Algorithm, Gradient, Metrics, context_of, gradient_of, noise_size
from meta.algorithms.baselines import Oracle, Pretrain
from meta.algorithms.cavia import CAVIA
from meta.algorithms.maml import MAML, FirstOrderMAML, batch_norm_of
from meta.algorithms.mamlpp import MAMLPlusPlus
from meta.algorithms.protomaml import ProtoMAML
from meta.algorithms.protonet import ProtoNet
from meta.algorithms.r2d2 import RidgeHead
from meta.algorithms.reptile import Reptile
from meta.algorithms.ridge import Ridge
from meta.algorithms.unicorn import UnicornMAML
from meta.algorithms.without_steps import WithoutSteps

__all__ = [
    "CAVIA",
    "MAML",
    "Algorithm",
    "FirstOrderMAML",
    "Gradient",
    "MAMLPlusPlus",
    "Metrics",
    "Oracle",
    "Pretrain",
    "ProtoMAML",
    "ProtoNet",
    "Reptile",
    "Ridge",
    "RidgeHead",
    "UnicornMAML",
    "WithoutSteps",
    "answers_of",
    "batch_norm_of",
    "context_of",
    "gradient_of",
    "noise_size",
]

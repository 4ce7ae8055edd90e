"""What both kinds of set-up have: the configuration, and what follows from it alone."""

from dataclasses import dataclass

import torch

from cluster.config.schema import Config
from meta.engine.strategies import Limits
from meta.params import Layout


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Configuration, layout of θ, names of the parameters that the outer loop leaves alone, type, device and seed."""

    config: Config
    layout: Layout
    frozen: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device
    seed: int

    @property
    def limits(self) -> Limits:
        """What an engine may take of the machine."""
        return Limits(threads=self.config.cluster.threads, memory=int(self.config.cluster.memory * 1e6))

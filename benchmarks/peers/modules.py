"""Our models as ``torch.nn.Module``, as other libraries want them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from typing import Any, cast

from torch import Tensor, nn

from benchmarks.competitor import LeftOut, Option, Prepared, torch_options
from benchmarks.peers.loop import collected
from benchmarks.suites import Work
from meta.episode import Episode, Examples
from meta.objectives import Measure
from meta.params import Params


class _Part(nn.Module):
    """A holder of parameters; a class of its own since ``higher`` cannot patch ``nn.Module`` itself."""


class Network(nn.Module):
    """A model of ours with parameters of its own, under the same names.

    They are looked up as attributes at every call: libraries replace them by the adapted ones.
    """

    def __init__(self, work: Work) -> None:
        """Copy the weights of ``work``."""
        super().__init__()
        self._apply_model: Callable[[Params, Tensor], Tensor] = work.model.apply
        self._names = tuple(work.params)
        for name, value in work.params.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, _Part())
                owner = getattr(owner, part)
            owner.register_parameter(last, nn.Parameter(value.clone()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of the model under the parameters at hand."""
        params = {name: self._parameter(name) for name in self._names}
        return self._apply_model(params, inputs)

    def _parameter(self, name: str) -> Tensor:
        parameter: Any = reduce(getattr, name.split("."), self)
        return cast(Tensor, parameter)


@dataclass(frozen=True)
class ModuleLibrary:
    """A library that adapts ``torch.nn.Module``: one task after another, gradients collected in the parameters."""

    name: str

    def options(self, work: Work, threads: int) -> list[Option]:
        """One thread and all of them."""
        return torch_options(work, threads)

    def prepare(self, work: Work, option: Option) -> Prepared:
        """Wrap the model."""
        del option
        try:
            library = import_module(self.name)
        except ImportError as error:
            raise LeftOut(f"not installed ({error})") from error
        network = Network(work)
        descend = self.task(library, network, work)
        tasks = work.tasks()

        def run() -> Params:
            network.zero_grad(set_to_none=True)
            for episode in tasks:
                descend(episode)
            return collected(dict(network.named_parameters()))

        return Prepared(run=run)

    def task(self, library: Any, network: Network, work: Work) -> Callable[[Episode], None]:
        """A function that adds one task's meta-gradient to those of the network's parameters.

        Args:
            library: the imported module.
            network: the model as a module.
            work: to be done.
        """
        raise NotImplementedError


def loss_of(network: Any, measure: Measure, examples: Examples) -> Tensor:
    """The loss of a network on examples, a scalar.

    Args:
        network: a module.
        measure: (outputs, targets) -> loss.
        examples: of one task.
    """
    return measure(network(examples.inputs), examples.targets)

"""Adapted weights as a file: state_dict, safetensors, or a program of torch.export."""

import io
from pathlib import Path

import torch
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn

from cluster.errors import ConfigError
from cluster.registry.models import AdaptableModel
from cluster.runs.storage import write_file
from meta.inputs import Inputs, each, length
from meta.params import Params

FORMS = (".pt", ".safetensors", ".pt2")


class _Adapted(nn.Module):
    """The network with a task's own parameters; it gives what a registered model answers."""

    def __init__(self, model: AdaptableModel, params: Params) -> None:
        super().__init__()
        self._model, self._names = model, list(params)
        self._values = nn.ParameterList([nn.Parameter(value, requires_grad=False) for value in params.values()])

    def forward(self, inputs: Inputs) -> Tensor:
        """Predictions [B, …] for inputs [B, …], or for a dictionary of several."""
        params = dict(zip(self._names, self._values, strict=True))
        return self._model.objective.predictions(self._model.network.apply(params, inputs))


def require_form(path: Path | None) -> None:
    """Check the ending of the file of weights, before anything is computed.

    Raises:
        ConfigError: if it is another than those of :data:`FORMS`.
    """
    if path is not None and path.suffix.lower() not in FORMS:
        raise ConfigError(
            f"--save: expected a file that ends in {', '.join(FORMS)} (state_dict, safetensors, torch.export), "
            f"received '{path}'"
        )


def save(path: Path, model: AdaptableModel, params: Params, example: Inputs) -> None:
    """Write adapted parameters whole or not at all.

    Args:
        path: the file; its ending says which form.
        model: names the network.
        params: the network's parameters, adapted to a task.
        example: inputs [B, …] as the network takes them, for a program; any other number of them will do.
    """
    values = {name: value.detach().contiguous() for name, value in params.items()}
    if path.suffix.lower() == ".safetensors":
        write_file(path, as_safetensors(values))
        return
    data = io.BytesIO()
    if path.suffix.lower() == ".pt":
        torch.save(values, data)
    else:
        # An example of one input would make the program one for single inputs.
        inputs = example if length(example) > 1 else each(lambda one: torch.cat([one, one]), example)
        sizes = {0: torch.export.Dim("batch", min=1)}
        batch = (dict.fromkeys(inputs, sizes) if isinstance(inputs, dict) else sizes,)
        program = torch.export.export(_Adapted(model, values), (inputs,), dynamic_shapes=batch)
        torch.export.save(program, data)
    write_file(path, data.getvalue())

"""A value network as reward baseline, fitted to one task's rollouts from a fixed start: a pure function of them."""

import torch
from torch import Tensor
from torch.func import grad

from meta.models.mlp import MLP

HIDDEN = (32, 32)
STEPS = 80
RATE = 0.02
DECAY = (0.9, 0.999)


def value_network(observations: Tensor, targets: Tensor, taken: Tensor) -> Tensor:
    """Returns values [N, H + 1] of observation and time, by a small network fitted to the targets.

    Inputs and targets are standardised over the steps taken; then a fixed number of full-batch steps of Adam
    (Kingma and Ba 2015) from weights drawn under seed 0 minimise the squared error.

    Args:
        observations: one task's, [N, H + 1, O].
        targets: returns to go, [N, H].
        taken: mask of the steps before the end of a trajectory, bool [N, H].
    """
    device, dtype = observations.device, observations.dtype
    time = torch.linspace(-1, 1, observations.shape[1], dtype=dtype, device=device).expand(len(observations), -1)
    inputs = torch.cat([observations, time[..., None]], dim=-1)
    rows, goals = inputs[:, :-1][taken], targets[taken]
    centre, spread = rows.mean(dim=0), rows.std(dim=0, correction=0)
    spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))  # a number that never changes tells nothing
    middle, scale = goals.mean(), goals.std(correction=0) + 1e-6
    network = MLP(inputs=(rows.shape[1],), outputs=1, hidden=HIDDEN, activation="tanh", init_std=None)
    drawn = network.init(torch.Generator().manual_seed(0), dtype)
    params = {name: value.to(device) for name, value in drawn.items()}
    rows, goals = (rows - centre) / spread, (goals - middle) / scale

    def loss(params: dict[str, Tensor]) -> Tensor:
        return (network.apply(params, rows).squeeze(-1) - goals).square().mean()

    first = {name: torch.zeros_like(value) for name, value in params.items()}
    second = {name: torch.zeros_like(value) for name, value in params.items()}
    for step in range(1, STEPS + 1):
        for name, slope in grad(loss)(params).items():
            first[name] = DECAY[0] * first[name] + (1 - DECAY[0]) * slope
            second[name] = DECAY[1] * second[name] + (1 - DECAY[1]) * slope.square()
            mean, square = first[name] / (1 - DECAY[0] ** step), second[name] / (1 - DECAY[1] ** step)
            params[name] = params[name] - RATE * mean / (square.sqrt() + 1e-8)
    predictions = network.apply(params, ((inputs - centre) / spread).flatten(0, 1)).view(inputs.shape[:-1])
    return middle + scale * predictions

"""A module adapted to one task."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cluster.errors import DivergedError
from meta.algorithms import MAML
from meta.context import context
from meta.episode import Examples
from meta.inner import EVERY, InnerRule
from meta.inputs import each
from meta.params import Params
from metaray.data import Pair, examples
from metaray.parts import (
    InnerSettings,
    Loss,
    algorithm_of,
    is_finite,
    model_of,
    objective_of,
    require_numbers,
    theta_of,
)


def adapt(
    module: nn.Module,
    loss: Loss,
    support: Pair,
    steps: int = 1,
    lr: float = 0.01,
    *,
    rule: str | InnerRule = "sgd",
    patterns: Sequence[str] = EVERY,
) -> nn.Module:
    """Returns a copy of a module, adapted to one task by inner steps on its support examples.

    θ'_0 = θ,  θ'_{j+1} = rule(∇L(θ'_j; support), θ'_j)  (Finn et al. 2017, eq. 1, repeated)

    Random layers are off while it adapts, as in ``metaray evaluate``. The module itself stays as it is.

    Args:
        module: any module with one tensor as output, and as input one, or several by keyword.
        loss: a name, ``mse`` or ``cross_entropy``, or a function (outputs [B, ...], targets [B, ...]) -> scalar.
        support: (inputs [B, ...], targets [B, ...]), tensors or arrays of one task; inputs may be a dictionary.
        steps: inner steps.
        lr: α, their step size.
        rule: of the inner steps: ``sgd``, ``momentum``, ``adam``, ``module:Name``, or an object.
        patterns: of the names of the parameters that move; ``("head.*",)`` moves a head alone.

    Returns:
        A module of the same class, in the same modes, with the adapted parameters.

    Raises:
        ValueError: if an argument is none of these.
        DivergedError: if adapted parameters are not finite.

    >>> module = nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 10)[:, None]
    >>> line = adapt(module, "mse", (x, 2 * x + 1), steps=200, lr=0.3)
    >>> round(line.weight.item(), 3), round(line.bias.item(), 3)
    (2.0, 1.0)
    """
    require_numbers(steps, lr)
    params = theta_of(module)
    model = model_of(module)
    settings = InnerSettings(steps=steps, rule=rule, derivative="first_order", adapt=tuple(patterns))
    algorithm = algorithm_of(model, params, objective_of(loss), settings)
    adapted = _adapted(algorithm, params, examples(support, "support"), steps, lr)
    own = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            parameter.copy_(adapted[name])
            parameter.grad = None
    return own


def _adapted(algorithm: MAML, params: Params, support: Examples, steps: int, lr: float) -> Params:
    example = next(iter(params.values()))

    def placed(half: Tensor) -> Tensor:
        return half.to(device=example.device, dtype=example.dtype if half.is_floating_point() else half.dtype)

    inputs, targets = each(placed, support.inputs), placed(support.targets)
    now = context({"lr": lr}, example.dtype, example.device)
    *_, (adapted, _) = algorithm.path(params, Examples(inputs, targets), steps, now)
    if not is_finite(list(adapted.values())):
        raise DivergedError(
            f"expected finite parameters after {steps} inner steps, received NaN or infinity; lower lr ({lr:g}) or "
            "steps, or scale the inputs"
        )
    return adapted

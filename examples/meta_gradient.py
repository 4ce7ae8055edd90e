"""Meta-train a network on sine curves in a training loop of one's own, and adapt it to a new curve.

No Ray, no configuration; docs/python.md says what else the functions take.

    python examples/meta_gradient.py 2000
"""

import sys

import torch
from torch import Tensor, nn

import metaray

POINTS, TASKS = 10, 25
LR = 0.01  # α

Pair = tuple[Tensor, Tensor]


def sine_task(generator: torch.Generator) -> tuple[Pair, Pair]:
    """Returns support and query points [B, 1] of a curve a · sin(x - b) (Finn et al. 2017, 5.1)."""
    amplitude = 0.1 + 4.9 * torch.rand((), generator=generator)
    phase = torch.pi * torch.rand((), generator=generator)
    support, query = 10 * torch.rand(2, POINTS, 1, generator=generator) - 5
    return (support, amplitude * torch.sin(support - phase)), (query, amplitude * torch.sin(query - phase))


def main(steps: int) -> None:
    """Trains for a number of outer steps, then prints the mean error on 100 new curves by number of inner steps.

    Args:
        steps: outer steps.
    """
    module = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        episodes = [sine_task(generator) for _ in range(TASKS)]
        outer = metaray.meta_gradient(module, "mse", episodes, lr=LR)
        optimizer.zero_grad()
        outer.loss.backward()
        optimizer.step()
        if (step + 1) % 500 == 0:
            print(f"step {step + 1}: loss {outer.loss.item():.3f}", file=sys.stderr)
    tests = [sine_task(generator) for _ in range(100)]
    for inner_steps in (0, 1, 10):
        errors = []
        for support, (query, targets) in tests:
            adapted = metaray.adapt(module, "mse", support, steps=inner_steps, lr=LR)
            errors.append(nn.functional.mse_loss(adapted(query), targets).item())
        print(f"{inner_steps} inner steps: {sum(errors) / len(errors):.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("expected the number of outer steps: python examples/meta_gradient.py 2000")
    torch.manual_seed(0)
    main(int(sys.argv[1]))

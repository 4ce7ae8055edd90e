"""Losses of the first outer steps, kept in ``tests/golden``: a change that moves them is not a refactoring.

To renew them on purpose: ``python tests/unit/test_golden.py``.
"""

import json
from pathlib import Path

import pytest

from cluster.config.schema import parse
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.workers.messages import gradient_requests
from cluster.workers.worker import Worker
from helpers.learning import update
from meta.reduce import tree_sum

GOLDEN = Path(__file__).parents[1] / "golden" / "sinusoid_losses.json"
ALGORITHMS = ("maml", "fomaml", "pretrain", "oracle")
STEPS = 20


def losses(algorithm: str) -> list[float]:
    """Mean query loss of each of the first steps, in float64."""
    config = parse(
        {
            "task": {"family": "sinusoid"},
            "model": {"name": "mlp", "init_std": None},
            "inner": {"lr": 0.01, "steps": 2},
            "outer": {"lr": 0.01, "steps": STEPS},
            "meta_batch": 10,
            "shard": 4,
            "algorithm": algorithm,
            "dtype": "float64",
        }
    )
    setup, worker = build(config), Worker(build(config))
    learner = Learner(config.outer, setup.layout, setup.initial_params())
    found = []
    for step in range(STEPS):
        requests = gradient_requests(step, config.meta_batch, config.shard_size)
        replies = [worker.run(request, learner.theta) for request in requests]
        sums = sum(reply.metric_sums[reply.metrics.index("loss")] for reply in replies)
        found.append(float(sums) / config.meta_batch)
        update(learner, tree_sum([reply.gradient for reply in replies]), config.meta_batch)
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_losses_are_the_golden_ones(algorithm):
    golden = json.loads(GOLDEN.read_text())[algorithm]
    # Other processors add in other orders; twenty steps let that grow to no more than this.
    assert losses(algorithm) == pytest.approx(golden, rel=1e-9)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: losses(name) for name in ALGORITHMS}, indent=1) + "\n")

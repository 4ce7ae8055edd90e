"""A training whose workers are lost for good: its last whole step is saved, and a resumed run comes to the same θ."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.config.schema import Config, parse
from cluster.errors import ClusterError
from cluster.interrupts import StopFlag
from cluster.runs import checkpoint as checkpoints
from cluster.runs.events import Event, read_events
from cluster.runs.folder import RunFolder
from cluster.setups.build import build
from cluster.training.recorder import Recorder
from cluster.training.run import learn
from cluster.workers.messages import GradientAt, GradientRequest, Reply, Request
from cluster.workers.pool import InlinePool, Ticket
from helpers.folders import make_run
from helpers.learning import Silent

SINUSOID: Mapping[str, Any] = {
    "task": {"family": "sinusoid", "shot": 4, "query": 3},
    "model": {"name": "mlp", "hidden": [8]},
    "inner": {"lr": 0.05, "steps": 1},
    "outer": {"steps": 6, "lr": 0.3},
    "meta_batch": 4,
    "shard": 2,
    "engine": "loop",
    "eval": {"val_tasks": 5, "tasks": 5, "steps": [0, 2]},
    "checkpoint": {"every": 100},
    "tracking": {"every": 1},
    "cluster": {"workers": 0},
}
PPO: Mapping[str, Any] = {
    **SINUSOID,
    "task": {"family": "navigation", "horizon": 4, "trajectories": 3, "scale": 0.1},
    "model": {"name": "gaussian", "hidden": [5]},
    "outer": {"steps": 6, "lr": 0.01, "step": "ppo", "ppo": {"epochs": 3}},
}
LOST_AT = 4


class Losing(InlinePool):
    """A pool in this process whose workers are lost at the first request of a kind in one outer step."""

    def __init__(self, config: Config, kind: type[Request]) -> None:
        super().__init__(build(config))
        self._kind = kind
        self._lost = False

    def gather(self, ticket: Ticket) -> Iterator[Reply]:
        first = ticket.requests[0]
        if self._lost or (isinstance(first, self._kind) and first.step == LOST_AT):
            self._lost = True
            self.events.append(Event(kind="worker lost", text="worker 0 was lost", seconds=2.5, step=LOST_AT))
            raise ClusterError("lost 3 workers")
        return super().gather(ticket)

    def poll(self) -> None:
        if not self._lost:
            super().poll()


def train(config: Config, folder: RunFolder, pool: InlinePool) -> str:
    setup = build(config)
    recorder = Recorder(config, setup, folder, pool, Silent())
    saved = checkpoints.newest(folder.checkpoints)
    return learn(pool, config, setup, recorder, saved, StopFlag()).fingerprint


def begun(config: Config, path: Path) -> RunFolder:
    return make_run(config, "run", build(config).choice, path)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        pytest.param(SINUSOID, GradientRequest, id="sinusoid"),
        pytest.param(PPO, GradientRequest, id="ppo"),
        pytest.param(PPO, GradientAt, id="between_two_steps_of_the_optimizer"),
    ],
)
def test_the_last_whole_step_is_saved_and_leads_to_the_same_bits(tmp_path, raw, kind):
    config = parse(raw)
    undisturbed = train(config, begun(config, tmp_path / "whole"), InlinePool(build(config)))
    folder = begun(config, tmp_path / "lost")
    with pytest.raises(ClusterError, match=r"^lost 3 workers; the state after step 4 of 6 is saved; go on .* --resume"):
        train(config, folder, Losing(config, kind))
    assert [event.kind for event in read_events(folder.events_path)] == ["worker lost"]
    records = [json.loads(line)["values"] for line in folder.metrics_path.read_text().splitlines()]
    assert [values for values in records if "cluster/failures" in values] == [
        {"cluster/failures": 1, "cluster/seconds_lost": 2.5}
    ]
    saved = checkpoints.newest(folder.checkpoints)
    assert saved is not None
    assert saved.step == LOST_AT
    assert train(config, folder, InlinePool(build(config))) == undisturbed


def test_a_validation_that_nobody_can_finish_is_named(tmp_path, monkeypatch):
    config = parse({**SINUSOID, "eval": {**SINUSOID["eval"], "every": LOST_AT}})
    folder = begun(config, tmp_path / "lost")
    monkeypatch.setattr(Losing, "poll", lambda pool: None)
    pool = Losing(config, GradientRequest)
    monkeypatch.setattr(pool, "gather", _without_validation(pool))
    with pytest.raises(ClusterError, match="step 4 of 6 is saved, without the validation of step 4"):
        train(config, folder, pool)
    saved = checkpoints.newest(folder.checkpoints)
    assert saved is not None
    assert saved.step == LOST_AT


def _without_validation(pool: Losing) -> Any:
    """Gathers as the pool does, computing no more than what is asked for."""
    gather = pool.gather

    def gathered(ticket: Ticket) -> Iterator[Reply]:
        while not ticket.complete and ticket.requests[0].step < LOST_AT:
            InlinePool.poll(pool)
        return gather(ticket)

    return gathered

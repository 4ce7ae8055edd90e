"""What fails before the first outer step, and leaves nothing behind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cluster.config.schema import Config, parse
from cluster.errors import ConfigError, EngineError
from cluster.runs.engine import with_engine_of
from cluster.setups.build import build
from cluster.training.preflight import require_path, try_workers
from cluster.training.start import resume, slower
from cluster.workers.pool import InlinePool
from helpers.folders import new_run
from meta.algorithms import MAML, Metrics
from meta.context import FIXED, Context
from meta.episode import Episode, Examples
from meta.params import Params
from tasks.sinusoid import Sinusoid

HERE = __name__


class Squeezed(nn.Module):
    def __init__(self, inputs: tuple[int, ...], outputs: int):
        super().__init__()
        self.layer = nn.Linear(inputs[0], outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).squeeze(-1)


class Plain(Squeezed):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Recurrent(nn.Module):
    def __init__(self, inputs: tuple[int, ...], outputs: int):
        super().__init__()
        self.rnn = nn.LSTM(inputs[0], 3, batch_first=True)
        self.head = nn.Linear(3, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x[:, None])[0][:, -1])


class ManyScores(MAML):
    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        return super().scores(params, episode, steps)[:1]


class VectorMetric(MAML):
    def meta_loss(self, params: Params, episode: Episode, context: Context = FIXED) -> tuple[Tensor, Metrics]:
        loss, metrics = super().meta_loss(params, episode)
        return loss, metrics | {"each": torch.zeros(3)}


class Unpredictable(MAML):
    def predict(
        self, params: Params, support: Examples, inputs: Tensor, steps: int, context: Context = FIXED
    ) -> Tensor:
        return super().predict(params, support, inputs, steps, context)[:2]


class RaisesWhenAsked(MAML):
    def predict(
        self, params: Params, support: Examples, inputs: Tensor, steps: int, context: Context = FIXED
    ) -> Tensor:
        raise NotImplementedError("later")


class NoTests(Sinusoid):
    """A family that has no test tasks."""

    def draw_range(self, seed: int, split: Any, tasks: range) -> Episode:
        if split == "test":
            raise LookupError("no test tasks here")
        return super().draw_range(seed, split, tasks)


class OtherQueries(Sinusoid):
    """A family whose validation targets have another shape."""

    def draw_range(self, seed: int, split: Any, tasks: range) -> Episode:
        support, query, description = super().draw_range(seed, split, tasks)
        if split == "val":
            query = Examples(query.inputs, query.targets[:, :2])
        return Episode(support, query, description)


def config(tmp_path: Path, **changes: Any) -> Config:
    raw: dict[str, Any] = {
        "task": {"family": "sinusoid"},
        "model": {"name": f"{HERE}:Plain"},
        "outer": {"steps": 3},
        "meta_batch": 4,
        "cluster": {"workers": 0},
        "eval": {"steps": [0, 1]},
        "checkpoint": {"root": str(tmp_path / "runs")},
        "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    }
    return parse(raw | changes)


@pytest.mark.parametrize("engine", ["auto", "loop", "trace", "vmap", "eager"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": {"name": f"{HERE}:Squeezed"}}, r"outputs \(10,\) and targets \(10, 1\)"),
        ({"algorithm": f"{HERE}:ManyScores"}, r"scores"),
        ({"algorithm": f"{HERE}:VectorMetric"}, r"metric 'each'.*received"),
        (
            {"algorithm": f"{HERE}:Unpredictable"},
            r"predictions of .*outputs \[10, \.\.\.\].*received \(2, 1\)",
        ),
        ({"algorithm": f"{HERE}:RaisesWhenAsked"}, r"predictions of .*NotImplementedError: later"),
        ({"task": {"family": f"{HERE}:NoTests"}}, r"drawing test tasks.*no test tasks here"),
        ({"task": {"family": f"{HERE}:OtherQueries"}}, r"drawing val tasks.*query targets: expected 10"),
    ],
)
def test_what_would_fail_later_fails_first_and_leaves_nothing(
    changes: dict[str, Any], named: str, engine: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named):
        new_run(config(tmp_path, engine=engine, **changes), "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["auto", "loop", "trace", "native"])
@pytest.mark.parametrize("model", ["Plain", "Recurrent"])
def test_what_works_passes(model: str, engine: str, tmp_path: Path) -> None:
    require_path(build(config(tmp_path, model={"name": f"{HERE}:{model}"}, engine=engine)))


def test_an_engine_that_only_other_machines_lack_is_left_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = config(tmp_path, engine="auto")
    folder = new_run(one, "run")
    folder.update_info(engine="native")
    settled = slower(resume(one, folder), EngineError("no compiler on node 3"))
    assert settled.setup.config.engine == folder.info["engine"] == "loop"
    assert "no compiler on node 3" in folder.info["engine_warning"]


def test_an_engine_asked_for_by_name_is_not_left(tmp_path: Path) -> None:
    one = config(tmp_path, engine="loop")
    start = resume(one, new_run(one, "run"))
    with pytest.raises(EngineError, match="no compiler on node 3; give all machines what it needs"):
        slower(start, EngineError("no compiler on node 3"))


def test_without_other_machines_no_worker_is_tried(tmp_path: Path) -> None:
    setup = build(config(tmp_path))
    pool = InlinePool(setup)
    try_workers(pool, setup)
    assert not pool.failures


@pytest.mark.parametrize("engine", ["auto", "loop"])
def test_a_new_run_builds_its_parts_once(tmp_path: Path, engine: str) -> None:
    built = build(config(tmp_path, engine=engine))
    settled = built.under(with_engine_of(new_run(built.config, "run"), built.config))
    assert settled.algorithm is built.algorithm
    assert settled.family is built.family
    inner = built.config.inner.model_copy(update={"recompute": True})
    again = built.under(built.config.model_copy(update={"inner": inner}))
    assert again.algorithm.inner.recompute
    assert not built.algorithm.inner.recompute

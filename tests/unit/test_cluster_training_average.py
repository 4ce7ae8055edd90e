"""The moving average of θ through a run: scored beside θ, chosen, saved, resumed, registered; and docs/outer.md."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cluster.config.overrides import with_overrides
from cluster.config.schema import parse
from cluster.errors import ConfigError
from cluster.evaluation.protocol import protocol, rows
from cluster.evaluation.scores import evaluate_params
from cluster.interrupts import StopFlag
from cluster.registry.package import read_package, write_package
from cluster.reports.figures.scores import learners
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder
from cluster.runs.metrics import held_out_metrics
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.training.preflight import require_optimizer
from cluster.training.recorder import Recorder, Validated
from cluster.training.run import learn
from cluster.workers.open import open_pool
from helpers.folders import new_run
from helpers.learning import Silent

PAGE = (Path(__file__).parents[2] / "docs" / "outer.md").read_text()
RAW: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": 4, "query": 3},
    "model": {"name": "mlp", "hidden": [8], "init_std": None},
    "inner": {"lr": 0.05, "steps": 1},
    "outer": {"steps": 6, "lr": 0.3, "ema": 0.9},  # steps so large that θ is now better, now worse
    "meta_batch": 4,
    "shard": 2,
    "engine": "loop",
    "eval": {"every": 1, "val_tasks": 5, "tasks": 5, "steps": [0, 1], "select_params": "ema"},
    "checkpoint": {"every": 1, "keep": 100},
    "tracking": {"every": 1},
    "cluster": {"workers": 0},
}


class Run:
    """A training in this process, with what it leaves in its folder."""

    def __init__(self, raw: dict[str, Any], path: Path, *overrides: str) -> None:
        self.config = parse(with_overrides(raw, overrides))
        self.setup = build(self.config)
        self.folder = RunFolder(path) if path.exists() else new_run(self.config, "run", path)
        self.validated: list[Validated] = []

    def go(self, until: int | None = None) -> Learner:
        """Train on from the newest checkpoint, until the end or after a step."""
        stop = StopFlag()
        at = Silent(-1 if until is None else until, lambda: setattr(stop, "reason", "a test"))
        with open_pool(self.setup) as pool:
            recorder = Recorder(self.config, self.setup, self.folder, pool, at, self.validated.append)
            saved = checkpoints.newest(self.folder.checkpoints)
            return learn(pool, self.config, self.setup, recorder, saved, stop)

    @property
    def metrics(self) -> dict[str, dict[int, float]]:
        """Records by name and step, without times."""
        found: dict[str, dict[int, float]] = {}
        for line in self.folder.metrics_path.read_text().splitlines():
            record = json.loads(line)
            for name, value in record["values"].items():
                found.setdefault(name, {})[record["step"]] = value
        found.pop("train/steps_per_second", None)
        return found


def test_the_average_is_chosen_by_its_own_scores_and_theta_stands_beside(tmp_path: Path) -> None:
    average, theta = Run(RAW, tmp_path / "a"), Run(RAW, tmp_path / "b", "eval.select_params=theta")
    assert average.go().fingerprint == theta.go().fingerprint
    for number in (0, 1):
        assert average.metrics[f"val/mse_{number}"] == theta.metrics[f"val_ema/mse_{number}"]
        assert average.metrics[f"val_theta/mse_{number}"] == theta.metrics[f"val/mse_{number}"]
    for run in (average, theta):
        scores = run.metrics["val/mse_1"]
        name, best = checkpoints.chosen(run.folder.checkpoints)
        assert name == checkpoints.BEST
        assert best.best == (min(scores.values()), min(scores, key=lambda step: scores[step]))
        own = run.config.eval.select_params
        assert all(torch.equal(value, best.tensors[f"{own}.{key}"]) for key, value in best.params.items())
        assert [one.means[1] for one in run.validated] == list(scores.values())
    assert average.metrics["val/mse_1"] != theta.metrics["val/mse_1"]


def test_a_stopped_run_goes_on_with_the_same_bits_and_records(tmp_path: Path) -> None:
    settings = [
        "outer.optimizer={name: nadam, groups: {output: {patterns: 'layer1.*', lr: 0.01}}}",
        "outer.schedule={name: cosine, warmup: 2}",
        "outer.clip_norm=0.5",
    ]
    straight, stopped = Run(RAW, tmp_path / "a", *settings), Run(RAW, tmp_path / "b", *settings)
    last = straight.go()
    assert stopped.go(until=3).step == 3
    resumed = Run(RAW, tmp_path / "b", *settings)
    assert resumed.go().fingerprint == last.fingerprint
    assert resumed.metrics == straight.metrics
    best = [checkpoints.chosen(run.folder.checkpoints)[1] for run in (straight, resumed)]
    assert best[0].tensors.keys() == best[1].tensors.keys()
    assert all(torch.equal(value, best[1].tensors[key]) for key, value in best[0].tensors.items())
    assert best[0].best == best[1].best


def test_evaluation_and_package_hold_what_is_chosen(tmp_path: Path) -> None:
    run = Run(RAW, tmp_path / "run")
    run.go()
    _, state = checkpoints.chosen(run.folder.checkpoints)
    with open_pool(run.setup) as pool:
        average = evaluate_params(pool, run.config, run.setup, state)
        plain = parse(with_overrides(RAW, ["eval.select_params=theta"]))
        theta = evaluate_params(pool, plain, run.setup, state)
    assert (average["params"], theta["params"]) == ("ema", "theta")
    assert average["beside"] == {"theta": theta["steps"]}
    assert theta["beside"] == {"ema": average["steps"]}
    assert average["steps"] != theta["steps"]
    assert [name for name, _ in rows(theta, "maml")] == ["maml", "ema"] == [name for name, _ in learners(theta, "maml")]
    assert held_out_metrics(theta)["test_ema/mse_1"] == held_out_metrics(average)["test/mse_1"]
    assert any(part.startswith("moving average of the parameters") for part in protocol(average, 1))
    write_package(tmp_path / "package", run.folder, run.setup, state, average)
    params = read_package(tmp_path / "package").params
    assert all(torch.equal(value, state.tensors[f"ema.{name}"]) for name, value in params.items())
    assert params.keys() == run.setup.initial_params().keys()
    # A package is evaluated as a run is, and has one set of parameters.
    _, packaged = checkpoints.chosen(RunFolder(tmp_path / "package").checkpoints)
    with open_pool(run.setup) as pool:
        again = evaluate_params(pool, run.config, run.setup, packaged)
    assert again["steps"] == average["steps"]
    assert "beside" not in again


def test_a_run_without_an_average_has_one_row(tmp_path: Path) -> None:
    run = Run({**RAW, "outer": {"steps": 2}, "eval": {**RAW["eval"], "select_params": "theta"}}, tmp_path / "run")
    run.go()
    assert not any(name.startswith("val_") for name in run.metrics)
    _, state = checkpoints.chosen(run.folder.checkpoints)
    assert state.sets.keys() == {"theta"}


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_configuration_of_the_page_trains(tmp_path: Path) -> None:
    raw = yaml.safe_load(block("yaml"))
    assert set(raw["outer"]) == {"lr", "steps", "optimizer", "schedule", "clip_norm", "ema"}
    small = ["outer.steps=30", "eval.every=10", "eval.val_tasks=4", "eval.tasks=4", "engine=loop", "cluster.workers=0"]
    run = Run(raw, tmp_path / "run", *small)
    learner = run.go()
    assert learner.step == 30
    groups = learner._optimizer._groups
    assert {name: (group["weight_decay"], len(group["params"])) for name, group in groups.items()} == {
        "*": (0.01, 2),
        "biases": (0, 3),
        "output": (0.01, 1),
    }
    assert groups["output"]["lr"] == pytest.approx(0.5 * groups["*"]["lr"])
    assert run.metrics["val_theta/mse_1"].keys() == {10, 20, 30}


@pytest.fixture
def page_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of the page's optimizer."""
    code = block("python")
    assert len(code.splitlines()) <= 30
    (tmp_path / "my_optimizers.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_optimizers:Lion"


def test_the_optimizer_of_the_page_trains_and_goes_on(page_class: str, tmp_path: Path) -> None:
    settings = ["outer.lr=0.01", f"outer.optimizer={page_class}", "outer.optimizer.weight_decay=0.1"]
    straight, stopped = Run(RAW, tmp_path / "a", *settings), Run(RAW, tmp_path / "b", *settings)
    last = straight.go()
    stopped.go(until=2)
    assert Run(RAW, tmp_path / "b", *settings).go().fingerprint == last.fingerprint
    # The first step by hand: the sign of the gradient, after decay.
    one = Learner(straight.config.outer, straight.setup.layout, straight.setup.initial_params())
    before, gradient = torch.from_numpy(one.theta), torch.linspace(-1, 1, straight.setup.layout.size)
    one.descend(gradient.numpy(), 1)
    assert torch.allclose(torch.from_numpy(one.theta), before * (1 - 0.01 * 0.1) - 0.01 * gradient.sign())
    with pytest.raises(ConfigError, match="expected numbers from 0 to below 1"):
        parse(with_overrides(RAW, [*settings, "outer.optimizer.betas=[1, 0.9]"]))
    with pytest.raises(ConfigError, match="unknown key; did you mean 'betas'"):
        parse(with_overrides(RAW, [*settings, "outer.optimizer.beta=0.9"]))


FORGETFUL = '''
import torch


class Forgetful(torch.optim.SGD):
    """Counts its steps where no checkpoint finds the number."""

    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr)
        self.steps = 0

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=group["lr"] / self.steps)
'''


def test_a_class_that_would_not_go_on_as_it_was_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    monkeypatch.syspath_prepend(tmp_path)
    config = parse(with_overrides(RAW, ["outer.optimizer=forgetful:Forgetful"]))
    with pytest.raises(ConfigError, match=r"go on from a saved state with the same bits of θ"):
        require_optimizer(build(config))
    with pytest.raises(ConfigError, match="before the first outer step: optimizer: "):
        new_run(config, "run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_patterns_that_fit_nothing_are_refused_before_the_first_step(tmp_path: Path) -> None:
    config = parse(with_overrides(RAW, ["outer.optimizer.groups.head.patterns=haed.*"]))
    with pytest.raises(
        ConfigError, match=r"outer\.optimizer\.groups\.head\.patterns: .*'haed\.\*' fits none of layer0"
    ):
        new_run(config, "run", tmp_path / "run")

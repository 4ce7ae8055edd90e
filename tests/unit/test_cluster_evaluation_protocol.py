"""Evaluations in one process: scores before adaptation are always there, and kinds of task are told apart."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.config.schema import Config, parse
from cluster.evaluation.scores import evaluate, start, table, task_kinds
from cluster.interrupts import StopFlag
from cluster.runs.folder import plan
from cluster.search.confirm import fresh_tasks
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.training.recorder import Recorder
from cluster.workers.pool import InlinePool
from meta.engine.arithmetic import fix_arithmetic
from meta.engine.choice import Choice
from tasks import FamilyError, TaskKey, check_environment_family, check_family
from tasks.environments.contract import EnvironmentSpec, Numbers
from tasks.environments.gymnasium_tasks import GymnasiumTasks
from tasks.environments.navigation import Navigation
from tasks.family import FamilySpec
from tasks.sinusoid import Sinusoid

GYM = {"family": "gymnasium", "id": "Pendulum-v1", "via": "options", "horizon": 5, "trajectories": 2}


class Silent:
    def update(self, step: int, metrics: object) -> None:
        pass


def acted(**sections: Any) -> Config:
    raw: dict[str, Any] = {
        "task": GYM | {"vary": {"x_init": {"choice": [0.0, 1.5]}, "y_init": [0.9, 1.1]}},
        "model": {"name": "gaussian", "hidden": [8]},
        "outer": {"steps": 2},
        "meta_batch": 2,
        "shard": 2,
        "cluster": {"workers": 0},
        "eval": {"tasks": 20, "val_tasks": 7, "steps": [1, 2], "every": 1},
    }
    return parse(raw | sections)


def drawn(**evaluation: Any) -> Config:
    return parse(
        {
            "task": {"family": "sinusoid", "shot": 5, "query": 5},
            "model": {"name": "mlp", "hidden": [8]},
            "inner": {"lr": 0.5},
            "outer": {"steps": 2},
            "engine": "loop",
            "meta_batch": 2,
            "cluster": {"workers": 0},
            "eval": {"tasks": 60, "val_tasks": 7, "steps": [0, 5, 10]} | evaluation,
        }
    )


def evaluated(config: Config) -> dict[str, Any]:
    fix_arithmetic(threads=1)
    setup = build(config)
    theta = setup.layout.flatten(setup.initial_params()).numpy()
    return evaluate(InlinePool(build(config)), config, setup, theta, split="test")


def test_what_is_asked_for_decides_nothing_about_what_is_found() -> None:
    """``--steps 5,10`` shows what 0, 5 and 10 steps show of 5 and 10, diverged tasks included."""
    whole = evaluated(drawn())
    assert whole["steps"]["5"]["diverged"] > 0
    assert whole["steps"]["10"]["diverged"] > 0
    for steps in ([5, 10], [10], [5]):
        part = evaluated(drawn(steps=steps))["steps"]
        assert part == {str(number): whole["steps"][str(number)] for number in steps}


def test_scores_are_means_over_kinds_and_each_kind_has_its_rows() -> None:
    config = acted()
    found = evaluated(config)
    setup = build(config)
    names = [setup.family.kind_of(TaskKey(0, "test", index)) for index in range(20)]  # type: ignore[union-attr]
    assert set(names) == {"x_init=0", "x_init=1.5"}
    assert found["kind_tasks"] == {name: names.count(name) for name in ("x_init=0", "x_init=1.5")}
    assert list(found["kinds"]["x_init=0"]) == ["1", "2"]
    pool, theta = InlinePool(build(config)), setup.layout.flatten(setup.initial_params()).numpy()
    scores = table(pool.gather(start(pool, config, theta, step=0, split="test", tasks=20, steps=[1, 2])))
    for column, number in enumerate(("1", "2")):
        parts = [scores[[name == kind for name in names], column] for kind in ("x_init=0", "x_init=1.5")]
        means = [part.mean() for part in parts]
        assert [found["kinds"][kind][number]["mean"] for kind in ("x_init=0", "x_init=1.5")] == pytest.approx(means)
        assert found["steps"][number]["mean"] == pytest.approx(np.mean(means))
        assert found["steps"][number]["ci95"] > 0
    assert "kinds" not in evaluated(drawn())


def test_validation_averages_over_kinds_and_records_what_was_asked_for(tmp_path: Path) -> None:
    fix_arithmetic(threads=1)
    config = acted()
    setup, folder = build(config), plan(config, "run", Choice("loop", "", {}), tmp_path / "run")
    folder.settle("config.yaml", config.to_yaml())
    pool, learner = InlinePool(build(config)), Learner(config.outer, setup.layout, setup.initial_params())
    told: list[Any] = []
    meta_train(config, learner, pool, Recorder(config, setup, folder, pool, Silent(), told.append), StopFlag())
    kinds = task_kinds(setup, "val", 7)
    assert kinds is not None
    last = told[-1]
    theta = setup.layout.flatten(last.state.params).numpy()
    scores = table(pool.gather(start(pool, config, theta, step=0, split="val", tasks=7, steps=[1])))[:, 0]
    parts = [scores[kinds.rows(name)].mean() for name in kinds.names]
    assert last.means[1] == pytest.approx(np.mean(parts))
    records = [json.loads(line)["values"] for line in folder.metrics_path.read_text().splitlines()]
    names = {name for values in records for name in values if name.startswith("val/")}
    assert names == {"val/return_1", "val/return_2"}


X, Y = {"x_init": {"choice": [0.5, 1]}}, {"y_init": {"choice": [1, 2]}}


@pytest.mark.parametrize(
    ("vary", "kinds"),
    [
        ({"x_init": [0.5, 1.0]}, ()),
        ({}, ()),
        (X, ("x_init=0.5", "x_init=1")),
        (X | {"y_init": [0.5, 1.0]}, ("x_init=0.5", "x_init=1")),
        (X | Y, tuple(f"x_init={x}, y_init={y}" for x in (0.5, 1) for y in (1, 2))),
        ({"x_init": {"choice": [float(number) for number in range(1, 14)]}}, ()),
    ],
)
def test_choices_of_gymnasium_tasks_are_their_kinds(vary: dict[str, Any], kinds: tuple[str, ...]) -> None:
    family = GymnasiumTasks(**{name: value for name, value in GYM.items() if name != "family"}, vary=vary)
    assert family.spec.kinds == kinds
    chosen = [name for name, form in vary.items() if isinstance(form, dict)]
    for index in range(20 if kinds else 0):
        key = TaskKey(0, "val", index)
        values = family.draw(key)
        assert family.kind_of(key) == ", ".join(f"{name}={values[name]:g}" for name in chosen)


# --- families of one's own ---


class Quadrants(Navigation):
    """Goals on the left and on the right."""

    names: tuple[str, ...] = ("left", "right")

    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(**(vars(super().spec) | {"kinds": ("left", "right")}))

    def kind_of(self, key: TaskKey) -> str:
        goal: Numbers = self.describe([key])
        return self.names[int(goal[0, 0] > 0)]


class Misnamed(Quadrants):
    names = ("left", "elsewhere")


class Unnamed(Navigation):
    @property
    def spec(self) -> EnvironmentSpec:
        return EnvironmentSpec(**(vars(super().spec) | {"kinds": ("left", "right")}))


class Moody(Quadrants):
    def kind_of(self, key: TaskKey) -> str:
        count = vars(type(self)).get("count", 0)
        type(self).count = count + 1  # type: ignore[attr-defined]
        return self.names[count // 3 % 2]


class UnnamedCurves(Sinusoid):
    @property
    def spec(self) -> FamilySpec:
        return FamilySpec(**(vars(super().spec) | {"kinds": ("up", "down")}))


def test_a_family_that_tells_its_kinds_keeps_the_contract() -> None:
    check_environment_family(Quadrants(horizon=4, trajectories=2))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (Misnamed, "kind_of: expected one of spec.kinds, .*received 'elsewhere'"),
        (Unnamed, r"offer kind_of\(key\), Unnamed does not"),
        (Moody, "had other kinds when asked again"),
    ],
)
def test_a_family_that_does_not_tell_them_is_found_out(family: Any, message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        check_environment_family(family(horizon=4, trajectories=2), tasks=5)
    with pytest.raises(FamilyError, match=r"offer kind_of\(key\), UnnamedCurves does not"):
        check_family(UnnamedCurves(shot=5))


# --- fresh tasks of searches ---


class Folder:
    """As much of a search's folder as is asked for fresh tasks."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}
        self.val_tasks = 200

    def run(self, number: int) -> Any:
        return SimpleNamespace(config=SimpleNamespace(eval=SimpleNamespace(val_tasks=self.val_tasks + number)))

    def update_info(self, **values: Any) -> None:
        self.info = json.loads(json.dumps(self.info | values))


def test_finalists_are_chosen_and_tested_on_tasks_that_nobody_has_seen() -> None:
    folder: Any = Folder()
    search: Any = SimpleNamespace(settings=SimpleNamespace(confirm_tasks=600))
    first = fresh_tasks(search, folder, [3, 1, 0])
    assert first == (203, 803)  # behind all validation tasks, and apart
    assert fresh_tasks(search, folder, [0, 1, 3]) == first  # the same look is no new one
    second = fresh_tasks(search, folder, [7, 1, 0])
    assert second == (1403, 2003)
    search.settings.confirm_tasks = 50
    third = fresh_tasks(search, folder, [3, 1, 0])
    assert third == (2603, 2653)
    search.settings.confirm_tasks, folder.val_tasks = 600, 10
    assert fresh_tasks(search, folder, [3, 1, 0]) == first
    assert fresh_tasks(search, folder, [4, 1, 0]) == (2703, 3303)

"""The page for users of RLlib's and garage's MAML: its environment is taken as it is, and its keys exist."""

import enum
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from cluster.config.schema import Config, parse
from cluster.interrupts import StopFlag
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.workers.pool import InlinePool
from tasks import TaskKey, check_environment_family
from tasks.environments.settable import SettableTasks, as_gymnasium, numbers_in

PAGE = (Path(__file__).parents[2] / "docs" / "from_garage_rllib.md").read_text(encoding="utf-8")
SMALL = {"horizon": 4, "trajectories": 3}


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The page's configuration, with its module in place, and smaller."""
    (tmp_path / "my_environments.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    raw = yaml.safe_load(block("yaml"))
    small = {"meta_batch": 4, "shard": 2, "engine": "loop", "cluster": {"workers": 0}}
    return parse({**raw, **small, "task": raw["task"] | SMALL, "outer": raw["outer"] | {"steps": 2}})


class Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def test_the_page_trains(page: Config) -> None:
    setup = build(page)
    assert (setup.family.spec.input_shape, setup.family.spec.outputs) == ((2,), 2)
    learner = Learner(page.outer, setup.layout, setup.initial_params())
    start = learner.fingerprint
    meta_train(page, learner, InlinePool(setup), Silent(), StopFlag())  # type: ignore[arg-type]
    assert learner.step == 2
    assert learner.fingerprint != start


def test_the_pages_environment_keeps_the_contract(page: Config) -> None:
    family = SettableTasks(env=page.task.params["env"], **SMALL)
    check_environment_family(family)  # global generators are among what it watches
    goals = family.describe([TaskKey(0, split, index) for split in ("train", "test") for index in range(20)])
    assert goals.shape == (40, 2)
    assert len(np.unique(goals)) == 80
    assert goals.min() < -0.2 < 0.2 < goals.max()


def test_every_key_of_the_tables_exists() -> None:
    rows = [line.split("|")[2] for line in PAGE.splitlines() if line.startswith("| `")]
    keys = [key for row in rows for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)", row)]
    assert len(keys) > 20
    raw = {"task": {"family": "navigation"}, "model": {"name": "gaussian"}, "outer": {"steps": 1}, "meta_batch": 2}
    for key in keys:
        section, name, *deeper = key.split(".")
        if section in ("task", "model"):
            continue
        value = getattr(getattr(parse(raw), section), name)
        assert not deeper or hasattr(value, deeper[0]), key


class StepType(enum.IntEnum):
    FIRST, MID, TERMINAL, TIMEOUT = range(4)


class EnvStep(NamedTuple):
    """As garage has it."""

    observation: Any
    reward: float
    step_type: StepType


class Garage:
    """garage's interface: two values of a reset, an object of a step; a walk of two steps or until it is cut off."""

    class Discrete:
        n = 2

    class Box:
        low, high = np.zeros(1), np.full(1, 9.0)

    observation_space, action_space = Box(), Discrete()

    def __init__(self, ends: bool = True, form: str = "garage") -> None:
        self.ends, self.form = ends, form

    def sample_tasks(self, num_tasks: int) -> list[float]:
        return [random.random() for _ in range(num_tasks)]

    def set_task(self, task: float) -> None:
        self.task = task

    def reset(self) -> Any:
        self.taken = 0
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        over = self.taken == 2
        seen = np.full(1, float(self.taken))
        if self.form == "five":
            return seen, self.task, over and self.ends, over and not self.ends, {}
        if self.form == "four":
            return seen, self.task, over, {"TimeLimit.truncated": over and not self.ends}
        last = StepType.TERMINAL if self.ends else StepType.TIMEOUT
        return EnvStep(seen, self.task, last if over else StepType.MID)


@pytest.mark.parametrize("form", ["garage", "five", "four"])
@pytest.mark.parametrize("ends", [True, False])
def test_every_form_of_a_step_is_taken(form: str, ends: bool) -> None:
    family = SettableTasks(env=f"{__name__}:Garage", kwargs={"ends": ends, "form": form}, horizon=5, trajectories=1)
    assert (family.spec.discrete, family.spec.outputs, family.spec.description) == (True, 2, 1)
    keys = [TaskKey(0, "val", index) for index in range(2)]
    lockstep = family.start(keys, 0)
    lockstep.reset()
    steps = [lockstep.step(np.zeros((2, 1))) for _ in range(2)]
    assert (steps[0].rewards == family.describe(keys)).all()
    assert not (steps[0].terminated | steps[0].truncated).any()
    assert (steps[1].terminated.all(), steps[1].truncated.all()) == (ends, not ends)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "Point"}, "env: expected an import path 'module:Name' of a class, received 'Point'"),
        ({"env": "no_such_module:Point"}, "env: cannot import 'no_such_module:Point'"),
        ({"env": f"{__name__}:Silent"}, "id: cannot make .*spaces"),
        ({"env": f"{__name__}:StepType", "kwargs": {"value": 1}}, "env: expected sample_tasks and set_task, .* lacks"),
        ({"env": f"{__name__}:Garage", "outside": "ignore"}, "outside: expected 'pass' or 'clip'"),
    ],
)
def test_what_is_no_such_environment_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SettableTasks(**arguments)


def test_spaces_and_tasks_of_other_packages() -> None:
    class Several:
        nvec = np.array([3, 2])

    class Parts:
        spaces = {"one": Garage.Discrete(), "other": Garage.Box()}  # noqa: RUF012

    assert str(as_gymnasium(Several())) == "MultiDiscrete([3 2])"
    assert str(as_gymnasium(Parts())["one"]) == "Discrete(2)"  # type: ignore[index]
    with pytest.raises(ValueError, match="expected spaces like gym's Box"):
        as_gymnasium(3)
    assert numbers_in({"b": [1, (2.0, None)], "a": True, "name": "x"}) == [1.0, 1.0, 2.0]

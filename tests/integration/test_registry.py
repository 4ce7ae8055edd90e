"""The registry with real MLflow: models registered, compared, loaded elsewhere, and taken back when that fails."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import ViewType

from cluster.config.schema import parse
from cluster.config.sections import TrackingConfig
from cluster.errors import CheckpointError, ConfigError, MetarayError
from cluster.evaluation.scores import start, table
from cluster.interrupts import stop_on_signals
from cluster.registry import register as registering
from cluster.registry.client import Contents, Registry
from cluster.registry.evaluate import evaluate_named
from cluster.registry.register import Registered, register
from cluster.runs import checkpoint as checkpoints
from cluster.runs.engine import with_engine_of
from cluster.runs.folder import RunFolder
from cluster.setups.build import build
from cluster.setups.episodes import EpisodeSetup
from cluster.setups.policies import PolicySetup
from cluster.training import run as training
from cluster.training.start import resume
from cluster.workers.open import open_pool
from cluster.workers.rollouts import RolloutWork
from helpers.folders import new_run
from tasks.family import TaskKey, draw_batch

ROOT = Path(__file__).parents[2]
NAVIGATION = {
    "task": {"family": "navigation", "horizon": 6, "trajectories": 4, "scale": 0.1},
    "model": {"name": "gaussian", "hidden": [7]},
    "inner": {"lr": 0.1, "steps": 1},
    "outer": {"steps": 2, "step": "trpo"},
    "eval": {"tasks": 4, "steps": [0, 1]},
}


class Place:
    """A folder with trained runs and the MLflow database that has them."""

    def __init__(self, root: Path, settings: dict[str, Any]) -> None:
        self.root, self._settings = root, settings | {"cluster": {"workers": 0}}
        self.uri = f"sqlite:///{root / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(self.uri, self.uri)

    def train(self, name: str, **sections: Any) -> RunFolder:
        config = parse(self._settings | sections)
        folder = new_run(config, name)
        with stop_on_signals() as stop:
            training.run(resume(config, folder), stop)
        return folder

    def versions(self, name: str) -> list[str]:
        return [str(one.version) for one in self.client.search_model_versions(f"name='{name}'")]

    def everything(self) -> tuple[list[Any], ...]:
        """Whatever a registration makes, as far as MLflow shows it."""
        experiments = [one.experiment_id for one in self.client.search_experiments(ViewType.ALL)]
        models = [(one.name, dict(one.aliases), dict(one.tags)) for one in self.client.search_registered_models()]
        versions = [(one.name, one.version) for one in self.client.search_model_versions()]
        logged = [one.model_id for one in self.client.search_logged_models(experiments)]
        runs = self.client.search_runs(experiments)
        outputs = sorted(one.model_id for run in runs if run.outputs for one in run.outputs.model_outputs)
        return models, versions, logged, outputs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_settings: Callable[[Path], dict[str, Any]]) -> Place:
    root = tmp_path_factory.mktemp("registry")
    return Place(root, small_settings(root))


@pytest.fixture(scope="module")
def weak(place: Place) -> RunFolder:
    return place.train("weak", outer={"steps": 1})


@pytest.fixture(scope="module")
def strong(place: Place) -> RunFolder:
    return place.train("strong", outer={"steps": 300}, inner={"lr": 0.02, "steps": 2}, seed=1)


@pytest.fixture(scope="module")
def policy(place: Place) -> RunFolder:
    return place.train("policy", **NAVIGATION)


@pytest.fixture
def unchanged(place: Place) -> Iterator[None]:
    """Nothing is registered in a test."""
    before = place.everything()
    yield
    assert place.everything() == before


FRESH = """
import sys
import mlflow
import numpy as np

model = mlflow.pyfunc.load_model(sys.argv[1])
given = dict(np.load(sys.argv[2]))
steps = int(given.pop("inner_steps"))
np.save(sys.argv[3], model.predict(given, params={"inner_steps": steps}))
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"ray", "mujoco"}, loaded & {"ray", "mujoco"}
"""


def predicted(address: str, uri: str, given: dict[str, Any], folder: Path) -> np.ndarray:
    """What a registered model predicts in a fresh process elsewhere."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    np.savez(folder / "given.npz", **given)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, address, str(folder / "given.npz"), str(folder / "found.npy")],
        cwd=elsewhere,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: np.ndarray = np.load(folder / "found.npy")
    return found


def best(folder: RunFolder) -> tuple[Any, dict[str, torch.Tensor]]:
    return build(with_engine_of(folder, folder.config)), checkpoints.chosen(folder.checkpoints)[1].params


def episodes_of(folder: RunFolder, tasks: int = 6) -> tuple[dict[str, Any], torch.Tensor]:
    """Test tasks as a caller gives them, and their targets."""
    setup = best(folder)[0]
    drawn = draw_batch(setup.family, setup.seed, "test", range(tasks), torch.float64)
    given = {"support_inputs": drawn.support.inputs, "support_targets": drawn.support.targets}
    given |= {"query_inputs": drawn.query.inputs}
    return {name: tensor.numpy() for name, tensor in given.items()}, drawn.query.targets


def test_a_regressor_adapts_in_a_fresh_process(place: Place, strong: RunFolder, tmp_path: Path):
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow.active_run(), dict(os.environ))
    made = register(strong, "sine", alias="champion")
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow.active_run(), dict(os.environ)) == before
    assert (made.name, made.version, made.promoted, made.difference) == ("sine", 1, True, None)

    given, targets = episodes_of(strong)
    found = predicted("models:/sine@champion", place.uri, given | {"inner_steps": 3}, tmp_path)
    setup, params = best(strong)
    episodes = draw_batch(setup.family, setup.seed, "test", range(6), setup.dtype)
    scores = torch.from_numpy(found).sub(targets).square().mean(dim=(1, 2))
    torch.testing.assert_close(scores.float(), setup.engine.scores(params, episodes, (3,))[:, 0], rtol=1e-4, atol=1e-5)


def test_a_classifier_adapts_where_there_are_no_data(place: Place, make_store: Callable[..., Path], tmp_path: Path):
    store = shutil.copytree(make_store((8, 8, 3), 6, 6), tmp_path / "store")
    run = place.train(
        "images",
        task={"family": "images", "root": str(store), "way": 3, "shot": 2, "query": 2},
        model={"name": "conv4", "channels": 4, "blocks": 2, "batch_norm": "inductive"},
        inner={"lr": 0.4, "steps": 1, "adapt": ["*.weight", "*.bias"]},
        outer={"steps": 2},
    )
    given, targets = episodes_of(run)
    setup, params = best(run)
    episodes = draw_batch(setup.family, setup.seed, "test", range(6), setup.dtype)
    accuracy = setup.engine.scores(params, episodes, (2,))[:, 0]
    register(run, "pictures", alias="champion")
    store.rename(tmp_path / "gone")

    pixels = {
        name: np.round(np.moveaxis(array, -3, -1) * 255).astype(np.uint8) if name.endswith("inputs") else array
        for name, array in given.items()
    }
    found = predicted("models:/pictures/1", place.uri, pixels | {"inner_steps": 2}, tmp_path)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    hits = (torch.from_numpy(found).argmax(dim=-1) == targets).float().mean(dim=1)
    torch.testing.assert_close(hits, accuracy)


def test_a_policy_adapts_in_a_fresh_process(place: Place, policy: RunFolder, tmp_path: Path):
    register(policy, "navigator", alias="champion")
    setup, params = best(policy)
    assert isinstance(setup, PolicySetup)
    keys = [TaskKey(setup.seed, "test", index) for index in range(3)]
    first, second = [rollouts for rollouts, _ in RolloutWork(setup).walk(keys, params, 1, evaluation=True)]
    given = {
        "support_observations": first.observations[:, None],
        "support_actions": first.actions[:, None],
        "support_rewards": first.rewards[:, None],
        "support_lengths": first.taken.sum(axis=-1)[:, None],
        "support_terminated": first.terminated[:, None],
        "query_observations": second.observations[:, 0, :-1],
    }
    found = predicted("models:/navigator@champion", place.uri, given | {"inner_steps": 1}, tmp_path)
    mean, log_std = np.split(second.outputs[:, 0], 2, axis=-1)
    np.testing.assert_allclose(found, np.concatenate([mean, np.exp(log_std)], axis=-1), rtol=1e-4, atol=1e-5)


def scores(folder: RunFolder, like: RunFolder, tasks: int, first: int) -> np.ndarray:
    """Scores of a run's θ after its own inner steps, on test tasks of another run's seed from number ``first`` on."""
    config = with_engine_of(folder, folder.config).model_copy(update={"seed": like.config.seed})
    theta = build(config).layout.flatten(best(folder)[1]).numpy()
    with open_pool(build(config)) as pool:
        steps = (config.inner.steps,)
        ticket = start(pool, config, theta, step=0, split="test", tasks=tasks, steps=steps, first=first)
        return table(pool.gather(ticket))[:, 0]


def test_the_better_one_is_promoted_and_the_worse_one_is_not(place: Place, weak: RunFolder, strong: RunFolder):
    first = register(weak, "duel", if_better=True, tasks=40)
    assert (first.version, first.alias, first.promoted, first.champion) == (1, "champion", True, None)
    assert first.verdict == "promoted to champion: there was none"

    second = register(strong, "duel", if_better=True, tasks=40)
    assert (second.version, second.promoted, second.champion) == (2, True, 1)
    assert second.difference is not None
    assert (second.difference.attempt, second.difference.tasks) == (1, 40)
    gains = scores(weak, strong, 40, second.difference.first) - scores(strong, strong, 40, second.difference.first)
    assert second.difference.mean == pytest.approx(gains.mean())
    half = 2.0226909 * gains.std(ddof=1) / 40**0.5  # Student's t of 39 degrees of freedom
    assert second.difference.ci95 == pytest.approx(half)
    assert gains.mean() > half
    assert dict(place.client.get_registered_model("duel").aliases) == {"champion": 2}

    third = register(weak, "duel", if_better=True, tasks=40)
    assert (third.version, third.promoted, third.champion) == (3, False, 2)
    assert third.verdict is not None
    assert third.verdict.startswith("not promoted to champion, which stays with version 2: mse worse by ")
    equal = register(strong, "duel", if_better=True, tasks=40)
    assert equal.difference is not None
    assert (equal.promoted, equal.difference.mean, equal.difference.ci95) == (False, 0.0, 0.0)
    firsts = [made.difference.first for made in (second, third, equal) if made.difference is not None]
    assert np.diff(firsts).tolist() == [40, 40]  # no attempt looks at tasks that another has seen
    assert third.verdict.endswith(" (comparison 2 of this model)")
    assert min(firsts) >= 1_000_000  # nor at those of evaluations
    assert dict(place.client.get_registered_model("duel").aliases) == {"champion": 2}
    assert sorted(place.versions("duel")) == ["1", "2", "3", "4"]
    assert third.verdict in place.client.get_model_version("duel", "3").description


def test_the_card_and_the_links(place: Place, strong: RunFolder):
    made = register(strong, "carded")
    assert (made.alias, made.promoted) == (None, False)
    version = place.client.get_model_version("carded", "1")
    evaluation = json.loads((strong.path / "evaluation.json").read_text())
    mean = evaluation["steps"]["1"]["mean"]
    assert f"{mean:.4g} ± " in version.description
    assert "10 tasks of the test split" in version.description
    assert version.tags["metaray.theta_sha256"] in version.description
    assert version.tags["metaray.family"] == "sinusoid"
    assert version.run_id == strong.info["mlflow_run_id"]
    run = place.client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    (mine,) = [one.model_id for one in run.outputs.model_outputs if one.model_id in version.source]
    known = place.client.get_logged_model(mine)
    assert (known.status, known.source_run_id) == ("READY", version.run_id)


def test_a_run_that_was_not_evaluated_is_then(place: Place, strong: RunFolder, tmp_path: Path):
    copy = RunFolder(Path(shutil.copytree(strong.path, tmp_path / "copy")))
    (copy.path / "evaluation.json").unlink()
    register(copy, "evaluated_anew")
    register(strong, "evaluated_before")
    cards = [place.client.get_model_version(f"evaluated_{when}", "1").description for when in ("anew", "before")]
    assert cards[0] == cards[1]


def test_a_registered_model_is_evaluated_like_its_run(metaray, finished, place: Place, strong: RunFolder):
    own = json.loads((strong.path / "evaluation.json").read_text())
    status, output, errors = finished(
        metaray("register", str(strong.path), "--name", "measured", "--alias", "good", "--json")
    )
    assert status == 0, errors
    made = json.loads(output)
    assert (made["name"], made["version"], made["alias"], made["promoted"]) == ("measured", 1, "good", True)
    assert made["difference"] is None
    for address in ("models:/measured@good", "models:/measured/1"):
        command = ("evaluate", address, f"tracking.uri={place.uri}", "cluster.workers=0", "--json")
        status, output, errors = finished(metaray(*command))
        assert status == 0, errors
        assert json.loads(output) == own


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("models:/nobody@champion", "expected a model at models:/nobody@champion"),
        ("models:/nobody/7", "expected version 7 of model 'nobody'"),
        ("models:/nobody", "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
    ],
)
def test_models_that_do_not_exist(place: Place, strong: RunFolder, address: str, message: str):
    with pytest.raises(ConfigError, match=message):
        evaluate_named(address, [f"tracking.uri={place.uri}"], "test")


def test_a_database_that_does_not_exist_is_not_made(tmp_path: Path):
    with pytest.raises(ConfigError, match="expected MLflow's database at"):
        evaluate_named("models:/any/1", [f"tracking.uri=sqlite:///{tmp_path / 'none.db'}"], "test")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a/b", "a:b", "", "é@b", "../up", "x" * 201])
def test_illegal_names(weak: RunFolder, unchanged: None, name: str):
    with pytest.raises(ConfigError, match="name: expected letters"):
        register(weak, name)


@pytest.mark.parametrize("alias", ["a b", "latest", "v3", "", "a/b"])
def test_illegal_aliases(weak: RunFolder, unchanged: None, alias: str):
    with pytest.raises(ConfigError, match="alias: expected letters"):
        register(weak, "fine", alias=alias)


def test_runs_that_cannot_be_registered(place: Place, weak: RunFolder, unchanged: None, tmp_path: Path):
    def copy(name: str, **info: Any) -> RunFolder:
        folder = RunFolder(Path(shutil.copytree(weak.path, tmp_path / name)))
        folder.update_info(**info)
        return folder

    empty = copy("empty")
    shutil.rmtree(empty.path / "checkpoints")
    with pytest.raises(CheckpointError, match="expected a checkpoint in"):
        register(empty, "x")
    with pytest.raises(ConfigError, match="has not been sent yet"):
        register(copy("unsent", mlflow_run_id=None), "x")
    with pytest.raises(ConfigError, match=r"expected run 0123456789abcdef0123456789abcdef of .* found none"):
        register(copy("elsewhere", mlflow_run_id="0123456789abcdef" * 2), "x")
    with pytest.raises(ConfigError, match=r"received 'inner.lr=0.1': a run is registered as it was trained"):
        register(weak, "x", overrides=("inner.lr=0.1",))
    lost = copy("lost")
    name, state = checkpoints.chosen(lost.checkpoints)
    tensors = {key: torch.full_like(value, torch.nan) for key, value in state.tensors.items()}
    lost.checkpoints.write(name, checkpoints.encode(dataclasses.replace(state, tensors=tensors)))
    with pytest.raises(
        MetarayError, match="expected a model that can be served, received: expected finite predictions"
    ):
        register(lost, "x")
    with pytest.raises(ConfigError, match="received one of an oracle"):
        register(place.train("oracle", algorithm="oracle", outer={"steps": 1}), "x")


def test_a_registry_that_does_not_answer(weak: RunFolder, unchanged: None):
    with socket.socket() as listener:  # bound, never listening: connections are refused
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(MetarayError, match=f"expected an answer of the MLflow registry at {address}") as caught:
            register(weak, "x", overrides=(f"tracking.uri={address}",))
    assert not isinstance(caught.value, ConfigError)


def test_champions_of_something_else(place: Place, weak: RunFolder, policy: RunFolder, make_store: Callable[..., Path]):
    register(policy, "other", alias="champion")
    fewer = place.train("fewer", task={"family": "sinusoid", "shot": 5, "query": 5, "eval_shot": 3}, outer={"steps": 1})
    register(fewer, "protocol", alias="champion")
    images = {
        "model": {"name": "conv4", "channels": 4, "blocks": 1, "batch_norm": "transductive"},
        "outer": {"steps": 1},
        "eval": {"tasks": 4, "steps": [0, 1]},
    }

    def task(seed: int) -> dict[str, Any]:
        return {"family": "images", "root": str(make_store((8, 8, 1), 3, 3, seed)), "way": 2, "shot": 1, "query": 1}

    one, same = place.train("one", task=task(0), **images), place.train("same", task=task(0), **images)
    register(one, "data", alias="champion")
    two = place.train("two", task=task(1), **images)
    inductive = images | {"model": images["model"] | {"batch_norm": "inductive"}}
    mode = place.train("mode", task=task(0), **inductive)
    before = place.everything()
    for run, name, message in (
        (weak, "other", "task.family: navigation there, sinusoid here"),
        (weak, "protocol", "task.eval_shot: 3 there, None here"),
        (two, "data", "data: [0-9a-f]{64} there, [0-9a-f]{64} here"),
        (mode, "data", "batch norm: transductive there, inductive here"),
    ):
        with pytest.raises(ConfigError, match=message):
            register(run, name, if_better=True)
    assert place.everything() == before
    # The same data in another place are the same.
    assert register(same, "data", if_better=True).difference is not None


def foreign(place: Place, name: str) -> None:
    """A model that metaray did not register."""
    place.client.create_registered_model(name)
    (place.root / "foreign").mkdir(exist_ok=True)
    (place.root / "foreign" / "MLmodel").write_text("flavors: {}\n")
    version = place.client.create_model_version(name, (place.root / "foreign").as_uri())
    place.client.set_registered_model_alias(name, "champion", version.version)


def test_a_champion_that_metaray_did_not_register(place: Place, weak: RunFolder):
    foreign(place, "foreign")
    with pytest.raises(ConfigError, match="expected a model that metaray registered, version 1 of 'foreign'"):
        register(weak, "foreign", if_better=True)
    assert place.versions("foreign") == ["1"]


@pytest.fixture(scope="module")
def settled(place: Place, weak: RunFolder) -> None:
    """A model with a champion."""
    register(weak, "settled", alias="champion")


@contextmanager
def refused(place: Place, table: str) -> Iterator[None]:
    """A database that takes no new rows into a table."""
    with closing(sqlite3.connect(place.root / "mlflow.db")) as database:
        for kind in ("INSERT", "UPDATE"):
            database.execute(
                f"CREATE TRIGGER refuse_{kind} BEFORE {kind} ON {table} BEGIN SELECT RAISE(ABORT, 'disk on fire'); END"
            )
        database.commit()
        try:
            yield
        finally:
            for kind in ("INSERT", "UPDATE"):
                database.execute(f"DROP TRIGGER refuse_{kind}")
            database.commit()


TABLES = ["logged_models", "registered_models", "model_versions", "model_version_tags", "registered_model_aliases"]


@pytest.mark.parametrize(
    ("name", "table"),
    [("unheard_of", table) for table in TABLES]
    + [("settled", table) for table in TABLES if table != "registered_models"],
)
def test_a_registration_that_fails_half_way_is_taken_back(
    place: Place, strong: RunFolder, settled: None, unchanged: None, name: str, table: str
):
    with refused(place, table), pytest.raises(MetarayError, match="expected an answer of the MLflow registry"):
        register(strong, name, alias="champion")


def test_what_cannot_be_taken_back_is_named(place: Place, strong: RunFolder, settled: None):
    with closing(sqlite3.connect(place.root / "mlflow.db")) as database:
        database.execute(
            "CREATE TRIGGER kept BEFORE UPDATE OF current_stage ON model_versions "
            "BEGIN SELECT RAISE(ABORT, 'kept for ever'); END"
        )
        database.commit()
        try:
            with (
                refused(place, "registered_model_aliases"),
                pytest.raises(
                    MetarayError, match=r"(?s)could not take back .*version \d+ of settled \(.*remove it by hand"
                ),
            ):
                register(strong, "settled", alias="champion")
        finally:
            database.execute("DROP TRIGGER kept")
            database.commit()
    assert dict(place.client.get_registered_model("settled").aliases) == {"champion": 1}


def test_an_interrupted_registration_is_taken_back(
    place: Place, strong: RunFolder, unchanged: None, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registering, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        register(strong, "broken_off", alias="champion")


def test_an_alias_that_moved_meanwhile_is_left_alone(place: Place, strong: RunFolder, weak: RunFolder):
    register(weak, "race", alias="champion")
    before = place.everything()
    contents = Contents(
        run_id=strong.info["mlflow_run_id"],
        save=lambda path, logged: path.mkdir(),
        description="",
        tags={},
    )
    registry = Registry(TrackingConfig(uri=place.uri))
    with pytest.raises(MetarayError, match="expected alias 'champion' of race to stand for version none still, it sta"):
        registry.publish("race", contents, "champion", None)
    assert place.everything() == before


@contextmanager
def served(address: str, uri: str, folder: Path) -> Iterator[str]:
    """``mlflow models serve`` for the time of a block; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    arguments = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", "-m", address, *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10).close()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((folder / "serve.log").read_text()) from error
            time.sleep(0.1)  # between two questions
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)


def asked(address: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_server_answers(place: Place, policy: RunFolder, strong: RunFolder, tmp_path: Path):
    register(strong, "at_your_service", alias="champion")
    given, targets = episodes_of(strong, 2)
    inputs = {name: array.tolist() for name, array in given.items()}
    setup, params = best(strong)
    assert isinstance(setup, EpisodeSetup)
    episodes = draw_batch(setup.family, setup.seed, "test", range(2), setup.dtype)
    with served("models:/at_your_service@champion", place.uri, tmp_path) as address:
        for steps in (2, 5):  # the run's own number, and another
            status, answer = asked(address, {"inputs": inputs} | ({"params": {"inner_steps": 5}} if steps == 5 else {}))
            assert status == 200, answer
            errors = torch.tensor(answer["predictions"]).sub(targets).square().mean(dim=(1, 2))
            expected = setup.engine.scores(params, episodes, (steps,))[:, 0]
            torch.testing.assert_close(errors.float(), expected, rtol=1e-4, atol=1e-5)
        whole = {name: [[[1]], [[2]]] for name in inputs}  # integers where real numbers are expected
        assert asked(address, {"inputs": whole, "params": {"inner_lr": 0}})[0] == 200
        status, answer = asked(address, {"inputs": inputs | {"support_targets": [[[1.0]], [[1.0]]]}})
        assert status == 400
        assert "expected 5 support examples as in support_inputs, received 1" in json.dumps(answer)


def test_a_server_of_a_policy_takes_trajectories(place: Place, policy: RunFolder, tmp_path: Path):
    register(policy, "acting")
    trajectory = {
        "support_observations": [[[[[0, 0], [0.1, 0], [0.2, 0]]]]],
        "support_actions": [[[[[0.1, 0], [0.1, 0]]]]],
        "support_rewards": [[[[-1, -0.9]]]],
        "support_lengths": [[[2]]],
        "support_terminated": [[[False]]],
        "query_observations": [[[0, 0]]],
    }
    with served("models:/acting/1", place.uri, tmp_path) as address:
        status, answer = asked(address, {"inputs": trajectory})
    assert status == 200, answer
    assert np.shape(answer["predictions"]) == (1, 1, 4)


def test_over_http_with_a_database_behind_it(metaray, finished, mlflow_server, settings, tmp_path: Path):
    settings |= {"tracking": {"uri": mlflow_server.uri}, "cluster": {"workers": 0}, "outer": {"steps": 2}}
    (tmp_path / "small.json").write_text(json.dumps(settings))
    config = parse(settings)
    folder = new_run(config, "run")
    with stop_on_signals() as stop:
        training.run(resume(config, folder), stop)
    command = ("register", str(folder.path), "--name", "over http", "--if-better", "--tasks", "4", "--json")
    for version, promoted in ((1, True), (2, False)):
        status, output, errors = finished(metaray(*command))
        assert status == 0, errors
        made = json.loads(output)
        assert (made["version"], made["promoted"]) == (version, promoted)
    assert made["difference"]["mean"] == made["difference"]["ci95"] == 0.0
    given, _ = episodes_of(folder, 2)
    found = predicted("models:/over http@champion", mlflow_server.uri, given | {"inner_steps": 1}, tmp_path)
    assert found.shape == given["query_inputs"].shape
    client = mlflow.MlflowClient(mlflow_server.uri)
    known = client.get_model_version_by_alias("over http", "champion")
    assert "## Configuration" in known.description
    own = json.loads((folder.path / "evaluation.json").read_text())
    found_again = evaluate_named("models:/over http@champion", [f"tracking.uri={mlflow_server.uri}"], "test")
    assert found_again == own


def test_the_command_prints_what_it_did(metaray, finished, place: Place, weak: RunFolder):
    status, output, errors = finished(metaray("register", str(weak.path), "--name", "printed", "--if-better"))
    assert status == 0, errors
    assert "promoted to champion: there was none" in output
    assert "models:/printed" in output
    assert "Traceback" not in errors
    assert "Warning" not in errors
    status, output, errors = finished(metaray("register", str(weak.path), "--name", "a/b"))
    assert (status, output) == (2, "")
    assert "error: name: expected letters" in errors
    status, output, errors = finished(metaray("register", "no-such-run", "--name", "printed"))
    assert (status, output) == (2, "")
    assert "expected a run's folder or an MLflow run id" in errors
    assert isinstance(register(weak, "printed"), Registered)

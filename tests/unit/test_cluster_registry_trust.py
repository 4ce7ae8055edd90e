"""What a registered model's configuration may name: nothing else is imported, let alone constructed."""

import sys
from pathlib import Path

import pytest
import yaml

from cluster.config.overrides import with_values
from cluster.errors import CheckpointError, ConfigError
from cluster.registry.loading import load_adaptable
from cluster.registry.trust import TrustError, named_packages, require_trusted, trusted_packages

OWN = {
    "task": {"family": "sinusoid", "shot": 5},
    "model": {"name": "meta.models:MLP", "hidden": [8]},
    "algorithm": "maml",
    "eval": {"baselines": ["oracle"]},
    "cluster": {"address": "head:6379"},
    "tracking": {"uri": "http://host:5000", "experiment": "team:maml"},
}


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind when it is imported; the folder of the file."""
    for name in ("evil", "evil-too"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Model: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("evil", "evil-too"):
        sys.modules.pop(name, None)


def package(folder: Path, changes: dict[str, object]) -> Path:
    path = folder / "package"
    path.mkdir(exist_ok=True)
    (path / "config.yaml").write_text(yaml.safe_dump(with_values(OWN, changes)))
    return path


REFUSED = {
    "model": {"model.name": "evil:Model"},
    "odd name": {"model.name": "evil-too:Model"},
    "family": {"task.family": "evil:Model"},
    "algorithm": {"algorithm": "evil:Model"},
    "baseline": {"eval.baselines": ["oracle", "evil:Model"]},
    "argument of a family": {"task.family": "gymnasium", "task.id": "evil:Env-v0"},
    "deep in the model": {"model.parts": [{"layer": " evil:Model "}]},
    "an inner rule": {"inner.rule": "evil:Model"},
    "an inner rule with keys": {"inner.rule.name": "evil:Model"},
    "a derivative": {"inner.derivative.name": "evil:Model"},
    "an algorithm with keys": {"algorithm.name": "evil:Model"},
    "standard library": {"model.name": "subprocess:Popen", "model.args": "id"},
    "another package of metaray's": {"model.name": "cluster.jobs.client:JobServer"},
    "like metaray's own": {"model.name": "metatorch:Model"},
    "by way of metaray's own": {"model.name": "meta.models.module:Callable"},
    "a class that metaray's own imports": {"task.family": "tasks.data.remote:Path"},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_what_is_not_trusted_is_refused_before_it_is_imported(evil, changes):
    with pytest.raises(TrustError, match=r"--trust \S+, or set METARAY_TRUST=") as raised:
        require_trusted(package(evil, changes), ())
    assert raised.value.exit_status == 2
    assert not (evil / "imported").exists()


def test_to_adapt_a_model_takes_trust_in_what_is_imported_for_it(evil):
    with pytest.raises(TrustError, match="--trust evil"):
        load_adaptable(package(evil, {"model.name": "evil:Model"}))
    with pytest.raises(CheckpointError):  # the family is of no account here; what else a package needs is not there
        load_adaptable(package(evil, {"task.family": "evil:Model", "model.name": "torch.nn:Linear"}))
    assert not (evil / "imported").exists()


def test_own_classes_and_trusted_packages_are_taken(tmp_path, monkeypatch):
    require_trusted(package(tmp_path, {}), ())
    mine = package(tmp_path, {"model.name": "my_package.models:Net", "task.family": "other:Family"})
    with pytest.raises(TrustError, match=r"task\.family: .* names 'other:Family'; .*add --trust other,"):
        require_trusted(mine, ("my_package",))
    require_trusted(mine, ("my_package", "other"))
    require_trusted(mine, ("my_package.models", "other"))
    for too_little in ("my", "my_package.mod", "my_package.models.deep"):
        with pytest.raises(TrustError):
            require_trusted(mine, (too_little, "other"))
    monkeypatch.setenv("METARAY_TRUST", "my_package, other,")
    require_trusted(mine, trusted_packages())
    assert trusted_packages(["a"]) == ("a", "my_package", "other")
    for wrong in ("", "a b", "a:B", "../a", "*"):
        with pytest.raises(ConfigError, match="--trust, METARAY_TRUST: expected the name of a package"):
            trusted_packages([wrong])


def test_packages_of_a_run_of_one_s_own():
    assert named_packages(with_values(OWN, {"model.name": "mine.a:B", "eval.baselines": ["mine:C", "other:D"]})) == (
        "mine",
        "other",
    )
    assert named_packages(OWN) == ()

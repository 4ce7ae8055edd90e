"""The manifests: each passes its schema or parser, they agree with each other, and the image can be built."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from pathspec import GitIgnoreSpec
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.commands.cli import app

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "cluster" / "manifests"
SCHEMAS = json.loads((ROOT / "tests" / "golden" / "kuberay.json").read_text())
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def resource(file: str, kind: str) -> dict[str, Any]:
    found = [one for one in yaml.safe_load_all((MANIFESTS / file).read_text()) if one["kind"] == kind]
    assert len(found) == 1
    return dict(found[0])


def require_kuberay(one: dict[str, Any]) -> None:
    assert one["apiVersion"] == "ray.io/v1"
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", one["metadata"]["name"])
    jsonschema.validate(one["spec"], SCHEMAS[one["kind"]])


def clusters() -> list[dict[str, Any]]:
    return [
        resource("raycluster.yaml", "RayCluster")["spec"],
        resource("rayjob.yaml", "RayJob")["spec"]["rayClusterSpec"],
    ]


@pytest.mark.parametrize(("file", "kind"), [("raycluster.yaml", "RayCluster"), ("rayjob.yaml", "RayJob")])
def test_kuberay_takes_it(file, kind):
    require_kuberay(resource(file, kind))


def wrong_resources() -> Iterator[dict[str, Any]]:
    good = resource("raycluster.yaml", "RayCluster")
    for path, value in {
        ("workerGroupSpecs", 0, "minReplica"): 1,
        ("workerGroupSpecs", 0, "maxReplicas"): "many",
        ("workerGroupSpecs", 0, "template", "spec", "container"): [],
        ("authOptions", "mode"): "password",
        ("headGroupSpec", "rayStartParams", "num-cpus"): 0,
    }.items():
        wrong = deepcopy(good)
        target: Any = wrong["spec"]
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value
        yield wrong


def test_the_schema_refuses_what_kuberay_would():
    for wrong in wrong_resources():
        with pytest.raises(jsonschema.ValidationError):
            require_kuberay(wrong)


@pytest.mark.parametrize("number", [0, 1])
def test_clusters_grow_and_shrink_and_ask_for_a_token(number):
    spec = clusters()[number]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"]
    assert spec["rayVersion"] == PINNED["ray"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_cluster_has_workers_with_and_without_gpu():
    groups = {group["groupName"]: group for group in clusters()[0]["workerGroupSpecs"]}
    limits = {name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups.items()}
    assert {name: "nvidia.com/gpu" in limit for name, limit in limits.items()} == {"cpu": False, "gpu": True}


def test_all_nodes_see_the_shared_folder():
    claims = {resource("raycluster.yaml", "PersistentVolumeClaim")["metadata"]["name"]}
    for spec in clusters():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            assert {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]} == claims
            assert {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} == {"/shared"}


def parsed(words: list[str]) -> dict[str, Any]:
    """A command's parameters as the command line itself reads them."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands[words[0]].make_context(words[0], words[1:]).params)


def test_the_job_s_command_is_one_and_outlives_it():
    words = shlex.split(resource("rayjob.yaml", "RayJob")["spec"]["entrypoint"])
    assert words[0] == "metaray"
    found = parsed(words[1:])
    assert found["name"]
    inside = Path(found["config"]).relative_to("/opt/metaray")
    assert (ROOT / inside).is_file()
    overrides = dict(override.split("=", 1) for override in found["overrides"])
    assert overrides["checkpoint.root"].startswith("/shared/")
    assert overrides["tracking.uri"].startswith("sqlite:////shared/")


def test_ray_up_takes_it():
    config = prepare_config(yaml.safe_load((MANIFESTS / "ray_up.yaml").read_text()))
    validate_config(config)
    assert {"head", "cpu", "gpu"} == set(config["available_node_types"])
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert any("RAY_AUTH_MODE=token ray start" in command for command in commands)


@pytest.mark.parametrize("wrong", [{"idle_timeout_minute": 5}, {"head_node_type": "heads"}, {"max_workers": "many"}])
def test_ray_up_refuses_what_is_wrong(wrong):
    raw = yaml.safe_load((MANIFESTS / "ray_up.yaml").read_text())
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(raw | wrong))


def test_slurm_s_script_parses():
    script = MANIFESTS / "slurm.sh"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    assert max(directives) < min(commands)  # Slurm reads none after the first command


def test_one_image_everywhere():
    texts = [(MANIFESTS / name).read_text() for name in ("Dockerfile", "raycluster.yaml", "rayjob.yaml", "ray_up.yaml")]
    images = {image for text in texts for image in re.findall(r"registry\.example\.org/\S+", text)}
    assert images == {f"registry.example.org/metaray:{VERSION}"}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (MANIFESTS / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in text.splitlines() if line]
    known = {"ARG", "COPY", "ENV", "FROM", "RUN", "USER", "WORKDIR"}
    assert {name for name, _ in found} <= known
    assert found[0][0] == "FROM"
    return [(name, rest) for name, rest in found]


def test_the_image_s_context_is_what_is_copied():
    ignore = GitIgnoreSpec.from_lines((MANIFESTS / "Dockerfile.dockerignore").read_text().splitlines())
    sources = {source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]}
    assert all((ROOT / source).exists() and not ignore.match_file(source) for source in sources)
    assert all(ignore.match_file(name) for name in (".git/config", ".venv/x", "runs/r/run.json", "meta/__pycache__/x"))


@pytest.mark.timeout(120)
def test_the_image_s_steps(tmp_path):
    """All that need neither a container, nor its system's packages, nor its users: copy, install, ask for help."""
    root, site = tmp_path / "opt", tmp_path / "site"
    root.mkdir()
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{site / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(site),
        # The same command, without what is here already: the requirements, and the tools that build.
        **{"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "PIP_TARGET": str(site)},
    }
    ran = []
    for name, rest in instructions():
        if name == "COPY":
            *sources, target = rest.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, root / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, root / target)
        elif name == "ENV":
            environment |= dict(part.split("=", 1) for part in shlex.split(rest))
        elif name == "RUN" and not rest.startswith(("apt-get ", "useradd ")):
            done = subprocess.run(rest, shell=True, cwd=root, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            ran.append((rest.split()[0], done.stdout))
    assert [program for program, _ in ran] == ["python", "metaray"]
    assert "submit" in ran[1][1]
    installed = site / "cluster" / "manifests"
    assert {path.name for path in installed.iterdir()} == {path.name for path in MANIFESTS.iterdir()}

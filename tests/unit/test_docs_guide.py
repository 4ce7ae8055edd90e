"""README and guide: links and anchors lead somewhere, blocks run, each page with blocks has a test that knows it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import metaray
from cluster.config.components import parameters, resolve
from cluster.config.schema import parse
from cluster.search.settings import load
from cluster.setups.build import build
from tasks import check_family

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
KINDS = ("python", "yaml")
MIGRATIONS = ["from_learn2learn.md", "from_higher.md", "from_torchopt.md"]


def blocks(page: str, language: str = "python") -> list[str]:
    """The fenced blocks of a page; those with a title are other libraries'."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown's table of contents makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(path.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    ascii_only = [heading.encode("ascii", "ignore").decode() for heading in plain]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in ascii_only}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = without_blocks(path.read_text(encoding="utf-8"))
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if link.startswith("https://"):
            continue
        target = (path.parent / link).resolve() if link else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    linked = {Path(link).name for link in re.findall(r"\]\((docs/[^)#]+\.md)", text)}
    assert linked <= {path.name for path in DOCS.glob("*.md")}


def test_every_page_with_blocks_has_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    pages = [path.name for path in DOCS.glob("*.md") if any(blocks(f"docs/{path.name}", kind) for kind in KINDS)]
    assert [name for name in pages if name not in tests] == []


def test_the_block_of_the_readme_runs() -> None:
    (block,) = blocks("README.md")
    names: dict[str, Any] = {}
    exec(block, names)
    assert isinstance(names["adapted"], nn.Module)
    assert all(p.grad is not None for p in names["module"].parameters())


def test_the_example_is_the_demo() -> None:
    (block,) = blocks("docs/configuration.md", "yaml")
    assert yaml.safe_load(block) == yaml.safe_load((ROOT / "tune_configs" / "sinusoid_demo.yaml").read_text())


def test_the_search_is_one(tmp_path: Path) -> None:
    (block,) = blocks("docs/search.md", "yaml")
    (tmp_path / "search.yaml").write_text(block.replace("../sinusoid.yaml", f"{ROOT}/tune_configs/sinusoid.yaml"))
    search = load(tmp_path / "search.yaml")
    assert sorted(search.settings.space) == ["inner.lr", "outer.lr"]


def test_the_environment_has_these_keys() -> None:
    (block,) = blocks("docs/reinforcement.md", "yaml")
    task = yaml.safe_load(block)["task"]
    known = parameters(resolve("task.family", task.pop("family")), frozenset()).model_fields
    assert task.keys() <= known.keys()


def test_step_sizes_can_be_learned() -> None:
    (block,) = blocks("docs/step_sizes.md", "yaml")
    raw = {"task": {"family": "sinusoid"}, "model": {"name": "mlp"}, "outer": {"steps": 1}, "meta_batch": 1}
    params = build(parse(raw | yaml.safe_load(block))).initial_params()
    assert params["inner/lr/layer0.weight"].tolist() == pytest.approx([0.02] * 3)


def test_the_family_keeps_its_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("docs/families.md")
    (tmp_path / "my_tasks.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    from my_tasks import Lines  # type: ignore[import-not-found]

    check_family(Lines(slope=2.0))
    raw = {"model": {"name": "mlp"}, "outer": {"steps": 1}, "meta_batch": 1}
    config = parse(raw | {"task": {"family": "my_tasks:Lines", "slope": 2.0}})
    assert config.task.params == {"shot": 5, "slope": 2.0}


def plain_gradient(net: nn.Module, tasks: list[Any], steps: int, lr: float) -> dict[str, torch.Tensor]:
    """The mean meta-gradient by torch alone."""

    def outer(params: dict[str, torch.Tensor], support: Any, query: Any) -> torch.Tensor:
        def loss(params: dict[str, torch.Tensor], pair: Any) -> torch.Tensor:
            return nn.functional.mse_loss(torch.func.functional_call(net, params, pair[0]), pair[1])

        for _ in range(steps):
            gradient = torch.func.grad(loss)(params, support)
            params = {name: params[name] - lr * gradient[name] for name in params}
        return loss(params, query)

    start = {name: value.detach() for name, value in net.named_parameters()}
    gradients = [torch.func.grad(outer)(start, support, query) for support, query in tasks]
    return {name: torch.stack([one[name] for one in gradients]).mean(0) for name in start}


@pytest.mark.parametrize("page", MIGRATIONS)
def test_our_side_of_a_migration_is_the_same_gradient(page: str) -> None:
    (block,) = blocks(f"docs/{page}")
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(block.replace("range(100)", "range(3)"), names)
    net, tasks = names["net"], names["sample_tasks"](4)
    steps = int(re.findall(r"steps=(\d)", block)[0])
    expected = plain_gradient(net, tasks, steps, 0.01)
    gradient = metaray.meta_gradient(net, "mse", tasks, lr=0.01, steps=steps).gradient
    for name, value in expected.items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("page", MIGRATIONS)
def test_both_sides_of_a_migration_train_alike(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    ((library, other),) = re.findall(r'^```python title="(.*?)"\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    pytest.importorskip(library.lower(), reason=f"{library} is installed for measurements only")
    (ours,) = blocks(f"docs/{page}")
    one: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(ours.replace("range(100)", "range(3)"), one)
    two: dict[str, Any] = {"sample_tasks": one["sample_tasks"]}
    torch.manual_seed(0)
    exec(other.replace("range(100)", "range(3)"), two)
    for mine, theirs in zip(one["net"].parameters(), two["net"].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_quick_start_runs(tmp_path: Path) -> None:
    (block,) = blocks("docs/quickstart.md")
    train = (
        f"import metaray\nmetaray.train(r'{ROOT}/tune_configs/sinusoid_demo.yaml', name='demo', "
        "eval={'tasks': 20, 'every': 0, 'baselines': []}, **{'outer.steps': 3})\n"
    )
    (tmp_path / "page.py").write_text(f"{train}{block}print(len(curve))\n")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    files = [f"--{kind}={ROOT}/examples/{name}.csv" for kind, name in (("support", "known"), ("query", "new"))]
    adapt = [sys.executable, "-m", "cluster", "adapt", "demo", *files, "--inputs=x", "--targets=y", "--steps=10"]
    for command in ([sys.executable, "page.py"], adapt):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
        )
        assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    assert done.stdout.startswith("query,y\n1,")

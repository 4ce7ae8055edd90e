"""docs/python.md: its blocks run as they stand; those on Ray do in tests/integration/test_python.py."""

import re
import subprocess
import sys
from pathlib import Path

import metaray

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
ON_RAY = "## Searches and comparisons"


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_blocks_run_in_a_script(tmp_path: Path) -> None:
    alone, on_ray = PAGE.split(ON_RAY)
    assert len(blocks(alone)) == 6
    assert len(blocks(on_ray)) == 1
    # As a newcomer would: in a script, whose classes are those of __main__; MLflow's database lies beside it.
    (tmp_path / "page.py").write_text(
        "\n".join(blocks(alone)) + "\nassert error.isfinite()\nprint(float(error) < 50)\n"
    )
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    assert "cluster.workers: 0 (Net of __main__" in done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_page_names_every_public_function() -> None:
    functions = [name for name in metaray.__all__ if name.islower()]
    assert [name for name in functions if f"`{name}" not in PAGE and f"metaray.{name}(" not in PAGE] == []


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_the_example_learns_to_adapt(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "meta_gradient.py", "300"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    errors = [float(line.rpartition(" ")[2]) for line in done.stdout.splitlines()]
    assert len(errors) == 3
    assert errors[0] > errors[1] > errors[2]

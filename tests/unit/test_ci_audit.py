"""The audit of pinned packages: findings fail, accepted ones are listed, a lookup that cannot be made is said."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = {"name": "a", "version": "1", "vulns": []}
FOUND = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fix_versions": ["3"]}],
}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("packages", "accepted", "status", "said"),
    [
        ([CLEAN, UNKNOWN], "", 0, "audit: 1 packages looked up, 1 unknown, 0 findings"),
        ([CLEAN, FOUND], "", 1, "b 2: PYSEC-1, fixed in 3"),
        ([FOUND], "# why\nCVE-2026-1 not reachable here\n", 0, "accepted: not reachable here"),
        ([UNKNOWN], "", 0, "audit skipped: the network's package index offers no advisories"),
        ("requests.exceptions.ConnectionError: away", "", 0, "audit skipped: the advisory service cannot be reached"),
        ("usage: no such option", "", 1, ""),
    ],
)
def test_what_an_audit_comes_to(audit, tmp_path, capsys, packages, accepted, status, said):
    (tmp_path / "accepted.txt").write_text(accepted)
    answer = tmp_path / "answer"
    answer.write_text(packages if isinstance(packages, str) else json.dumps({"dependencies": packages}))
    program = tmp_path / "pip-audit"  # answers as the real one does: into the file named last, or with an error
    action = f"cat {answer} >&2; exit 2" if isinstance(packages, str) else f'for last; do :; done; cp {answer} "$last"'
    program.write_text(f"#!/bin/sh\n{action}\n")
    program.chmod(0o755)
    assert audit.main(str(program), "constraints.txt", str(tmp_path / "accepted.txt")) == status
    assert said in capsys.readouterr().out

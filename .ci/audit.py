"""Looks the pinned packages up among known vulnerabilities. Run by ``make audit``.

Usage: audit.py PIP_AUDIT REQUIREMENTS ACCEPTED

Exit status 0: nothing was found, all that was found is accepted with its reason, or the lookup was skipped, which is
said with the reason. 1: something was found. ACCEPTED has a line ``ID reason`` for each finding that is accepted.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMIT = 300  # seconds
AWAY = re.compile(r"ConnectionError|ConnectTimeout|ReadTimeout|timed out|Max retries|ProxyError|SSLError")


def main(program: str, requirements: str, accepted: str) -> int:
    """Run pip-audit and judge what it found."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        command = [program, "-r", requirements, "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        try:
            done = subprocess.run(
                [*command, "--timeout", "10", "-f", "json", "-o", str(output)],
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return skipped(f"no answer within {LIMIT} s")
        if not output.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if AWAY.search(done.stderr):
                return skipped(f"the advisory service cannot be reached ({last})")
            print(f"error: pip-audit failed, status {done.returncode}: {last}", file=sys.stderr)
            return 1
        return judged(json.loads(output.read_text())["dependencies"], reasons(Path(accepted)))


def skipped(reason: str) -> int:
    """Say that nothing was looked up."""
    print(f"audit skipped: {reason}")
    return 0


def reasons(path: Path) -> dict[str, str]:
    """Why findings are accepted, by their identifiers."""
    lines = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {line[0]: line[1] for line in lines}


def judged(packages: list[dict[str, Any]], accepted: dict[str, str]) -> int:
    """Print what was found in each package; 1 if something of it is not accepted."""
    unknown = [package for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        return skipped(f"the network's package index offers no advisories ({unknown[0]['skip_reason']})")
    open_findings = 0
    for package in packages:
        for found in package.get("vulns", []):
            known = next((name for name in (found["id"], *found.get("aliases", [])) if name in accepted), None)
            verdict = (
                f"accepted: {accepted[known]}" if known else f"fixed in {', '.join(found['fix_versions']) or 'none'}"
            )
            print(f"{package['name']} {package['version']}: {found['id']}, {verdict}")
            open_findings += known is None
    print(f"audit: {len(packages) - len(unknown)} packages looked up, {len(unknown)} unknown, {open_findings} findings")
    return min(open_findings, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

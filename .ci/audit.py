"""Known holes of the versions in `constraints.txt`: exit code 1 where there are some.

`python .ci/audit.py` asks an advisory service through pip-audit; without one it says that nothing
was audited. `python .ci/audit.py REPORT` judges what `pip-audit --format json` wrote elsewhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300


def ask() -> str:
    """Give pip-audit's report as JSON; empty where it could make none."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(ROOT / "constraints.txt")]
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell
            command, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def judge(report: str) -> tuple[int, list[str]]:
    """Give an exit code, and what to print, of a report."""
    try:
        found: list[dict[str, Any]] = json.loads(report)["dependencies"]
        audited = [each for each in found if "vulns" in each]
    except (ValueError, KeyError, TypeError):
        audited = []
    if not audited:
        return 0, [
            "audit: NOTHING WAS AUDITED, no advisory service can be reached; see"
            " docs/explanation/dependencies.md for the way without one"
        ]
    lines = [
        f"{each['name']} {each['version']}: {hole['id']}, mended in"
        f" {', '.join(hole['fix_versions']) or 'no version yet'}"
        for each in audited
        for hole in each["vulns"]
    ]
    code = int(bool(lines))
    unknown = len(found) - len(audited)
    lines.append(f"audit: {len(audited)} packages, {unknown} unknown to the service")
    return code, lines


def main(arguments: list[str]) -> int:
    code, lines = judge(Path(arguments[0]).read_text() if arguments else ask())
    sys.stdout.write("\n".join(lines) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

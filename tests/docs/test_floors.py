"""No dependency may be a version with a known hole, as far as a floor and an audit can tell."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

LAST_BAD = {
    "cryptography": ["44.0.0", "46.0.4"],
    "filelock": ["3.20.0", "3.20.2"],
    "torch": ["2.5.1", "2.9.1"],
}
"""The last versions with holes that touch what heterofed does with them."""


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runtime() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {each.name: each for each in map(Requirement, project["dependencies"])}


@pytest.mark.parametrize("name", LAST_BAD)
def test_floors_shut_out_known_holes(name: str) -> None:
    for version in LAST_BAD[name]:
        assert not runtime()[name].specifier.contains(version), version


def test_every_dependency_is_pinned_within_its_floor() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines)
    for name, requirement in runtime().items():
        assert requirement.specifier.contains(pinned[name]), name


def found(*vulnerabilities: dict[str, Any]) -> str:
    known = {"name": "torch", "version": "2.5.1", "vulns": list(vulnerabilities)}
    return json.dumps({"dependencies": [known, {"name": "own", "skip_reason": "not found"}]})


def test_an_audit_tells_holes_from_none_and_from_no_answer(audit: ModuleType) -> None:
    code, lines = audit.judge(found({"id": "CVE-2025-32434", "fix_versions": ["2.6.0"]}))
    assert code == 1
    assert lines[0] == "torch 2.5.1: CVE-2025-32434, mended in 2.6.0"
    assert audit.judge(found()) == (0, ["audit: 1 packages, 1 unknown to the service"])
    nothing = json.dumps({"dependencies": [{"name": "own", "skip_reason": "not found"}]})
    for report in ("", "no JSON", "[]", "null", nothing):
        code, lines = audit.judge(report)
        assert code == 0
        assert "NOTHING WAS AUDITED" in lines[0]


@pytest.mark.slow
def test_an_audit_without_a_network_says_so(tmp_path: Path) -> None:
    """The real tool, whose way out is a closed port."""
    closed = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    env = {**os.environ, **closed, "NO_PROXY": "", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, ".ci/audit.py"],
        cwd=ROOT,
        env=env | {"PIP_AUDIT_TIMEOUT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "NOTHING WAS AUDITED" in done.stdout


def test_a_report_from_elsewhere_is_judged(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(found({"id": "GHSA-1", "fix_versions": []}))
    command = [sys.executable, str(ROOT / ".ci" / "audit.py"), str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "GHSA-1, mended in no version yet" in done.stdout

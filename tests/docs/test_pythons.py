"""The Pythons that the package names are those that `make test-pythons` and CI test."""

from __future__ import annotations

import re
import tomllib

from tests.e2e.processes import ROOT


def test_every_python_that_is_named_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert named
    assert project["requires-python"] == f">={named[0]}"
    made = re.search(r"^PYTHONS \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert made
    assert made[1].split() == named
    workflow = ROOT / ".github" / "workflows" / "ci.yml"
    if workflow.is_file():  # a source archive has none
        matrix = re.search(r"^ +python: \[(.*?)\]", workflow.read_text(), re.MULTILINE)
        assert matrix
        assert re.findall(r"[\d.]+", matrix[1]) == named

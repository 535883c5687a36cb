"""What is installed, where, and what a message says when an extra is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from docs.generator.extras import extras
from heterofed import __version__

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*(ROOT / "heterofed").rglob("*.py"), *(ROOT / "psi").rglob("*.py")]

BASE = {"pandas"}
"""What comes with heterofed itself, so that a message may name the package."""


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_messages_name_extras_that_there_are() -> None:
    named = {
        (path.name, each)
        for path in SOURCES
        for each in re.findall(r"pip install (\S+?)[\"\s]", path.read_text(encoding="utf-8"))
        if "{" not in each  # the name is filled in
    }
    assert named
    for file, each in named:
        extra = re.match(r"[\"']?heterofed\[([\w,]+)\]", each)
        wanted = set(extra[1].split(",")) if extra else set()
        assert (wanted and wanted <= extras().keys()) or re.sub(r"\W", "", each) in BASE, (
            f"{file} says `pip install {each}`: name an extra of pyproject.toml"
        )


@pytest.mark.parametrize("package", ["heterofed", "psi"])
def test_windows_is_refused_with_a_sentence(package: str) -> None:
    code = f"import importlib.util, sys; sys.platform = 'win32'; import {package}"
    ended = python("-c", code)
    assert ended.returncode == 1
    assert f"ImportError: {package} runs on Linux and macOS" in ended.stderr
    assert "WSL 2" in ended.stderr


@pytest.mark.slow
def test_the_version_says_what_is_installed() -> None:
    assert python("-m", "heterofed", "version").stdout == f"heterofed {__version__}\n"
    found = json.loads(python("-m", "heterofed", "version", "--json").stdout)
    assert {"heterofed", "Python", "system", "OpenSSL", "torch", "pyzmq"} <= found.keys()
    shown = python("-m", "heterofed", "version", "--verbose").stdout
    assert all(value in shown for value in found.values())


def test_the_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == __version__
    recipe = (ROOT / "packaging" / "conda" / "meta.yaml").read_text()
    assert f'{{% set version = "{__version__}" %}}' in recipe


def test_the_recipe_asks_for_what_the_package_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = (ROOT / "packaging" / "conda" / "meta.yaml").read_text()
    for requirement in project["dependencies"]:
        name, floor = requirement.split(">=")
        name = {"torch": "pytorch"}.get(name, name)
        assert f"- {name} >={floor}\n" in recipe, requirement


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name
)
def test_forms_and_workflows_can_be_read(path: Path) -> None:
    read = yaml.safe_load(path.read_text())
    assert isinstance(read, dict)
    for job in read.get("jobs", {}).values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            for target in re.findall(r"make(?: PYTHON=\S+)? ([a-z -]+)", step.get("run", "")):
                makefile = (ROOT / "Makefile").read_text()
                assert all(f"\n{each}:" in makefile for each in target.split())


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and a source archive, each built twice."""
    folder = tmp_path_factory.mktemp("dist")
    for each in ("once", "again"):
        command = (
            "-m",
            "uv",
            "build",
            "--quiet",
            "--no-build-isolation",
            "--python",
            sys.executable,
        )
        built = python(*command, "--out-dir", str(folder / each))
        assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["whl", "tar.gz"])
def test_a_build_is_the_same_to_the_byte(dist: Path, suffix: str) -> None:
    (once,), (again,) = (list((dist / each).glob(f"*.{suffix}")) for each in ("once", "again"))
    assert once.read_bytes() == again.read_bytes()


@pytest.mark.long
def test_the_readme_of_the_index_has_no_relative_link(dist: Path) -> None:
    (wheel,) = (dist / "once").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        (name,) = (each for each in file.namelist() if each.endswith("METADATA"))
        text = file.read(name).decode()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    assert not [each for each in links if not re.match(r"https?://|#|mailto:", each)]


@pytest.mark.long
def test_the_demo_runs_from_the_wheel_alone(
    dist: Path, mnist: Path, home: Path, tmp_path: Path
) -> None:
    (wheel,) = (dist / "once").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); import heterofed;"
        f" assert heterofed.__file__.startswith({str(tmp_path)!r}), heterofed.__file__;"
        " import os; os.environ['PYTHONPATH'] = sys.path[0];"
        " from heterofed.cli import main; main()"
    )
    options = ["--rounds", "1", "--limit", "600", "200", "--data", str(mnist), "--json"]
    ended = python("-c", code, "demo", *options, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["ids"] == 800


@pytest.mark.long
@pytest.mark.timeout(400)
def test_all_tests_of_the_source_archive_can_be_collected(dist: Path, tmp_path: Path) -> None:
    (archive,) = (dist / "once").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    ended = python("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert ended.returncode == 0, ended.stdout[-3000:]

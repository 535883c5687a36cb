"""`heterofed new`: every template is a project that runs as it is."""

from __future__ import annotations

import csv
import os
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from heterofed.cli.app import cli
from heterofed.cli.new import TEMPLATES, new_project
from heterofed.errors import ConfigError

RUFF = Path(sys.executable).with_name("ruff")


def run_together(*scripts: tuple[str, ...]) -> None:
    """Run scripts as threads of this process, the first one in this thread."""
    failed: list[BaseException] = []

    def run(script: str, *arguments: str) -> None:
        try:
            exec_script(script, arguments)
        except BaseException as error:  # told below
            failed.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in scripts[1:]]
    for each in threads:
        each.start()
    run(*scripts[0])
    for each in threads:
        each.join(120)
    assert not failed, failed
    assert not any(each.is_alive() for each in threads)


def exec_script(script: str, arguments: tuple[str, ...]) -> None:
    if not arguments:
        runpy.run_path(script)
        return
    # sys.argv is of the whole process, and these scripts run at the same time.
    code = Path(script).read_text().replace("sys.argv[1]", repr(arguments[0]))
    exec(compile(code, script, "exec"), {"__name__": script})


@pytest.mark.slow
@pytest.mark.parametrize("template", ["images", "text", "label-only"])
def test_parties_of_a_template_train(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"my-{template}"
    new_project(folder, template)
    monkeypatch.chdir(folder)
    runpy.run_path("make_data.py")
    others = [("collaborator.py", "shop"), ("collaborator.py", "club")]
    run_together(("host.py",), *(others if template == "label-only" else [("collaborator.py",)]))
    (table,) = folder.glob(f"heterofed_runs/my-{template}/*/test.csv")
    with table.open(newline="") as file:
        accuracy = [float(row["accuracy"]) for row in csv.DictReader(file)]
    assert len(accuracy) == 5
    assert accuracy[-1] > 0.7


@pytest.mark.long
@pytest.mark.slow
def test_the_tabular_project_runs_by_make(home: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["new", str(tmp_path / "loans")])
    assert done.exit_code == 0, done.output
    ran = subprocess.run(
        ["make", "run", f"PYTHON={sys.executable}"],
        cwd=tmp_path / "loans",
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
        env=os.environ | {"HETEROFED_HOME": str(home)},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "auc" in ran.stdout
    assert (tmp_path / "loans" / "data" / "predictions.csv").exists()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_is_whole_and_clean(template: str, tmp_path: Path) -> None:
    paths = new_project(tmp_path / "clean", template)
    assert {each.name for each in paths} >= {"Makefile", "README.md", "host.py", "collaborator.py"}
    assert not any("@@" in each.read_text() for each in paths)
    checked = subprocess.run(
        [RUFF, "check", "--isolated", "--select", "E,F,W,I,B", "--line-length", "110", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_a_folder_that_holds_something_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        new_project(tmp_path, "tabular")
    with pytest.raises(ConfigError, match="task id"):
        new_project(tmp_path / "a:b", "tabular")
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]

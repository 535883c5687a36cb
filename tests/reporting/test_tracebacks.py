"""An error of ours ends a script with its message and remedy alone; hooks get their own frames."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heterofed.errors import ConfigError, JoinTimeoutError
from tests.e2e.processes import ROOT, Parties

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

HEAD = """
import sys
from pathlib import Path
from heterofed import simulate
from tests.e2e.tiny import TinyCollaborator, TinyHost
results = Path(sys.argv[1])
"""

HOOK = """
class Host(TinyHost):
    def train_a_batch(self, feature_projection, labels):
        return helper(labels)
def helper(labels):
    try:
        return {}["nothing"]
    except KeyError as error:
        raise ValueError("a user's own") from error
simulate(Host(results), [TinyCollaborator(results)], task_id="ends")
"""


def script(text: str, folder: Path) -> tuple[int, str]:
    path = folder / "script.py"
    path.write_text(HEAD + text)
    done = subprocess.run(
        [sys.executable, path, folder / "results"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('TinyHost(results, join_timeout=0.2).launch_task("ends")', "s in phase join for"),
        ('TinyHost(results, max_rounds=0).launch_task("ends")', "max_rounds=0"),
        ('TinyHost(results).launch_task("a/b")', "task_id"),
        ('TinyHost(results).predict("ends")', "define predict_a_batch"),
        ('simulate(TinyHost(results), [], task_id="ends")', "simulate: give"),
        (
            "import pandas\nfrom heterofed.data import VerticalTable\n"
            'VerticalTable(pandas.DataFrame({"x": [1]}), id="y")',
            "no column 'y'",
        ),
    ],
)
def test_an_expected_error_is_its_message(
    text: str, says: str, tmp_path: Path, parties: Parties
) -> None:
    path = tmp_path / "script.py"
    path.write_text(HEAD + text)
    party = parties.start(str(path), str(tmp_path / "results"))
    assert party.wait() == 1
    shown = party.output
    assert "Traceback" not in shown
    assert shown.count(says) == 1, shown
    assert "script.py:" in shown
    assert "/heterofed/" not in shown.replace(str(tmp_path), "")


@pytest.mark.long
def test_what_a_hook_raises_has_the_frames_of_its_user(tmp_path: Path) -> None:
    code, shown = script(HOOK, tmp_path)
    assert code == 1
    assert "ValueError: a user's own" in shown
    assert "KeyError: 'nothing'" in shown
    assert "in train_a_batch" in shown
    assert "in helper" in shown
    assert str(ROOT / "heterofed") not in shown


@pytest.mark.long
def test_a_bug_is_shown_whole_and_a_hook_of_the_users_stays(tmp_path: Path) -> None:
    bug = (
        "import heterofed.simulation.simulate as within\n"
        "within._together = None\n"
        "simulate(TinyHost(results), [TinyCollaborator(results)], task_id='x')"
    )
    _, shown = script(bug, tmp_path)
    assert "Traceback" in shown
    assert str(ROOT / "heterofed") in shown
    own = (
        'sys.excepthook = lambda *_: sys.stderr.write("mine")\nTinyHost(results).launch_task("a/b")'
    )
    _, shown = script(own, tmp_path)
    assert shown == "mine"


def test_notebooks_show_the_message() -> None:
    error = JoinTimeoutError("bob is not there; start it")
    error.add_note("heterofed: party alice")
    lines = error._render_traceback_()
    assert lines == ["  heterofed: party alice", "JoinTimeoutError: bob is not there; start it"]
    assert ConfigError("x").shown() == ["ConfigError: x"]


@pytest.mark.long
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_who_is_stopped_says_so(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(HEAD + 'TinyHost(results).launch_task("ends")')
    with subprocess.Popen(
        [sys.executable, path, tmp_path],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as party:
        assert party.stderr is not None
        for line in party.stderr:
            if "waiting for" in line:
                break
        time.sleep(0.2)
        party.send_signal(number)
        shown = party.stderr.read()
    assert "Traceback" not in shown
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert f"{name} ended the task in phase join" in shown
    assert party.returncode == (-2 if number == signal.SIGINT else 143)

"""What a run shows, in a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import Parties

pytestmark = pytest.mark.slow

RUN = """
import sys, threading
from pathlib import Path
from tests.e2e.tiny import TinyCollaborator, TinyHost, slow_batches
host, bob = TinyHost(Path("r"), psi_protocol="ecdh"), TinyCollaborator(Path("r"))
slow_batches(bob, 0.3)
thread = threading.Thread(target=bob.launch_task, args=("tiny",))
thread.start()
host.launch_task("tiny")
thread.join()
print("rich" in sys.modules)
"""


def command(home: Path) -> dict[str, object]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
    return {"args": [sys.executable, "-c", RUN], "cwd": home, "env": env}


def test_terminal_shows_a_bar_per_phase_and_a_line_per_round(home: Path, parties: Parties) -> None:
    ours, theirs = pty.openpty()
    there = f"import os\nos.chdir({str(home)!r})\nos.dup2(os.open({os.ttyname(theirs)!r}, 2), 2)\n"
    process = parties.start("-c", there + RUN, TERM="xterm")
    shown = _read(ours)
    os.close(theirs)  # the process has it open
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"train 1 +\u2501+ \d/\? batches", plain), plain
    assert re.search(r"train 2 +\u2501+ \d/3 batches", plain), plain  # as many as in round 1
    assert plain.count("[ROUND ") == 2, plain


@pytest.mark.long
def test_pipe_gets_lines_alone_and_loads_no_rich(home: Path) -> None:
    done = subprocess.run(**command(home), capture_output=True, text=True, check=True)  # type: ignore[call-overload]
    assert done.stdout.split()[-1] == "False"
    assert "\x1b" not in done.stderr
    assert done.stderr.count("[ROUND ") == 2


STREAMS = {
    "none": "import sys; sys.stderr = None\n",
    "all none": "import sys; sys.stderr = sys.stdout = sys.stdin = None\n",
    "closed": "import sys; sys.stderr.close()\n",
    "closed later": "",
    "gone": "import os, sys; ours, theirs = os.pipe(); os.close(ours); os.dup2(theirs, 2)\n",
}
QUIET = """
import os, sys, threading
from pathlib import Path
from heterofed import ConfigError, DataChecker
from tests.e2e.tiny import TinyCollaborator, TinyHost

class Checker(DataChecker):
    def verify_data(self):
        return True, "as they should be"

class Host(TinyHost):
    def on_round_end(self):
        if how == "closed later" and self.current_round == 1:
            sys.stderr.close()
        assert not os.path.samestat(os.fstat(2), os.stat(self.result.folder / "quality.csv"))

how = sys.argv[1]
Checker("tiny").execute_verification()
host, bob = Host(Path("r"), psi_protocol="ecdh"), TinyCollaborator(Path("r"))
thread = threading.Thread(target=bob.launch_task, args=("tiny",))
thread.start()
rounds = host.launch_task("tiny").rounds
thread.join()
try:
    host.launch_task("no/name")
except ConfigError:
    Path("rounds").write_text(str(rounds))
"""


@pytest.mark.parametrize("how", STREAMS)
def test_nothing_needs_a_stderr(tmp_path: Path, parties: Parties, how: str) -> None:
    there = f"import os\nos.chdir({str(tmp_path)!r})\n"
    process = parties.start("-c", there + STREAMS[how] + QUIET, how)
    process.wait()
    assert (tmp_path / "rounds").exists(), process.output
    assert (tmp_path / "rounds").read_text() == "2"


@pytest.mark.long
def test_nothing_needs_streams_that_are_open_at_the_start(home: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", QUIET, "closed"]
    subprocess.run(command, cwd=tmp_path, env=env, check=False)
    assert (tmp_path / "rounds").read_text() == "2"


@pytest.mark.parametrize("arguments", [["nonsense"], ["keys", "show", "nobody"], ["task", "list"]])
def test_the_command_ends_with_its_code_without_streams(home: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "heterofed", *arguments]
    quiet = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False)
    loud = subprocess.run(command, capture_output=True, check=False)
    assert quiet.returncode == loud.returncode == (0 if "list" in arguments else 2)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so where the last writer closed
        return b""

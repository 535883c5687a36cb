"""What a run shows, in a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

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


def test_terminal_shows_a_bar_per_phase_and_a_line_per_round(home: Path) -> None:
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(**command(home), stdout=subprocess.PIPE, stderr=theirs) as process:  # type: ignore[call-overload]
        os.close(theirs)
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"train 1 +\u2501+ \d/\? batches", plain), plain
    assert re.search(r"train 2 +\u2501+ \d/3 batches", plain), plain  # as many as in round 1
    assert plain.count("[ROUND ") == 2, plain


def test_pipe_gets_lines_alone_and_loads_no_rich(home: Path) -> None:
    done = subprocess.run(**command(home), capture_output=True, text=True, check=True)  # type: ignore[call-overload]
    assert done.stdout.split()[-1] == "False"
    assert "\x1b" not in done.stderr
    assert done.stderr.count("[ROUND ") == 2


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so where the last writer closed
        return b""

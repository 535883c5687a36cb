"""Runs the examples, and keeps what they print for the gallery in `docs/gallery/`.

python -m docs.record            # all of them; minutes
python -m docs.record tabular    # some
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from docs.generator.gallery import EXAMPLES, RECORDS, Example
from docs.generator.markdown import ROOT

TIMES = re.compile(r"^\S+Z [A-Z]+ \S+ \S+: |  [0-9.]+ s$")
"""What a log line begins with, and how long a round took."""


def printed(example: Example, folder: Path) -> str:
    """Return the lines of a run in a folder that the gallery shows.

    Raises:
        subprocess.CalledProcessError: the run failed.
    """
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(  # noqa: S603 - commands of our own
        shlex.split(example.command),
        cwd=folder,
        env={**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    lines = [TIMES.sub("", line).rstrip() for line in done.stdout.splitlines()]
    return "\n".join(line for line in lines if re.search(example.kept, line)) + "\n"


def record(name: str) -> None:
    """Run an example, and keep its lines and its picture."""
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        if (ROOT / "data").exists():  # MNIST, where it was fetched before
            (folder / "data").symlink_to(ROOT / "data")
        told = printed(EXAMPLES[name], folder)
        if EXAMPLES[name].picture:
            (picture,) = folder.glob("heterofed_runs/**/*.png")
            (RECORDS / f"{name}.png").write_bytes(picture.read_bytes())
    (RECORDS / f"{name}.txt").write_text(told, encoding="utf-8")
    print(told)


if __name__ == "__main__":
    RECORDS.mkdir(exist_ok=True)
    for each in sys.argv[1:] or EXAMPLES:
        record(each)

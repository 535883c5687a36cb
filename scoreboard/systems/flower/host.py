"""Flower: the SuperLink, and the run.

python -m scoreboard.systems.flower.host JOB
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from scoreboard.shared.job import Job
from scoreboard.systems.flower.commands import start

APP = Path(__file__).parent / "app"


def main(job: Job) -> int:
    """Start the SuperLink, run the app, and show its log to the end; gives the command's status."""
    local = ("--disable-runtime-dependency-installation", "--port", "{port}")
    link = start(job, "flower-superlink", "--insecure", *local)
    folder = f'folder="{job.folder.absolute()}"'
    try:
        for _ in range(20):
            time.sleep(3)  # until the SuperLink answers
            run = start(job, "flwr", "run", str(APP), "--run-config", folder, "--stream")
            if (status := run.wait()) == 0 or (job.folder / "host.pid").exists():
                return status
        return status
    finally:
        link.terminate()
        link.wait()


if __name__ == "__main__":
    sys.exit(main(Job.read(sys.argv[1])))

"""Flower: its commands, in the environment of this interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from scoreboard.shared.job import Job


def start(job: Job, command: str, *options: str) -> subprocess.Popen[bytes]:
    """Start one of Flower's commands.

    `{port}` and `{link}` in an option stand for the SuperLink's port, and the Collaborator's way
    to it.
    """
    ports = json.loads((job.folder / "ports.json").read_text())
    home = {"FLWR_HOME": str((job.folder / "flwr").absolute()), "FLWR_TELEMETRY_ENABLED": "0"}
    return subprocess.Popen(
        [Path(sys.executable).parent / command, *(each.format(**ports) for each in options)],
        env={**os.environ, **home},
    )

"""NVIDIA FLARE: where the startup kits of a job lie."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scoreboard.shared.job import Job

ADMIN = "admin@nvidia.com"


def kits(job: Job) -> Path:
    """The folder with a startup kit for each participant."""
    return job.folder.absolute() / "poc" / "scoreboard" / "prod_00"


def start(job: Job, participant: str) -> subprocess.Popen[bytes]:
    """Start a server or a site by the script of its kit, which runs on in the background."""
    return subprocess.Popen([str(kits(job) / participant / "startup" / "start.sh")])

"""Flower: its configuration of the command, for a SuperLink on this machine.

python -m scoreboard.systems.flower.prepare JOB PORT LINK
"""

from __future__ import annotations

import json
import sys

from scoreboard.shared.job import Job


def main(job: Job, port: str, link: str) -> None:
    """Write down where the SuperLink is, for the command `flwr` and for the Collaborator."""
    home = job.folder / "flwr"
    home.mkdir()
    address = f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "here"\n\n{address}')
    (job.folder / "ports.json").write_text(json.dumps({"port": port, "link": link}))


if __name__ == "__main__":
    main(Job.read(sys.argv[1]), *sys.argv[2:])

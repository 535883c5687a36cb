"""heterofed: keys, a task file and consent, with a home for each party.

    python -m scoreboard.systems.heterofed.prepare JOB PORT LINK

PORT is where the Host listens, LINK where the Collaborator finds it.
"""

from __future__ import annotations

import os
import sys

from heterofed.cli.task import accept_task, new_task
from heterofed.identity.keys import load_key, new_key
from scoreboard.shared.job import Job
from scoreboard.shared.nets import COLLABORATOR, HOST


def main(job: Job, port: str, link: str) -> None:
    """Make both homes."""
    homes = {party: job.folder / f"home-{party}" for party in (HOST, COLLABORATOR)}
    for party, home in homes.items():
        new_key(party, home)
    os.environ["HETEROFED_HOME"] = str(homes[HOST])
    key = load_key(COLLABORATOR, homes[COLLABORATOR]).public
    written = new_task(
        "scoreboard",
        host=HOST,
        address=f"tcp://127.0.0.1:{port}",
        collaborators=[f"{COLLABORATOR}={key}"],
        plan=[
            f"max_rounds={job.rounds}",
            f"batch_size={job.batch}",
            "psi_protocol=ecdh",
        ],
    )
    theirs = job.folder / "scoreboard.toml"
    theirs.write_text(written.read_text().replace(f":{port}", f":{link}"))
    os.environ["HETEROFED_HOME"] = str(homes[COLLABORATOR])
    accept_task(str(theirs), COLLABORATOR, lambda _terms, _party: True)


if __name__ == "__main__":
    main(Job.read(sys.argv[1]), *sys.argv[2:])

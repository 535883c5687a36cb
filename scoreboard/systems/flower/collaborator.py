"""Flower: the Collaborator's SuperNode.

python -m scoreboard.systems.flower.collaborator JOB
"""

import sys

from scoreboard.shared.job import Job
from scoreboard.systems.flower.commands import start

if __name__ == "__main__":
    start(
        Job.read(sys.argv[1]), "flower-supernode", "--insecure", "--superlink", "127.0.0.1:{link}"
    ).wait()

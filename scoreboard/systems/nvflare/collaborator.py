"""NVIDIA FLARE: the Collaborator's site.

python -m scoreboard.systems.nvflare.collaborator JOB
"""

import sys

from scoreboard.shared.job import Job
from scoreboard.shared.nets import COLLABORATOR
from scoreboard.systems.nvflare.kits import start

if __name__ == "__main__":
    start(Job.read(sys.argv[1]), COLLABORATOR).wait()

"""heterofed: the Collaborator of a job.

python -m scoreboard.systems.heterofed.collaborator JOB
"""

import sys

from scoreboard.systems.heterofed.party import main

if __name__ == "__main__":
    main("collaborator", sys.argv[1])

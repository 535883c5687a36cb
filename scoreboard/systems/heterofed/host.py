"""heterofed: the Host of a job.

python -m scoreboard.systems.heterofed.host JOB
"""

import sys

from scoreboard.systems.heterofed.party import main

if __name__ == "__main__":
    main("host", sys.argv[1])

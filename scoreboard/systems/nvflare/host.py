"""NVIDIA FLARE: the server, the Host's site, and the job.

python -m scoreboard.systems.nvflare.host JOB
"""

from __future__ import annotations

import sys
import time
from typing import Any

from nvflare.collab import CollabRecipe
from nvflare.recipe import ProdEnv

from scoreboard.shared.job import Job
from scoreboard.shared.nets import HOST
from scoreboard.systems.nvflare.kits import ADMIN, kits, start
from scoreboard.systems.nvflare.sites import Server, Site


def main(job: Job) -> int:
    """Start both, submit the job and wait for its end; gives 0 where FLARE says that it is done."""
    start(job, "server")
    start(job, HOST)
    recipe = CollabRecipe(job_name="scoreboard", server=Server(), client=Site(), min_clients=2)
    recipe.set_client_prop("folder", str(job.folder.absolute()))
    place = ProdEnv(str(kits(job) / ADMIN), username=ADMIN, login_timeout=60.0)
    run = submitted(recipe, place)
    result = run.get_result()
    print("status:", run.get_status(), "result:", result, flush=True)
    return 0 if run.get_status() == "FINISHED:COMPLETED" else 1


def submitted(recipe: Any, place: Any) -> Any:
    """Submit a job as soon as the server is up."""
    for _ in range(60):
        try:
            return recipe.execute(place)
        except Exception as error:
            print(f"not yet: {error}", file=sys.stderr)
            time.sleep(1)
    raise SystemExit("the server does not take the job")


if __name__ == "__main__":
    sys.exit(main(Job.read(sys.argv[1])))

"""The MNIST example's baselines: left halves alone, and both halves in one model.

python -m examples.mnist_split.baselines --task TASK   # after the task has ended
"""

from __future__ import annotations

from heterofed.baselines import MODES, compare, plot

from .collaborator import MnistCollaborator
from .host import MnistHost, arguments


def main() -> None:
    options = arguments(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    given = options.parse_args()
    limit = tuple(given.limit) if given.limit else None
    host = MnistHost(
        given.data,
        limit=limit,
        max_rounds=given.rounds,
        log_rounds=1,
        results_dir=given.results,
    )
    collaborator = MnistCollaborator(given.data, limit=limit, results_dir=given.results)
    done = compare(host, [collaborator], task_id=given.task, modes=given.modes)
    table = done.tables["test"]
    plot(table, "accuracy", table.with_name("modes.png"))


if __name__ == "__main__":
    main()

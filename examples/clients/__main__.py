"""Train one network at several clients in this process.

python -m examples.clients [--parties 10] [--rounds 3] [--secure] [--json]
"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path
from typing import Any

from examples.clients.client import Client
from examples.clients.data import load_mnist, part
from heterofed import simulate
from heterofed.homo_nn import HomoNNHostScheduler


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, prog="python -m examples.clients")
    options.add_argument("--parties", type=int, default=2)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--secure", action="store_true", help="let the Host see only sums")
    options.add_argument("--data", type=Path, default=Path("data"))
    options.add_argument("--results", type=Path, default=Path("heterofed_runs"))
    options.add_argument("--limit", type=int, nargs=2, metavar=("TRAIN", "TEST"))
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = options.parse_args()

    train, test = load_mnist(given.data, tuple(given.limit) if given.limit else None)
    settings: dict[str, Any] = {"results_dir": given.results, "seed": 0}
    server = HomoNNHostScheduler(
        "server",
        max_rounds=given.rounds,
        collaborators=given.parties,
        secure_aggregation=given.secure,
        **settings,
    )
    clients = [
        Client(f"client-{number}", part(train, number, given.parties), test, **settings)
        for number in range(given.parties)
    ]
    done = simulate(server, clients, task_id=f"clients-{secrets.token_hex(3)}")
    result = done.results["server"]
    scores = result.frame("test")
    print(scores.to_string(index=False))
    print(f"model: {result.models['model']}")
    if given.json:
        accuracies = scores["accuracy"].tolist()
        train_seconds = result.phases["train"].seconds
        compute = sum(each.phases["train"].compute for each in list(done.results.values())[1:])
        figures = {"accuracies": accuracies, "train_seconds": train_seconds, "compute": compute}
        print(json.dumps(figures))


if __name__ == "__main__":
    main()

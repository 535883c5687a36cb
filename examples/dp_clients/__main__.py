"""Train MNIST at two clients with differential privacy, and one client alone for comparison.

python -m examples.dp_clients [--json]
"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path
from typing import Any

import pandas as pd

from examples.clients.data import load_mnist
from examples.dp_clients.client import PrivateClient, plotted, train_alone
from heterofed import simulate
from heterofed.homo_nn import HomoNNHostScheduler


def run(data: Path, results: Path, rounds: int, limit: tuple[int, int] | None) -> dict[str, Any]:
    """The whole example; gives its figures."""
    train, test = load_mnist(data, limit)
    server = HomoNNHostScheduler(
        "server", max_rounds=rounds, collaborators=2, results_dir=results, seed=0
    )
    # Both have all images, as in the walkthrough that this one repeats.
    clients = [
        PrivateClient(f"client{number}", train, test, results_dir=results) for number in (1, 2)
    ]
    done = simulate(server, clients, task_id=f"dp-clients-{secrets.token_hex(3)}")
    federated = done.results["server"].frame("test")["accuracy"].tolist()
    privacy = done.results["client1"].metrics["privacy"]
    local = train_alone(train, test, rounds)
    folder = done.results["server"].folder
    curves = pd.DataFrame({"round": range(1, rounds + 1), "FT": federated, "LT": local})
    curves.to_csv(folder / "accuracy.csv", index=False)
    return {
        "epsilons": pd.read_csv(privacy)["eps_weights"].tolist(),
        "accuracies": federated,
        "local_accuracies": local,
        "csv": str(folder / "accuracy.csv"),
        "plot": str(plotted(federated, local, folder)),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, prog="python -m examples.dp_clients")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--data", type=Path, default=Path("data"))
    options.add_argument("--results", type=Path, default=Path("heterofed_runs"))
    options.add_argument("--limit", type=int, nargs=2, metavar=("TRAIN", "TEST"))
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = options.parse_args()
    limit = tuple(given.limit) if given.limit else None
    found = run(given.data, given.results, given.rounds, limit)
    if given.json:
        print(json.dumps(found))
        return
    for number in range(given.rounds):
        print(
            f"round {number + 1}: epsilon {found['epsilons'][number]:.2f},"
            f" federated {found['accuracies'][number]:.4f},"
            f" local {found['local_accuracies'][number]:.4f}"
        )
    print(f"curves: {found['plot']}")


if __name__ == "__main__":
    main()

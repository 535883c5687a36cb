"""What a round of horizontal training costs over the clients' own compute.

    python -m benchmarks.clients --parties 10 --rounds 4 --json
    python -m benchmarks.clients --parties 10 --secure

The clients of `examples.clients` train a convolutional network on MNIST, all in this process and in
turns, on one thread. Seconds of the processor are counted, so other load on the machine does not
matter: those of the whole process, and those within the clients' hooks `train_a_round` and `test`.
The first round is left out, since models are made and libraries are loaded in it.

Gives `ratio` (all seconds by those of the hooks), `rest_ms` (what a round costs beside the hooks),
`round_s` and `hooks_s`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from examples.clients.client import Client
from examples.clients.data import load_mnist, part
from heterofed import simulate
from heterofed.homo_nn import HomoNNHostScheduler


class Clock:
    """Seconds of the processor, of the whole process and within hooks, at the end of each round."""

    def __init__(self) -> None:
        self.hooks = 0.0
        self.rounds: list[tuple[float, float]] = []

    def of_hook(self, hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a hook whose seconds are counted."""

        def call(model: Any) -> Any:
            began = time.process_time()  # the other parties' threads wait meanwhile
            try:
                return hook(model)
            finally:
                self.hooks += time.process_time() - began

        return call

    def round_ended(self) -> None:
        """Note the seconds so far."""
        self.rounds.append((time.process_time(), self.hooks))


class Server(HomoNNHostScheduler):
    """A Host that notes when its rounds end."""

    clock: Clock

    def on_round_end(self) -> None:
        self.clock.round_ended()


def measured(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run all parties, and return the figures."""
    train, test = load_mnist(args.data, (args.images, args.images // 10))
    settings: dict[str, Any] = {"results_dir": folder, "seed": 0}
    server = Server(
        "server",
        max_rounds=args.rounds,
        collaborators=args.parties,
        secure_aggregation=args.secure,
        **settings,
    )
    clock = server.clock = Clock()
    clients: list[Any] = []
    for number in range(args.parties):
        own = part(train, number, args.parties)
        clients.append(Client(f"client-{number}", own, test, **settings))
        for hook in ("train_a_round", "test"):
            setattr(clients[-1], hook, clock.of_hook(getattr(clients[-1], hook)))
    simulate(server, clients, task_id="clients")
    (began, hooks_before), (ended, hooks_after) = clock.rounds[0], clock.rounds[-1]
    rounds = len(clock.rounds) - 1
    round_s, hooks_s = (ended - began) / rounds, (hooks_after - hooks_before) / rounds
    return {
        "ratio": round(round_s / hooks_s, 3),
        "rest_ms": round((round_s - hooks_s) * 1e3, 1),
        "round_s": round(round_s, 3),
        "hooks_s": round(hooks_s, 3),
    }


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(
        description=__doc__,
        prog="python -m benchmarks.clients",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--parties", type=int, default=10)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--images", type=int, default=10_000, help="images to train on, of all")
    options.add_argument("--secure", action="store_true", help="let the Host see only sums")
    options.add_argument("--data", type=Path, default=Path("data"))
    options.add_argument("--repeats", type=int, default=1, help="runs, of which the best counts")
    options.add_argument("--json", action="store_true", help="print JSON")
    args = options.parse_args()
    if args.rounds < 2:
        raise SystemExit("--rounds: give 2 or more, since the first one is left out")
    torch.set_num_threads(1)
    runs = []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measured(args, Path(folder)))
    figures = min(runs, key=lambda each: each["ratio"])
    shown = {**figures, "parties": args.parties, "images": args.images, "secure": args.secure}
    print(json.dumps(shown) if args.json else "\n".join(f"{k}: {v}" for k, v in shown.items()))


if __name__ == "__main__":
    main()

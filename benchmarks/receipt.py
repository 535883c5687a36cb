"""What receipts cost: the share of the training that a party spends on its receipt.

    python -m benchmarks.receipt --data DEFAULT_CREDIT_FOLDER --json

Two processes train on `default_credit` over TCP with keys, and sign receipts. Timed is every call
of the transcript, which digests all messages, and of the receipt, which writes, syncs and signs.
`overhead` is the largest share of a party, of the seconds of its run or of its CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.limits import Collaborator, Host, show
from benchmarks.privacy_tasks import credit
from heterofed.cli.task import accept_task, new_task
from heterofed.files import heterofed_home
from heterofed.identity.keys import new_key
from heterofed.identity.signing import make_signing_key
from heterofed.messaging.transcript import Transcript
from heterofed.runs.receipt import Receipt

TIMED = {
    Transcript: ("left", "came", "end", "digests"),
    Receipt: ("__init__", "note", "end", "say", "hear", "seal"),
}
ADDRESS = "tcp://127.0.0.1:7391"


class Clock:
    """Adds up the seconds of calls; a call within another one counts once."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.calls: dict[str, int] = {}
        self.took: dict[str, float] = {}
        self._inside = False

    def time(self, kind: type[Any], name: str) -> None:
        """Let all calls of a method be counted from now on."""
        method = getattr(kind, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return method(*args, **kwargs)
            self._inside = True
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                took = time.perf_counter() - wall
                self.wall += took
                self.cpu += time.thread_time() - cpu
                call = f"{kind.__name__}.{name}"
                self.calls[call] = self.calls.get(call, 0) + 1
                self.took[call] = self.took.get(call, 0.0) + took
                self._inside = False

        setattr(kind, name, timed)


def agree(rounds: int, batch: int) -> None:
    """Make the keys and the task file, and consent."""
    home = heterofed_home()
    public = {party: new_key(party, home).public for party in ("bank", "shop")}
    new_task(
        "receipt",
        host="bank",
        address=ADDRESS,
        collaborators=[f"shop={public['shop']}"],
        plan=["psi_protocol=ecdh", f"max_rounds={rounds}", f"batch_size={batch}"],
        signing=[f"shop={make_signing_key('shop', home).public}"],
    )
    accept_task("receipt", "shop", lambda _terms, _party: True)


def take_part(args: Any) -> dict[str, Any]:
    """Be one party, in a process of its own; gives what its receipt took."""
    clock, task = Clock(), credit(args.data, args.rows)
    for kind, names in TIMED.items():
        for name in names:
            clock.time(kind, name)
    party: Any = Collaborator(task, results_dir=args.folder)
    if args.party == "bank":
        rounds, batch = args.rounds, args.batch
        party = Host(task, max_rounds=rounds, batch_size=batch, results_dir=args.folder)
    began = time.process_time()
    result = party.launch_task("receipt")
    cpu = time.process_time() - began
    return {
        "share_of_seconds": clock.wall / result.seconds,
        "share_of_cpu": clock.cpu / cpu,
        "seconds": result.seconds,
        "cpu_seconds": cpu,
        "calls": clock.calls,
        "receipt_ms": {name: 1000 * found for name, found in clock.took.items()},
    }


def measured(args: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hf") as folder:
        os.environ["HETEROFED_HOME"] = str(Path(folder) / "home")
        agree(args.rounds, args.batch)
        given = [sys.executable, "-m", "benchmarks.receipt", *sys.argv[1:], f"--folder={folder}"]
        running = {
            party: subprocess.Popen([*given, f"--party={party}"], stdout=subprocess.PIPE)
            for party in ("bank", "shop")
        }
        found = {party: json.loads(each.communicate()[0]) for party, each in running.items()}
    shares = [
        each[name] for each in found.values() for name in ("share_of_seconds", "share_of_cpu")
    ]
    return {"overhead": max(shares), "rounds": args.rounds, **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of guest.csv and host.csv")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, help="only so many rows")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--party", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = take_part(args) if args.party else measured(args)
    show(found, as_json=args.json or bool(args.party))


if __name__ == "__main__":
    main()

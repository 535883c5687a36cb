"""What a record costs: the CPU of the training with and without `record="inbound"`.

    python -m benchmarks.recording --data DEFAULT_CREDIT_FOLDER --json

One process trains on `default_credit` with both parties (`simulate`), by turns with two records and
with none. Timed is the CPU of the process in all phases `train`, and written are the bytes of both
records. `overhead` is the median of the pairs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.limits import Collaborator, Host, show
from benchmarks.privacy_tasks import Task, credit
from heterofed import simulate
from heterofed.events import Event, PhaseBegan, PhaseEnded


class Clock:
    """Adds up the CPU seconds of the phases `train`."""

    def __init__(self) -> None:
        self.seconds = self._since = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseBegan) and event.phase == "train":
            self._since = time.process_time()
        if isinstance(event, PhaseEnded) and event.phase == "train":
            self.seconds += time.process_time() - self._since


def trained(task: Task, args: Any, folder: Path, record: str | None) -> tuple[float, int]:
    """The CPU seconds of a training, and the bytes of its records."""
    clock, given = Clock(), {"record": record, "results_dir": folder}
    bank = Host(
        task,
        max_rounds=args.rounds,
        batch_size=args.batch,
        callbacks=[clock],
        recording=True,
        **given,
    )
    simulate(bank, [Collaborator(task, **given)], task_id=f"record-{record}")
    return clock.seconds, sum(each.stat().st_size for each in folder.rglob("*.record"))


def measured(args: Any) -> dict[str, Any]:
    task, pairs, written = credit(args.data, args.rows), list[tuple[float, float]](), 0
    for number in range(args.pairs + 1):
        found = {}
        for record in sorted((None, "inbound"), key=str, reverse=bool(number % 2)):
            with tempfile.TemporaryDirectory(prefix="hf") as folder:
                os.environ["HETEROFED_HOME"] = str(Path(folder) / "home")
                found[record], size = trained(task, args, Path(folder), record)
                written = max(written, size)
        if number:  # the first pair warms up
            pairs.append((found[None], found["inbound"]))
    return {
        "overhead": statistics.median(more / less - 1 for less, more in pairs),
        "cpu_seconds": statistics.median(less for less, _ in pairs),
        "cpu_seconds_recorded": statistics.median(more for _, more in pairs),
        "record_bytes": written,
        "batches": args.rounds * -(-task.train // args.batch),
        "pairs": pairs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of guest.csv and host.csv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, help="only so many rows")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    show(measured(args), as_json=args.json)


if __name__ == "__main__":
    main()

"""How many rows of a table are trained and predicted in a second, against the joined model.

    python -m benchmarks.tabular --data ../shared/data/default_credit --json

The default MLP on two tables, by the tabular schedulers over loopback, each party a process of its
own; and the same halves joined in one process by plain PyTorch, with all threads and one optimizer.
Ratios are seconds of a training round, split over joined, medians over all rounds but the first of
each run; above 1 the split run is slower. `rows_per_s` are rows of the train part per second of a
round, and of a prediction without its intersection. Runs are measured in turn, `--repeats` times.
The parties' optimizers are fused, and the joined model's is PyTorch's default one; `joined_fused`
is what it takes with a fused one.

The made table stands for one of millions of rows. For training, parties intersect eight names that
stand for all ids, since the benchmark of intersections is `benchmarks.psi`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STANDING = [f"name-{number}" for number in range(8)]
COLUMNS = {"host": 13, "collaborator": 10}
BATCHES = (256, 4096)


def made_table(role: str, rows: int) -> Any:
    """One party's columns of a made table: numbers, and at the Host a label that hangs on them."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(len(role))
    values = random.standard_normal((rows, COLUMNS[role]), dtype=np.float32)
    frame = pd.DataFrame(values, columns=[f"x{at}" for at in range(COLUMNS[role])])
    frame.insert(0, "id", np.char.mod("%08d", np.arange(rows)).astype(object))
    if role == "host":
        chance = 1 / (1 + np.exp(-values[:, :4].sum(axis=1)))
        frame["y"] = (random.random(rows) < chance).astype(int)
    return frame


def table_of(role: str, data: Path, rows: int) -> Any:
    if rows:
        return made_table(role, rows)
    return data / ("guest.csv" if role == "host" else "host.csv")


def make_party(role: str, table: Any, order: dict[str, Any], note: Any, folder: Path) -> Any:
    from heterofed.tabular import TabularCollaborator, TabularHost

    parent: Any = TabularHost if role == "host" else TabularCollaborator

    class Standing(parent):  # type: ignore[misc]
        """Intersects a few names, and trains on the rows of the table."""

        trains = True

        def load_local_ids(self) -> list[str]:
            ids: list[str] = STANDING if self.trains else super().load_local_ids()
            return ids

        def split_dataset(self, _names: set[str]) -> tuple[set[str], set[str]]:
            parts: tuple[set[str], set[str]] = super().split_dataset(set(super().load_local_ids()))
            return parts

    settings: dict[str, Any] = {"callbacks": [note], "results_dir": folder, "join_timeout": 600}
    if role == "host":
        settings |= {"label": "y", "psi_protocol": "ecdh", "patience": 1000}
        settings |= {"calculation_timeout": 0, **order["settings"]}
    return Standing(role, table, ids="id", **settings)


def serve(role: str, data: Path, orders: list[dict[str, Any]], out: Path) -> None:
    """A party's process: one task after the other; what they took goes to `out`."""
    import logging

    from heterofed.events import PhaseEnded

    logging.getLogger("heterofed").setLevel(logging.ERROR)
    found, tables = [], {}
    for order in orders:
        rows = order["rows"]
        ended: list[Any] = []
        if rows not in tables:
            tables = {rows: table_of(role, data, rows)}  # one at a time in memory
        with tempfile.TemporaryDirectory() as folder:

            def note(event: object, ended: list[Any] = ended) -> None:
                if isinstance(event, PhaseEnded):
                    ended.append(event)

            party = make_party(role, tables[rows], order, note, Path(folder))
            party.launch_task(order["task"])
            train = [each.seconds for each in ended if each.phase == "train"]
            trained, ended[:] = len(party.train_ids), []
            predicted = 0
            party.trains = False
            if order["predicts"]:
                if role == "host":
                    predicted = len(party.predict(order["task"]))
                else:
                    limits = {"max_rows_per_day": 10**9, "requests": 1}
                    party.serve_predictions(order["task"], **limits)
        seconds = sum(each.seconds for each in ended if each.phase == "predict")
        found.append(
            {
                "seconds": train,
                "rows": trained,
                "predict_rows": predicted,
                "predict_seconds": seconds,
            }
        )
    out.write_text(json.dumps(found))


def joined(data: Path, rows: int, batch: int, rounds: int, *, fused: bool) -> dict[str, Any]:
    """The same halves in one process, with a `fused` optimizer as in the parties or a plain one."""
    import torch

    from heterofed.tabular.models import Half, HalfPlan, Top, TopPlan
    from heterofed.tabular.objectives import Objective, read_labels
    from heterofed.tabular.splits import Split
    from heterofed.tabular.table import LocalTable

    tables = {
        role: LocalTable(table_of(role, data, rows), ids="id", label="y" if role == "host" else ())
        for role in COLUMNS
    }
    ids, _ = (list(tables[role].read_ids(None)) for role in COLUMNS)
    train = Split(validation=0.1).parts(ids).train
    reading = read_labels(tables["host"].all_labels())
    labels = reading.encode(tables["host"].labels(train))
    objective = Objective(labels=reading).fit(labels)
    sizes: dict[str, Any] = {"width": 32, "hidden": 64, "dropout": 0.3, "model": "mlp"}
    halves: list[Any] = []
    inputs: list[Any] = []
    order: Any = torch.arange(len(train))
    for table in tables.values():
        preparation = table.fit(train, "mlp")
        table.load(train, preparation)
        inputs.append(next(iter(table.batches(train, len(train)))).inputs)
        halves.append(Half(HalfPlan(outputs=1, preparation=preparation, **sizes)))
    top = Top(TopPlan(parties=2, objective=objective, **sizes))
    weights = [each for net in (*halves, top) for each in net.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=1e-2, fused=fused)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        for some in order[torch.randperm(len(train))].split(batch):
            projection = {
                str(at): half(given.take(some))
                for at, (half, given) in enumerate(zip(halves, inputs, strict=True))
            }
            optimizer.zero_grad()
            loss = objective.loss(top(projection), labels[some])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()  # recorded, as in a split run
        seconds.append(time.perf_counter() - began)
    for net in (*halves, top):
        net.eval()
    began = time.perf_counter()
    with torch.no_grad():
        for some in order.split(4096):
            projection = {
                str(at): half(given.take(some))
                for at, (half, given) in enumerate(zip(halves, inputs, strict=True))
            }
            objective.scores(top(projection))
    return {
        "seconds": seconds,
        "rows": len(train),
        "predict_rows": len(train),
        "predict_seconds": time.perf_counter() - began,
    }


@contextlib.contextmanager
def homes() -> Iterator[dict[str, str]]:
    """A `HETEROFED_HOME` for the parties, which meet there."""
    with tempfile.TemporaryDirectory(prefix="hf-") as folder:
        yield {**os.environ, "HETEROFED_HOME": folder, "PYTHONPATH": str(ROOT)}


def run_parties(data: Path, orders: list[dict[str, Any]], timeout: float) -> list[dict[str, Any]]:
    """What the Host measured of each order."""
    with homes() as env, tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "orders.json"
        plan.write_text(json.dumps(orders))
        started = {
            role: subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.tabular", "--serve", role),
                    *("--data", str(data), "--orders", str(plan)),
                    *("--out", str(Path(folder) / f"{role}.out")),
                ],
                cwd=ROOT,
                env=env,
                stdout=subprocess.DEVNULL,
            )
            for role in COLUMNS
        }
        try:
            for role, process in started.items():
                if process.wait(timeout):
                    raise RuntimeError(f"the {role} ended with {process.returncode}")
        finally:
            for process in started.values():
                process.kill()
        found: list[dict[str, Any]] = json.loads((Path(folder) / "host.out").read_text())
        return found


def orders_of(args: argparse.Namespace, repeat: int) -> dict[str, dict[str, Any]]:
    def order(batch: int, staleness: int, rows: int, rounds: int) -> dict[str, Any]:
        kind = "made" if rows else "credit"
        return {
            "task": f"{kind}-{batch}-{staleness}-{repeat}",
            "rows": rows,
            "predicts": not rows and not staleness and batch == 256 and not repeat,
            "settings": {
                "batch_size": batch,
                "max_staleness": staleness,
                "max_rounds": rounds,
            },
        }

    found = {
        "exact_256": order(256, 0, 0, args.rounds),
        "stale4_256": order(256, 4, 0, args.rounds),
        "exact_4096": order(4096, 0, 0, args.rounds),
        "stale4_4096": order(4096, 4, 0, args.rounds),
    }
    if args.made and not repeat:
        found["made_exact_4096"] = order(4096, 0, args.made, 2)
        found["made_stale4_4096"] = order(4096, 4, args.made, 2)
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    load = os.getloadavg()[0]
    seconds: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}

    def take(name: str, found: dict[str, Any]) -> None:
        seconds.setdefault(name, []).extend(found["seconds"][1:])
        rates.setdefault(f"train_{name}", []).extend(
            found["rows"] / each for each in found["seconds"][1:]
        )
        if found["predict_rows"]:
            rates.setdefault(f"predict_{name}", []).append(
                found["predict_rows"] / found["predict_seconds"]
            )

    for repeat in range(args.repeats):
        for batch in BATCHES:
            for name, fused in (("joined", False), ("joined_fused", True)):
                take(f"{name}_{batch}", joined(args.data, 0, batch, args.rounds, fused=fused))
        orders = orders_of(args, repeat)
        for name, found in zip(
            orders, run_parties(args.data, list(orders.values()), args.timeout), strict=True
        ):
            take(name, found)
        if args.made and not repeat:
            take("made_joined_4096", joined(args.data, args.made, 4096, 2, fused=False))
    typical = {name: statistics.median(each) for name, each in seconds.items()}
    result: dict[str, Any] = {
        f"{name}_ratio_{batch}": typical[f"{name}_{batch}"] / typical[f"joined_{batch}"]
        for name in ("exact", "stale4")
        for batch in BATCHES
    }
    result["rows_per_s"] = {
        name: round(statistics.median(each)) for name, each in sorted(rates.items())
    }
    result["epoch_s"] = typical
    if args.made:
        result["made_rows"] = args.made
        for name in ("exact", "stale4"):
            result[f"made_{name}_ratio_4096"] = (
                typical[f"made_{name}_4096"] / typical["made_joined_4096"]
            )
    result["load_before"] = load
    return result


def show(result: dict[str, Any]) -> None:
    for key, value in result.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, each in value.items():
                print(f"  {name:<28}{each:12,.2f}")
        else:
            print(f"{key:<30}{value:12,.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tabular", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of guest.csv, host.csv")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=4, help="of each run; the first warms up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--made", type=int, default=5_000_000, help="rows of a made table; 0: none")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for all runs of one")
    parser.add_argument("--serve", choices=list(COLUMNS), help=argparse.SUPPRESS)
    parser.add_argument("--orders", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.data = args.data.resolve()
    if args.serve:
        serve(args.serve, args.data, json.loads(args.orders.read_text()), args.out)
        return
    result = measure(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()

"""Memory and rows per second of training on a table that does not fit into memory.

    python -m benchmarks.large_table --rows 10000000 --columns 50 --json

Makes a CSV file of numbers, some cells missing, and one column of words; opens it in a process of
its own and goes there through what one party does with its table beside computing: look at the
columns, read ids, split them, fit and prepare the rows, read labels, and read all batches of a
round in shuffled order. `peak_mb` is the largest resident memory of that process so far, PyTorch
included, at the end of each step.

Then two parties in processes of their own intersect and train on the first `--two-party-rows` rows
of it, by the tabular schedulers: seconds and peak memory at the end of each phase.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BATCHES = (256, 4096)
BYTES_OF_A_CELL = 40
"""On disk: in the CSV file, in DuckDB's, and in that of prepared rows."""
ROOT = Path(__file__).resolve().parents[1]


def make(path: Path, rows: int, columns: int) -> None:
    """A table of an id, a label that hangs on the numbers, numbers, and a column of words."""
    import duckdb

    cells = [f"hash(range * {columns} + {at})" for at in range(columns - 1)]
    numbers = ", ".join(
        f"CASE WHEN {cell} % 50 = 0 THEN NULL ELSE round({cell} % 1000000 / 100, 2)"
        f"::DECIMAL(8, 2) END AS x{at}"
        for at, cell in enumerate(cells)
    )
    label = f"CASE WHEN {cells[0]} % 1000000 + {cells[1]} % 1000000 > 1000000 THEN 1 ELSE 0 END"
    with duckdb.connect() as base:
        base.execute("SET memory_limit = '1GB'")
        base.execute(
            f"COPY (SELECT printf('%09d', range * 7) AS id, {label} AS y, {numbers},"
            f" 'town ' || range % 1000 AS town FROM range({rows})) TO '{path}'"
            " (HEADER, DELIMITER ',')"
        )


def peak_mb() -> int:
    """Of this process alone: what getrusage tells counts that of the process before exec, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    (line,) = (each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


def measure(path: Path) -> dict[str, Any]:
    """One party's data side; to be called in a fresh process."""
    from heterofed.compute.alignment import shuffled
    from heterofed.compute.packed_ids import OrderedIds, PackedIds
    from heterofed.tabular.models import Half, HalfPlan
    from heterofed.tabular.objectives import Objective, read_labels
    from heterofed.tabular.splits import Split
    from heterofed.tabular.table import LocalTable
    from heterofed.tabular.targets import Targets

    found: dict[str, Any] = {"start_peak_mb": peak_mb()}

    @contextmanager
    def step(name: str, rows: int) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        found[f"{name}_s"] = round(seconds, 1)
        found[f"{name}_rows_per_s"] = round(rows / max(seconds, 1e-3))
        found[f"{name}_peak_mb"] = peak_mb()
        print(f"{name}: {seconds:.1f} s, at most {peak_mb()} MB", file=sys.stderr, flush=True)

    began = time.monotonic()
    table = LocalTable(path, ids="id", label="y")
    rows = table.source.rows
    found["open_s"], found["open_peak_mb"] = round(time.monotonic() - began, 1), peak_mb()
    with step("inspect", rows):
        columns = len(table.columns)
    with step("ids", rows):
        ids = PackedIds.in_order(table.read_ids(None))
    with step("split", rows):
        places = Split(validation=0.1).places(ids)
        train, validation, test = map(ids.take, places)
        rest = validation + test
        del ids, places, validation, test
    with step("fit", len(train)):
        preparation = table.fit(train, "mlp")
    with step("prepare", rows):
        table.load(train + rest, preparation)
    with step("labels", rows):
        objective = Objective(labels=read_labels(table.all_labels()))
        targets = Targets.of(table, objective, train + rest)
    half = Half(
        HalfPlan(model="mlp", outputs=1, width=32, hidden=64, dropout=0.3, preparation=preparation)
    )
    for number, size in enumerate(BATCHES):
        with step(f"epoch_{size}", len(train)):
            order = shuffled(len(train), seed=1, round_number=number)
            for batch in table.batches(OrderedIds(train, order), size):
                targets.of_rows(batch.rows)
    with step("forward_4096", len(train)):
        for batch in table.batches(train, 4096):
            half(batch.inputs)
    return found | {"rows": rows, "columns": columns}


def take_part(role: str, path: Path, folder: Path) -> dict[str, Any]:
    """One of two parties that train; to be called in a fresh process."""
    import logging

    from heterofed.events import PhaseEnded
    from heterofed.tabular import TabularCollaborator, TabularHost

    logging.getLogger("heterofed").setLevel(logging.ERROR)
    phases: dict[str, dict[str, float]] = {}

    def note(event: object) -> None:
        if isinstance(event, PhaseEnded):
            phases[event.phase] = {"s": round(event.seconds, 1), "peak_mb": peak_mb()}

    common: dict[str, Any] = {"ids": "id", "results_dir": folder, "callbacks": [note]}
    party: Any
    if role == "host":
        party = TabularHost(
            role,
            path,
            label="y",
            psi_protocol="ecdh",
            max_rounds=1,
            batch_size=4096,
            calculation_timeout=0,
            leak_report="off",
            **common,
        )
    else:
        columns = [f"x{at}" for at in range(20, 40)]
        party = TabularCollaborator(role, path, columns=columns, **common)
    party.launch_task("large")
    return {"train_rows": len(party.train_ids), "phases": phases}


def together(path: Path, timeout: float) -> dict[str, Any]:
    """Two parties' phases, by role."""
    with tempfile.TemporaryDirectory(prefix="hf-") as home:
        env = {**os.environ, "HETEROFED_HOME": home, "PYTHONPATH": str(ROOT)}
        started = {
            role: subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.large_table", "--take-part", role),
                    *("--measure", str(path), "--folder", home),
                ],
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                text=True,
            )
            for role in ("host", "collaborator")
        }
        try:
            said = {role: each.communicate(timeout=timeout)[0] for role, each in started.items()}
        finally:
            for each in started.values():
                each.kill()
        found = {role: json.loads(each.splitlines()[-1]) for role, each in said.items()}
    train = found["host"]["phases"]["train"]["s"]
    rows = found["host"].pop("train_rows")
    found["collaborator"].pop("train_rows")
    return {"train_rows": rows, "train_rows_per_s": round(rows / max(train, 0.1)), **found}


def head(path: Path, rows: int, place: Path) -> Path:
    """The first rows of a CSV file, in one of their own."""
    with path.open("rb") as source, place.open("wb") as copy:
        for line, _ in zip(source, range(rows + 1), strict=False):
            copy.write(line)
    return place


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_table", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=50, help="beside id and label")
    parser.add_argument(
        "--two-party-rows", type=int, default=1_000_000, help="0: no training of two parties"
    )
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for the two parties")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--take-part", choices=["host", "collaborator"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.take_part:
        print(json.dumps(take_part(given.take_part, given.measure, given.folder)))
        return
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="heterofed-bench-") as folder:
        path = Path(folder) / "table.csv"
        needed = given.rows * (given.columns + 2) * BYTES_OF_A_CELL
        if (free := shutil.disk_usage(folder).free) < needed:
            parser.error(f"{folder} has {free >> 20} MB free, and {needed >> 20} MB are needed")
        make(path, given.rows, given.columns)
        command = [sys.executable, "-m", "benchmarks.large_table", "--measure", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        found |= {"file_mb": path.stat().st_size >> 20, "load": os.getloadavg()[0]}
        if given.two_party_rows:
            small = head(path, given.two_party_rows, Path(folder) / "part.csv")
            found["two_parties"] = together(small, given.timeout)
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<24} {value}")


if __name__ == "__main__":
    main()

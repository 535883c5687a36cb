"""Memory and rows per second of a table that does not fit into memory.

    python -m benchmarks.table_source --rows 10000000 --columns 50 [--format csv] [--json]

Makes the table in a temporary folder, opens it in a process of its own, and measures there: opening
and looking at the columns, reading all of it in parts, and taking random batches by id.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

BATCH, BATCHES = 4096, 50


def make(path: Path, rows: int, columns: int) -> None:
    """A table of an id, numbers with two decimals, and one column of categories."""
    import duckdb

    numbers = ", ".join(
        f"round(hash(range * {columns} + {at}) % 1000000 / 100, 2)::DECIMAL(8, 2) AS x{at}"
        for at in range(columns - 1)
    )
    form = "HEADER, DELIMITER ','" if path.suffix == ".csv" else "FORMAT parquet"
    with duckdb.connect() as base:
        base.execute(
            f"COPY (SELECT printf('%09d', range * 7) AS id, {numbers},"
            f" 'town ' || range % 1000 AS town FROM range({rows})) TO '{path}' ({form})"
        )


def measure(path: Path) -> dict[str, float]:
    """Read the table in every way; to be called in a fresh process."""
    from heterofed.tabular.ids import IdIndex
    from heterofed.tabular.inspect import inspect
    from heterofed.tabular.sources import open_source

    found: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        found[f"{name}_s"] = round(time.monotonic() - began, 2)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found[f"{name}_peak_mb"] = round(peak / 1024)

    with timed("open"):
        source = open_source(path)
    with timed("inspect"):
        report = inspect(source, ids="id")
    with timed("ids"):
        index = IdIndex(source, "id")
    typed = source.typed(report.features)
    with timed("first_take"):  # makes the file of records
        typed.take([0])
    order = np.random.default_rng(0).permutation(source.rows)[: BATCH * BATCHES]
    wanted = [f"{row * 7:09}" for row in order.tolist()]
    with timed("take"):
        for start in range(0, len(wanted), BATCH):
            frame = typed.take(index.positions(wanted[start : start + BATCH]))
    with timed("chunks"):
        read = sum(len(part) for part in typed.chunks())
    found |= {
        "rows": source.rows,
        "columns": len(source.columns),
        "take_rows_per_s": round(len(wanted) / max(found["take_s"], 0.01)),
        "chunks_rows_per_s": round(read / max(found["chunks_s"], 0.01)),
        "last_x0": float(frame["x0"].iloc[-1]),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=50, help="beside the id")
    parser.add_argument("--format", choices=["csv", "parquet"], default="csv")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="heterofed-bench-") as folder:
        path = Path(folder) / f"table.{given.format}"
        make(path, given.rows, given.columns)
        command = [sys.executable, "-m", "benchmarks.table_source", "--measure", str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout) | {"file_mb": path.stat().st_size >> 20}
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()

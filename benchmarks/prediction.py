"""Rows per second of a joint prediction: the tabular example's three parties over loopback.

    python -m benchmarks.prediction [--rows 100000] [--psi ecdh]

Trains one round on some of the rows in this process, then predicts all of them with each party in
a process of its own, over the Unix socket. Ends with one line of JSON: `rows_per_second` is that of
the phase `predict` at the Host (features, wire, model on top).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from examples.tabular.parties import WIDTH, Colleague, Hospital
from heterofed import simulate
from heterofed.data import VerticalTable, vertical_split

HOST, OTHERS = "hospital", ["lab", "clinic"]
TRAINED, BATCH = 500, 8192


def tables(rows: int) -> dict[str, VerticalTable]:
    """Thirty columns of random numbers; all parties have all rows, in orders of their own."""
    numbers = np.random.default_rng(0).standard_normal((rows, 30))
    frame = pd.DataFrame(numbers, columns=[f"c{place:02}" for place in range(30)])
    frame["label"] = (numbers.sum(axis=1) > 0).astype(int)
    frame["id"] = [f"row-{row:07}" for row in range(rows)]
    cut: dict[str, VerticalTable] = vertical_split(
        frame, parties=[HOST, *OTHERS], label_owner=HOST, label="label", id="id", overlap=1.0
    )
    return cut


class _Big:
    """Big batches where rows are predicted, and a training on few of them."""

    table: VerticalTable

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        ids = sorted(id_intersection)
        return set(ids[:TRAINED]), set(ids[TRAINED : TRAINED + 100])

    def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Any:
        from heterofed import Batch

        for features, _, ids in self.table.batches(predict_ids, BATCH):
            yield Batch(feature_model(features), ids=ids)


class BigHost(_Big, Hospital):
    """The Host."""


class BigColleague(_Big, Colleague):
    """A Collaborator."""


def party(name: str, rows: int, results: str, psi: str) -> Any:
    """A party's scheduler."""
    settings: dict[str, Any] = {"results_dir": results, "seed": 0}
    table = tables(rows)[name]
    if name != HOST:
        return BigColleague(name, table, **settings)
    return BigHost(name, table, max_rounds=1, collaborators=OTHERS, psi_protocol=psi, **settings)


def serve(name: str, rows: int, results: str) -> None:
    """A Collaborator's process."""
    party(name, rows, results, "ecdh").serve_predictions(
        "bench", max_rows_per_day=2**40, requests=1
    )


def measure(rows: int, psi: str) -> dict[str, Any]:
    """Train, then predict; gives the figures."""
    with tempfile.TemporaryDirectory() as results, tempfile.TemporaryDirectory(dir="/tmp") as home:
        os.environ["HETEROFED_HOME"] = home
        everybody = {name: party(name, rows, results, psi) for name in (HOST, *OTHERS)}
        simulate(everybody[HOST], [everybody[name] for name in OTHERS], task_id="bench")
        context = multiprocessing.get_context("spawn")
        children = [context.Process(target=serve, args=(name, rows, results)) for name in OTHERS]
        for child in children:
            child.start()
        began = time.monotonic()
        frame = everybody[HOST].predict("bench")
        seconds = time.monotonic() - began
        for child in children:
            child.join()
        summary = json.loads((Path(results) / f"bench/{HOST}/predictions/summary.json").read_text())
        phases = summary["phases"]
        return {
            "rows": len(frame),
            "parties": 3,
            "width": WIDTH,
            "threads": torch.get_num_threads(),
            "rows_per_second": round(len(frame) / phases["predict"]["seconds"]),
            "predict_seconds": phases["predict"]["seconds"],
            "psi_seconds": phases["psi"]["seconds"],
            "seconds": round(seconds, 3),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--psi", choices=["rsa", "ecdh"], default="ecdh")
    given = parser.parse_args()
    print(json.dumps(measure(given.rows, given.psi)))

"""Train, predict and compare on the breast-cancer data, all three parties in this process.

python -m examples.tabular [--json]
"""

from __future__ import annotations

import argparse
import csv
import json
import secrets
import time
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.metrics import roc_auc_score

from examples.tabular.data import CLINIC, HOST, LAB, load_parties
from examples.tabular.joined import train_joined
from examples.tabular.parties import Colleague, Hospital
from heterofed import simulate, simulate_prediction
from heterofed.baselines import plot


def last_auc(table: Path) -> dict[str, float]:
    """The last round's AUC of each mode."""
    with table.open(newline="") as file:
        return {row["mode"]: float(row["auc"]) for row in csv.DictReader(file)}


def run(results: Path, *, rounds: int = 20, seed: int = 0) -> dict[str, Any]:
    """The whole example; gives its figures."""
    began = time.monotonic()
    tables = load_parties(seed=seed)
    task = f"tabular-{secrets.token_hex(3)}"
    others = [LAB, CLINIC]
    settings: dict[str, Any] = {"results_dir": results, "seed": seed}
    host = Hospital(
        HOST,
        tables[HOST],
        max_rounds=rounds,
        log_rounds=1,
        collaborators=others,
        psi_protocol="ecdh",
        **settings,
    )
    colleagues = [Colleague(name, tables[name], **settings) for name in others]
    done = simulate(host, colleagues, task_id=task, baselines=["local", "pooled"])
    if done.comparison is None:
        raise RuntimeError("simulate was asked for baselines")
    curve = plot(
        done.comparison.tables["test"], "auc", results.absolute() / task / HOST / "modes.png"
    )

    held_out = host.test_ids
    frame: pd.DataFrame = simulate_prediction(host, colleagues, task_id=task, ids=held_out).results[
        HOST
    ]
    labels = tables[HOST].labels(held_out)
    joined = train_joined(
        tables, HOST, train_ids=host.train_ids, test_ids=held_out, rounds=rounds, seed=seed
    )
    # Also patients whom a colleague does not know; by who had the row.
    known = {patient for table in tables.values() for patient in table.ids}
    partly = sorted(known & set(tables[HOST].ids) - set(host.train_ids))
    mixed: pd.DataFrame = simulate_prediction(
        host, colleagues, task_id=task, ids=partly, missing_party="mean"
    ).results[HOST]
    mixed["label"] = tables[HOST].labels(partly).numpy()
    by_parties = {
        parties: {
            "rows": len(rows),
            "auc": round(float(roc_auc_score(rows["label"], rows["prediction"])), 4),
        }
        for parties, rows in mixed.groupby("parties")
        if rows["label"].nunique() == 2
    }
    aucs = last_auc(done.comparison.tables["test"])
    return {
        "auc_joint": float(roc_auc_score(labels, frame["prediction"])),
        "auc_local": aucs["local"],
        "auc_pooled": float(roc_auc_score(labels, joined)),
        "max_abs_diff_joined": float(abs(frame["prediction"].to_numpy() - joined.numpy()).max()),
        "auc_by_parties": by_parties,
        "rows": {name: len(table) for name, table in tables.items()},
        "train_ids": len(host.train_ids),
        "test_ids": len(held_out),
        "rounds": rounds,
        "metrics_csv": str(done.comparison.tables["test"]),
        "plot": str(curve),
        "seconds": round(time.monotonic() - began, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON on stdout")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("heterofed_runs"))
    given = parser.parse_args()
    figures = run(given.results, rounds=given.rounds, seed=given.seed)
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()

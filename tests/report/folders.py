"""Results folders as runs leave them, written by hand: of any length, and with any text in them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RUN = "990f14196d04922dff2e6dd617e156d7"
PHASES = {
    "join": (2.1, 0.0, 0.0, 1.9, 429, 125),
    "prepare": (3.6, 3.5, 0.0, 0.0, 0, 0),
    "psi": (21.4, 9.2, 0.1, 11.8, 8_120_000, 7_900_000),
    "split": (0.2, 0.1, 0.0, 0.1, 97, 31),
    "train": (312.0, 171.0, 20.2, 101.0, 402_000_000, 398_000_000),
    "test": (24.3, 12.1, 2.0, 8.1, 2_010_000, 61_000_000),
    "checkpoint": (3.9, 0.4, 0.1, 0.6, 1450, 1700),
    "finish": (0.9, 0.0, 0.0, 0.3, 25, 21),
}


def table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def finished(
    folder: Path, *, rounds: int = 20, others: Sequence[str] = ("shop", "phone"), say: str = ""
) -> Path:
    """A whole run of a Host; `say` stands in every place where somebody chooses the text.

    Args:
        folder: to write into; made where it is not there.
        rounds: trained.
        others: names of Collaborators.
        say: added to the names of parties, metrics, settings, and to messages.
    """
    folder.mkdir(parents=True)
    host, parties = f"bank{say}", [f"{each}{say}" for each in others]
    _status(folder, rounds, host, parties, say)
    _summary(folder, rounds, host, parties, say)
    table(
        folder / "test.csv",
        ["round", f"auc{say}", "accuracy"],
        [(n, 0.79 - 0.2 * math.exp(-n / 5), 0.82 - 0.1 * math.exp(-n / 4)) for n in _to(rounds)],
    )
    table(
        folder / "train.csv",
        ["round", "loss"],
        [(n, 0.43 + 0.25 * math.exp(-n / 6) + 0.004 * math.sin(n)) for n in _to(rounds)],
    )
    table(
        folder / "leakage.csv",
        ["round", "party", "attack", "measure", "value", "samples"],
        [
            (n, party, attack, "auc", base + 0.03 * math.sin(n + place), 12)
            for n in _to(rounds)
            for place, party in enumerate(parties)
            for attack, base in (("norm", 0.55), ("cosine", 0.66 - 0.05 * place))
        ]
        + [(rounds, parties[0], f"completion{say}", "auc", 0.69, 1000)],
    )
    table(
        folder / "privacy.csv",
        ["round", "eps_weights", "eps_embeddings", "eps_labels"],
        [(n, "nan", "nan", 2.0) for n in _to(rounds)],
    )
    _traffic(folder, host, parties)
    _baselines(folder, rounds, say)
    _evaluation(folder, say)
    (folder / "feature_model.pt").write_bytes(b"weights" * 300)
    (folder / "infer_model.pt").write_bytes(b"others" * 300)
    return folder


def _to(rounds: int) -> range:
    return range(1, rounds + 1)


def _status(folder: Path, rounds: int, host: str, parties: Sequence[str], say: str) -> None:
    status: dict[str, Any] = {
        "state": "finished",
        "phase": "finish",
        "round": rounds,
        "task_id": f"loan-defaults{say}",
        "party": host,
        "run": RUN,
        "started": "2026-11-26T16:58:02Z",
        "updated": "2026-11-26T17:04:11Z",
        "ended": "2026-11-26T17:04:11Z",
        "versions": {"heterofed": "0.1.0", "python": "3.11.7", "torch": f"2.15.0{say}"},
        "settings": {"feature_key": host, "join_timeout": 3600, "results_dir": f"runs{say}"},
        "plan": {
            "host": host,
            "collaborators": list(parties),
            "max_rounds": rounds,
            "shuffle": True,
            "batch_size": 256,
            "max_staleness": 0,
            "loss_reduction": None,
            "fusion": "separate",
            "psi_protocol": "ecdh",
            f"later{say}": f"value{say}",
        },
        "ids": {"own": 30_000, "common": 18_412, "train": 14_730, "test": 3_682},
        "meeting": f"at tcp://bank.example:7300{say}",
        "secured": True,
        "terms": {
            "digest": "5b1f7c0a" * 8,
            "expires": "2027-06-30",
            "fingerprints": {
                each: f"{at}c1f 77e0 09ab 5d1c e3f4 {say}8812"
                for at, each in enumerate([host, *parties])
            },
        },
        "defences": {"gradients": f"Marvell{say}", "labels": "RandomisedResponse"},
    }
    (folder / "status.json").write_text(json.dumps(status))


def _summary(folder: Path, rounds: int, host: str, parties: Sequence[str], say: str) -> None:
    summary = {
        "task_id": f"loan-defaults{say}",
        "party": host,
        "run": RUN,
        "rounds": rounds,
        "best_round": rounds - 1,
        "fusion": "separate",
        "ids": 18_412,
        "own_ids": 30_000,
        "train_rows": 14_730,
        "test_rows": 3_682,
        "psi": {"protocol": "ecdh", "backend": f"libsodium{say}"},
        "seconds": 369.2,
        "links": {
            each: {"round_trip": 0.0213 * (at + 1), "bytes_per_second": 11.2e6 if at else None}
            for at, each in enumerate(parties)
        },
        "bytes_sent": 412_130_000,
        "bytes_received": 466_900_000,
        "leak_seconds": 6.2,
        "phases": {
            name: {
                "seconds": seconds,
                "compute_seconds": compute,
                "encode_seconds": encode,
                "wait_seconds": {parties[0]: wait},
                "bytes_sent": sent,
                "bytes_received": received,
            }
            for name, (seconds, compute, encode, wait, sent, received) in PHASES.items()
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def _traffic(folder: Path, host: str, parties: Sequence[str]) -> None:
    table(
        folder / "outbound.csv",
        ["phase", "kind", "holds", "to", "messages", "bytes"],
        [
            row
            for each in parties
            for row in (
                ("join", "Welcome", "control", each, 1, 429),
                ("psi", "PsiBlinded", "blinded ids", each, 30, 4_060_000),
                (
                    "train",
                    "Gradients",
                    "gradients of the other's features",
                    each,
                    5760,
                    200_900_000,
                ),
            )
        ],
    )
    (folder / "comm.csv").write_text("phase,party\n")


def _baselines(folder: Path, rounds: int, say: str) -> None:
    (folder / "baselines").mkdir()
    table(
        folder / "baselines" / "test.csv",
        ["mode", "round", f"auc{say}"],
        [
            (mode, n, top - 0.2 * math.exp(-n / 5))
            for mode, top in (("joint", 0.79), ("local", 0.731), ("pooled", 0.792))
            for n in _to(rounds)
        ],
    )


def _evaluation(folder: Path, say: str) -> None:
    steps = [n / 60 for n in range(61)]
    around = steps[3:55:5]
    evaluation = {
        "kind": f"binary{say}",
        "on": f"test{say}",
        "rows": 3682,
        "round": 20,
        "metrics": {
            "auc": {"value": 0.786, "low": 0.769, "high": 0.803},
            "ks": 0.438,
            "brier": 0.134,
            f"own{say}": None,
        },
        "curves": {
            "roc": {"x": steps, "y": [x**0.27 for x in steps]},
            "pr": {"x": steps[1:], "y": [0.95 - 0.73 * x**1.4 for x in steps[1:]]},
            "calibration": {"x": around, "y": [x + 0.05 * math.sin(6 * x) for x in around]},
            f"own{say}": {
                "x": steps,
                "y": [None, *(x * x for x in steps[1:])],
                "labels": [f"one{say}", f"other{say}"],
                "style": "points",
            },
        },
        "tables": {
            "confusion": {
                "columns": ["true", f"repaid{say}", "default"],
                "rows": [["repaid", 2590, 278], [f"default{say}", 408, 406]],
            },
            f"by age{say}": {
                "columns": ["group", "rows", "AUC"],
                "rows": [[f"-30{say}", 1100, 0.77], ["31-", 2582, None]],
            },
        },
        "notes": [f"a group has no default{say}"],
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))

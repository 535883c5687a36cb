"""The tasks of `benchmarks.privacy`: the rows of two parties, aligned.

`credit` is default of credit card clients (22 % positives; `guest.csv` is the Host's and has the
labels, `host.csv` the Collaborator's). `seven` asks whether an MNIST digit is a 7 (10 % positives),
`ten` which digit it is; the left half of an image is the Host's.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

TASKS = ("credit", "seven", "ten")


@dataclass(frozen=True)
class Task:
    """Rows of both parties, aligned: inputs [rows, columns] float32, labels [rows] int64."""

    name: str
    host: Tensor
    collaborator: Tensor
    labels: Tensor
    train: int  # the first rows train, the others test
    width: int
    rate: float

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def bottom(columns: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def credit(folder: Path, rows: int | None) -> Task:
    """The two tables, joined by id; each file is shuffled by itself first, as if it came so."""
    tables = {}
    for name in ("guest", "host"):
        with (folder / f"{name}.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        random.Random(name).shuffle(lines)
        tables[name] = {line.pop("id"): line for line in lines}
    ids = sorted(tables["guest"].keys() & tables["host"].keys())
    random.Random(0).shuffle(ids)
    ids = ids[:rows]

    def columns(name: str, keys: list[str]) -> Tensor:
        return torch.tensor([[float(tables[name][each][key]) for key in keys] for each in ids])

    def inputs(name: str) -> list[str]:
        return [key for key in next(iter(tables[name].values())) if key.startswith("x")]

    return Task(
        "credit",
        host=columns("guest", inputs("guest")),
        collaborator=columns("host", inputs("host")),
        labels=columns("guest", ["y"])[:, 0].long(),
        train=len(ids) * 4 // 5,
        width=16,
        rate=1e-3,
    )


def digits(name: str, folder: Path, rows: int | None) -> Task:
    """MNIST halves; the official test images, or as large a share of fewer rows."""
    from examples.mnist_split.data import load_halves

    limit = None if rows is None else (rows, rows // 6)
    left = load_halves(folder, "left", labels=True, limit=limit)
    right = load_halves(folder, "right", limit=limit)
    assert left.labels is not None
    return Task(
        name,
        host=left.images.flatten(1),
        collaborator=right.images.flatten(1),
        labels=left.labels.long() if name == "ten" else (left.labels == 7).long(),
        train=len(left.ids) * 6 // 7,
        width=16,
        rate=1e-3,
    )

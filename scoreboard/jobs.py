"""Makes the folders of jobs: MNIST halves, or a table that is cut by columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Array = npt.NDArray[Any]
Parts = dict[str, Array]


@dataclass(frozen=True)
class Source:
    """Both parties' rows, how many of them are for training, and the classes of the labels."""

    host: Parts
    collaborator: Parts
    train: int
    classes: int


def mnist(folder: Path, train: int) -> Source:
    """The left halves with the digits, and the right halves."""
    from examples.mnist_split.data import load_halves

    left = load_halves(folder, "left", labels=True, limit=(train, 10_000))
    right = load_halves(folder, "right", limit=(train, 10_000))
    # Sorted ids: "a" for training, "b" for testing, in the order of the rows.
    ids = np.array([f"{'a' if row < train else 'b'}-{row:05}" for row in range(len(left.ids))])
    labels = left.labels.numpy() if left.labels is not None else None
    host = {"ids": ids, "x": left.images.numpy(), "y": np.asarray(labels)}
    return Source(host, {"ids": ids, "x": right.images.numpy()}, train, 10)


def default_credit(folder: Path, train: int) -> Source:
    """`guest.csv` (id, y, columns) and `host.csv` (id, columns) of the default-credit data."""
    guest, host = (pd.read_csv(folder / name, index_col="id") for name in ("guest.csv", "host.csv"))
    host = host.loc[guest.index]
    ids = np.array([f"{'a' if row < train else 'b'}-{row:05}" for row in range(len(guest))])
    ours = {
        "ids": ids,
        "x": guest.drop(columns="y").to_numpy(np.float32),
        "y": guest["y"].to_numpy(np.int64),
    }
    return Source(ours, {"ids": ids, "x": host.to_numpy(np.float32)}, train, 2)


SOURCES: dict[str, Callable[[Path, int], Source]] = {
    "mnist": mnist,
    "default_credit": default_credit,
}


def in_other_order(rows: Parts, train: int) -> Parts:
    """The Collaborator's file has its rows in another order."""
    order = np.random.default_rng(7).permutation(len(rows["ids"]))
    del train
    return {name: values[order] for name, values in rows.items()}


def one_row_missing(rows: Parts, train: int) -> Parts:
    """The Collaborator does not know one person of the training rows."""
    return {name: np.delete(values, train // 4, axis=0) for name, values in rows.items()}


CHANGES: dict[str, Callable[[Parts, int], Parts]] = {
    "other_order": in_other_order,
    "row_missing": one_row_missing,
}


def aligned(data: Source, change: str) -> Source:
    """What the parties have in common after a change: that is what they should train on."""
    theirs = CHANGES[change](data.collaborator, data.train)
    common = np.isin(data.host["ids"], theirs["ids"])
    host = {name: values[common] for name, values in data.host.items()}
    collaborator = {name: values[common] for name, values in data.collaborator.items()}
    train = int(common[: data.train].sum()) // 128 * 128
    kept = np.r_[0:train, data.train - int((~common).sum()) : len(host["ids"])]
    host = {name: values[kept] for name, values in host.items()}
    collaborator = {name: values[kept] for name, values in collaborator.items()}
    return Source(host, collaborator, train, data.classes)


def make_job(folder: Path, data: Source, name: str, rounds: int, change: str = "") -> Path:
    """Write a job's folder.

    Args:
        folder: where to; must not exist.
        data: of one of `SOURCES`.
        name: of that source.
        rounds: passes over the training rows.
        change: of `CHANGES`, done to the Collaborator's file.
    """
    folder.mkdir(parents=True)
    collaborator = CHANGES[change](data.collaborator, data.train) if change else data.collaborator
    np.savez(folder / "host.npz", **data.host)  # type: ignore[arg-type]
    np.savez(folder / "collaborator.npz", **collaborator)  # type: ignore[arg-type]
    told = {"name": name, "train": data.train, "batch": 128, "rounds": rounds}
    told["classes"] = data.classes
    (folder / "job.json").write_text(json.dumps(told))
    return folder

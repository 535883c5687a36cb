"""One run: a folder with each party's data, the number of steps, and what comes out.

    job.json                what is run
    host.npz                rows and labels: `ids`, `x`, `y`
    collaborator.npz        rows: `ids`, `x`
    <party>.pid             the process that trains, once it runs
    steps.csv               seconds since 1970 at the end of each step, as the Host saw it
    weights-<part>.npz      weights at the end
    scores.npy              log-probabilities of the test rows

The first `train` rows are for training, in batches of `batch` in their order; the others are for
testing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rows:
    """One party's rows."""

    ids: list[str]
    x: Tensor
    y: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.x.shape[1:])


@dataclass(frozen=True)
class Job:
    """A job's folder, and what `job.json` says."""

    folder: Path
    name: str
    train: int
    batch: int
    rounds: int
    classes: int

    @classmethod
    def read(cls, folder: str | Path) -> Job:
        """The job of a folder. PyTorch is told to use one thread, as all parties do here."""
        torch.set_num_threads(1)
        return cls(Path(folder), **json.loads((Path(folder) / "job.json").read_text()))

    @property
    def batches(self) -> int:
        """Batches of a round."""
        return self.train // self.batch

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.batches * self.rounds

    def rows(self, party: str) -> Rows:
        """A party's data."""
        with np.load(self.folder / f"{party}.npz") as data:
            labels = torch.from_numpy(data["y"]) if "y" in data else None
            return Rows(list(map(str, data["ids"])), torch.from_numpy(data["x"]), labels)

    def batch_of(self, step: int) -> slice:
        """The positions of a step's rows."""
        start = step % self.batches * self.batch
        return slice(start, start + self.batch)

    def test_batches(self, rows: int) -> Iterator[slice]:
        """The positions of the test rows, 1,000 at a time."""
        for start in range(self.train, rows, 1000):
            yield slice(start, min(start + 1000, rows))

    def begin(self, party: str) -> None:
        """Say which process trains for a party."""
        (self.folder / f"{party}.pid").write_text(str(os.getpid()))

    def note_step(self) -> None:
        """Say that a step has ended."""
        with (self.folder / "steps.csv").open("a") as file:
            file.write(f"{time.time():.6f}\n")

    def keep(self, part: str, model: nn.Module) -> None:
        """Keep the weights of a part."""
        path = self.folder / f"weights-{part}.npz"
        arrays = {name: value.detach().numpy() for name, value in model.state_dict().items()}
        with path.with_suffix(".part").open("wb") as file:
            np.savez(file, **arrays)
        path.with_suffix(".part").replace(path)

    def keep_scores(self, scores: list[Tensor]) -> None:
        """Keep the log-probabilities of the test rows."""
        np.save(self.folder / "scores.npy", torch.cat(scores).numpy())

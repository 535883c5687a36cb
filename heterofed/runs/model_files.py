"""Writes the current weights of a run, and those of its best round, to the results folder."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from heterofed.compute.wrappers import plain_state
from heterofed.files import writing
from heterofed.reporting.results import write_whole
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.extra_modules import EXTRA, extras_of, save_extras
from heterofed.runs.models import ModelRegistry
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")


class ModelFiles:
    """Writes the models of one run, each whole or not at all.

    Args:
        run: the run.
        models: the models of the run.
        owner: the scheduler, which may hold further modules.
        parts: the checkpoint parts, which write files with the models.
    """

    def __init__(
        self, run: Run, models: ModelRegistry, owner: object, parts: Sequence[CheckpointPart]
    ) -> None:
        self._run, self._models = run, models
        self._owner, self._parts = owner, parts

    def save(self, prefix: str = "") -> None:
        """Write each model's `state_dict` to `<prefix><name>.pt`.

        Raises:
            ResultsError: a file cannot be written.
        """
        run = self._run
        for name in self._models.saved:
            model = self._models.made(name)
            if model is not None:
                path = run.result.folder / f"{prefix}{name}.pt"
                run.result.models[prefix + name] = write_state(path, plain_state(model))
        extras = extras_of(self._owner, self._models.models())
        save_extras(run.result.folder / f"{prefix}{EXTRA}.pt", extras)
        run.result.rounds = run.round
        run.result.best_round = run.state.kept.best_round
        for part in self._parts:
            part.write_beside(run.result.folder, prefix)

    def save_best(self) -> None:
        """Write the models of this round as those of the best one."""
        with writing(self._run.result.folder):
            self.save(prefix="best_")
            self._run.state.kept.best_digest = _digest_of(self._best())
        self._run.state.kept.best_round = self._run.round

    def name_best(self) -> None:
        """Record the weights of the best round, and remove those of a round that was rolled
        back.
        """
        run, kept, files = self._run, self._run.state.kept, self._best()
        if kept.best_round and _digest_of(files) == kept.best_digest:
            run.result.models |= {path.stem: path for path in files}
            return
        if kept.best_round:
            logger.warning(
                "the weights of the best round, %d, are gone or were overwritten in a later round,"
                " which is trained again",
                kept.best_round,
            )
        for path in files:
            run.result.models.pop(path.stem, None)
            path.unlink(missing_ok=True)
        kept.best_round, kept.best_digest = 0, ""

    def _best(self) -> list[Path]:
        """Return the files that `mark_best` wrote."""
        paths = [self._run.result.folder / f"best_{name}.pt" for name in self._models.saved]
        return [path for path in paths if path.exists()]


def write_state(path: Path, state: Mapping[str, Any]) -> Path:
    """Write a `state_dict` to a file, whole or not at all, and return the path.

    Raises:
        ResultsError: the file cannot be written.
    """
    return write_whole(path, functools.partial(torch.save, state))


def _digest_of(files: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()

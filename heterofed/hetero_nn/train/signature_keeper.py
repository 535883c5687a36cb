"""Records the inputs of a party's half in training, and compares them before predictions."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from heterofed.compute.batch import Batch
from heterofed.compute.plain import strings
from heterofed.compute.tensors import dtype_name, named
from heterofed.data import VerticalTable
from heterofed.data.signature import SIGNATURE, Reader, Signature, read_signature
from heterofed.reporting.results import write_whole
from heterofed.runs.artifacts import Trained
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.hook_streams import SeededHooks
from heterofed.runs.run import Run
from heterofed.runs.state import Kept

logger = logging.getLogger("heterofed")


class SignatureKeeper(CheckpointPart):
    """The signature of one half in one run.

    Args:
        owner: the scheduler, whose attributes may be DataFrames that its hooks read.
        run: the run.
        hooks: the hooks of the scheduler.
        name: the name of this party in logs.
    """

    def __init__(self, owner: object, run: Run, hooks: SeededHooks, name: str) -> None:
        self._owner, self._run = owner, run
        self._hooks, self._name = hooks, name
        self._reader: Reader | None = None

    def reading(self) -> AbstractContextManager[None]:
        """Record which columns of a `VerticalTable` are read in this block."""
        return self._read().reading()

    def _read(self) -> Reader:
        """Return the record of how this party's half reads its rows in this run."""
        if self._reader is None:
            state = self._run.state
            kept = msgspec.convert(state.kept.signature, Signature)
            ids, trains = state.train_ids, not self._run.predicts
            self._reader = Reader(kept, self._name, ids, trains=trains)
        return self._reader

    def serve(self, trained: Trained) -> None:
        """Compare all further inputs of the half with those that it was trained on.

        Raises:
            ConfigError: the file with the signature is damaged.
        """
        kept = read_signature(trained.folder)
        if kept is None:
            logger.warning(
                "%s has no %s: nothing says which columns this half was trained on, so they are not"
                " compared",
                trained.folder,
                SIGNATURE,
            )
        self._run.predicts = True
        self._reader = None  # discards the record of training
        self._run.state.kept.signature = {} if kept is None else msgspec.to_builtins(kept)

    def compare_features(self, batch: Batch, hook: str) -> None:
        """Record the features of the half in training, and compare them before the first
        prediction.
        """
        reader = self._read()
        if self._run.predicts:
            reader.compare_frames(_frames_of(self._owner))
        elif hook != "iterate_train_feature":
            return
        layout, tensors = ("none", {}) if batch.features is None else named(batch.features, hook)
        kinds = {name: (dtype_name(each), list(each.shape[1:])) for name, each in tensors.items()}
        reader.compare_features(layout, kinds, hook)

    def compare_columns(self) -> None:
        """Record or compare the columns that the hook `feature_columns` names."""
        columns = self._hooks.call("feature_columns")
        names = None if columns is None else strings(columns, "feature_columns")
        self._read().compare_columns(names)

    def begin_anew(self) -> None:
        """Discard the record, because the train ids are known only now."""
        self._reader = None

    # -- as a part of checkpoints ------------------------------------------------------------

    def note(self, kept: Kept) -> None:
        """See `CheckpointPart`."""
        kept.signature = msgspec.to_builtins(self._read().signature)

    def write_beside(self, folder: Path, prefix: str) -> None:  # noqa: ARG002
        """See `CheckpointPart`. The signature is the same for the best round."""
        reader = self._read()
        reader.compare_frames(_frames_of(self._owner))
        text = msgspec.json.format(msgspec.json.encode(reader.signature), indent=2)
        write_whole(folder / SIGNATURE, lambda file: file.write(text))

    def take_up(self) -> None:
        """See `CheckpointPart`. What was read after the checkpoint is discarded."""
        self._reader = None


def _frames_of(owner: object) -> dict[str, list[str]]:
    """Return the column names of all attributes that are DataFrames (of pandas or similar), by
    name.
    """
    found = {}
    for name, value in vars(owner).items():
        columns = None if isinstance(value, type) else getattr(value, "columns", None)
        if columns is None or isinstance(value, VerticalTable):
            continue
        if hasattr(value, "dtypes"):
            found[name] = [str(each) for each in columns]
    return found

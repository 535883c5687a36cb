"""Writes and restores the checkpoints of a run of split training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import keeps_extra_state
from heterofed.metrics import registered_metrics
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.checkpointing import Checkpointed, Checkpointing
from heterofed.runs.object_walk import roots_of
from heterofed.runs.return_limit import ReturnLimit
from heterofed.runs.user_state import Carried


class Keeping:
    """The checkpoints of one half.

    Args:
        half: the half.
        parts: the further parts of the checkpoints.
        accumulates: whether the user's code may let gradients wait for the step of a later batch.
        limit: the limit on rollbacks.
        made: called after the models are made, to check them early.

    Attributes:
        files: the files of the models in the results folder.
        checkpoints: writes checkpoints, and resumes from one.
    """

    def __init__(
        self,
        half: Half[Any],
        parts: Sequence[CheckpointPart],
        *,
        accumulates: bool,
        limit: ReturnLimit,
        made: Callable[[], object],
    ) -> None:
        self._half, self._made = half, made
        self._parts = (*parts, half.signature)
        self.files = half.files(parts)
        covered = keeps_extra_state(type(half.owner))
        self._carried = Carried(self._roots, self._known, covered)
        what = Checkpointed(
            half.models,
            self.files,
            self._carried,
            self._parts,
            registered_metrics(type(half.owner)),
            # DP-SGD does not support gradients that wait for a later step.
            accumulates and half.settings.weights_defence is None,
        )
        self.checkpoints = Checkpointing(half.run, half.hooks, what, limit)

    def prepare(self) -> list[str]:
        """Load the ids, and make models and optimizers so that their errors show before the PSI.

        A class that makes its models after the split is an exception.
        """
        with self._half.run.party.in_phase("prepare"):
            ids = self.checkpoints.load_ids()
            self._half.run.result.own_ids = len(ids)
            if not self._half.owner.models_after_split:
                self._make_all()
        return ids

    def keep_split(self, common: int) -> None:
        """Store the split of the common ids, and the checkpoint before the first round."""
        if self._half.owner.models_after_split:
            self._make_all()
        self.checkpoints.keep_split(common)

    def _make_all(self) -> None:
        """Make models and optimizers, and note the other state of this party."""
        self._half.models.make_all()
        self._carried.begin()
        self._half.models.check_trains()
        self._made()

    def leave(self) -> None:
        """Release what the run holds, because it starts again with another half."""
        for part in self._parts:
            part.leave()

    def _known(self) -> list[Any]:
        return list(self._half.models.stateful().values())

    def _roots(self) -> dict[str, Any]:
        owner = roots_of(self._half.owner)
        if self._half.settings.weights_defence is not None:
            return owner  # the wrapper of models and optimizers belongs to heterofed
        return {**self._half.models.stateful(), **owner}

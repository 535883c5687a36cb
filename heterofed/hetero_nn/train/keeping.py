"""Makes the models of a half, and writes and restores the checkpoints of split training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from heterofed.compute.packed_ids import PackedIds
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import keeps_extra_state
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.model_keeping import ModelKeeping
from heterofed.runs.return_limit import ReturnLimit


class Keeping(ModelKeeping):
    """The checkpoints of one half.

    Args:
        half: the half.
        parts: the further parts of the checkpoints.
        accumulates: whether the user's code may let gradients wait for the step of a later batch.
        limit: the limit on rollbacks.
        made: called after the models are made, to check them early.
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
        # For DP-SGD the wrapper of models and optimizers belongs to heterofed, and it does not
        # support gradients that wait for a later step.
        plain = half.settings.weights_defence is None
        super().__init__(
            half.owner,
            half.run,
            half.hooks,
            half.models,
            (*parts, half.signature),
            limit,
            files=half.files(parts),
            walks_models=plain,
            covered=keeps_extra_state(type(half.owner)),
            accumulates=accumulates and plain,
        )

    def prepare(self) -> PackedIds:
        """Load the ids, and make models and optimizers so that their errors show before the PSI.

        A class that makes its models after the split is an exception.
        """
        with self._half.run.party.in_phase("prepare"):
            ids = self.checkpoints.load_ids()
            self._half.run.result.own_ids = len(ids)
            if not self._half.owner.models_after_split:
                self.make_all()
        return ids

    def keep_split(self, common: int, begin: Callable[[], None] = lambda: None) -> None:
        """Store the split of the common ids, and the checkpoint before the first round.

        Args:
            common: the number of the common ids.
            begin: called after the models are made, before the checkpoint.
        """
        if self._half.owner.models_after_split:
            self.make_all()
        begin()
        self.checkpoints.keep_split(common)

    def make_all(self) -> None:
        """Make models and optimizers, note the other state of this party, and check the models."""
        super().make_all()
        self._half.models.check_trains()
        self._made()

"""How a run of split training is kept: what its checkpoints are made of."""

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
    """Checkpoints of one half.

    Args:
        half: the half.
        parts: what else of the run is kept with it.
        accumulates: whether the user's code may let gradients wait for the step of a later batch.
        limit: of going back.
        made: called once the models are made: what it refuses shows then.

    Attributes:
        files: the models in the results folder.
        checkpoints: writes them, and goes on from one.
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
            # DP-SGD knows no steps that wait.
            accumulates and half.settings.weights_defence is None,
        )
        self.checkpoints = Checkpointing(half.run, half.hooks, what, limit)

    def prepare(self) -> list[str]:
        """Load the ids, make models and optimizers: what is wrong with them shows before PSI, but
        for those of a class that makes them after the split.
        """
        with self._half.run.party.in_phase("prepare"):
            ids = self.checkpoints.load_ids()
            self._half.run.result.own_ids = len(ids)
            if not self._half.owner.models_after_split:
                self._make_all()
        return ids

    def keep_split(self, common: int) -> None:
        """Keep what was agreed about so many common ids, and where the first round begins."""
        if self._half.owner.models_after_split:
            self._make_all()
        self.checkpoints.keep_split(common)

    def _make_all(self) -> None:
        """Make models and optimizers, and note what this party carries beside them."""
        self._half.models.make_all()
        self._carried.begin()
        self._half.models.check_trains()
        self._made()

    def leave(self) -> None:
        """Let go of what the run holds: it begins anew with another half."""
        for part in self._parts:
            part.leave()

    def _known(self) -> list[Any]:
        return list(self._half.models.stateful().values())

    def _roots(self) -> dict[str, Any]:
        owner = roots_of(self._half.owner)
        if self._half.settings.weights_defence is not None:
            return owner  # what wraps the models and optimizers is ours
        return {**self._half.models.stateful(), **owner}

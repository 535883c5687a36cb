"""Makes the models of a party in one run, and the object that writes and restores checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heterofed.metrics import registered_metrics
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.checkpointing import Checkpointed, Checkpointing
from heterofed.runs.hook_calls import HookCalls
from heterofed.runs.model_files import ModelFiles
from heterofed.runs.models import ModelRegistry
from heterofed.runs.object_walk import roots_of
from heterofed.runs.return_limit import ReturnLimit
from heterofed.runs.run import Run
from heterofed.runs.scheduler import Scheduler
from heterofed.runs.user_state import Carried


class ModelKeeping:
    """The checkpoints of one party in one run.

    Args:
        owner: the scheduler.
        run: the run.
        hooks: calls the hooks.
        models: the models and optimizers of the party.
        parts: the further parts of the checkpoints.
        limit: the limit on rollbacks.
        files: the files of the models in the results folder.
        walks_models: whether the user's code may hold state in the models and optimizers.
        covered: whether the user's class adds state to checkpoints.
        accumulates: whether the user's code may let gradients wait for the step of a later batch.

    Attributes:
        files: the files of the models in the results folder.
        checkpoints: writes checkpoints, and resumes from one.
    """

    def __init__(
        self,
        owner: Scheduler,
        run: Run,
        hooks: HookCalls,
        models: ModelRegistry,
        parts: Sequence[CheckpointPart],
        limit: ReturnLimit,
        *,
        files: ModelFiles,
        walks_models: bool,
        covered: bool,
        accumulates: bool = False,
    ) -> None:
        self._owner, self._models, self._walks_models = owner, models, walks_models
        self._parts, self.files = parts, files
        self._carried = Carried(self._roots, self._known, covered)
        metrics = registered_metrics(type(owner))
        what = Checkpointed(models, files, self._carried, parts, metrics, accumulates)
        self.checkpoints = Checkpointing(run, hooks, what, limit)

    def make_all(self) -> None:
        """Make models and optimizers, and note the other state of this party."""
        self._models.make_all()
        self._carried.begin()

    def keep_start(self) -> None:
        """Write the checkpoint before the first round."""
        self.checkpoints.keep_split(0)

    def leave(self) -> None:
        """Release what the run holds, because it starts again with other objects."""
        for part in self._parts:
            part.leave()

    def _known(self) -> list[Any]:
        return list(self._models.stateful().values())

    def _roots(self) -> dict[str, Any]:
        owner = roots_of(self._owner)
        return {**self._models.stateful(), **owner} if self._walks_models else owner

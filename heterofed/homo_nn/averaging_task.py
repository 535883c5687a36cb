"""Defines what a horizontal task does alike in both roles."""

from __future__ import annotations

from heterofed.homo_nn.hooks import HOOK_ARGUMENTS, keeps_extra_state
from heterofed.runs.checkpoint_part import CheckpointPart
from heterofed.runs.hook_streams import SeededHooks
from heterofed.runs.kept_task import KeptTask
from heterofed.runs.model_files import ModelFiles
from heterofed.runs.model_keeping import ModelKeeping
from heterofed.runs.models import ModelRegistry
from heterofed.runs.run import Run

NO_IDS = (0, b"")
"""The number of ids and their digest in a task without ids."""


class Averaging(KeptTask):
    """A horizontal task."""

    purpose = "average"
    hook_arguments = HOOK_ARGUMENTS
    hooks: SeededHooks

    def begin(self, run: Run) -> None:
        """Prepare for the launch, which has begun; nothing is checked yet."""
        super().begin(run)
        self.make_half(run)

    def seeded_hooks(self, run: Run) -> SeededHooks:
        """Return the object that calls the hooks of this party in one run."""
        settings = self.settings
        return SeededHooks(self.owner, run, settings.feature_key, settings.shown_name)

    def keeping_of(
        self, run: Run, models: ModelRegistry, part: CheckpointPart, *, walks_models: bool
    ) -> ModelKeeping:
        """Return the checkpoints of this party in one run.

        Args:
            run: the run.
            models: the models and optimizers of the party.
            part: the further part of the checkpoints.
            walks_models: whether the user's code may hold state in the models and optimizers.
        """
        run.models, run.state.own_ids = models, NO_IDS
        return ModelKeeping(
            self.owner,
            run,
            self.hooks,
            models,
            (part,),
            self.limit(run),
            files=ModelFiles(run, models, self.owner, (part,)),
            walks_models=walks_models,
            covered=keeps_extra_state(type(self.owner)),
        )

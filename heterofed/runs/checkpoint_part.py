"""What has a part in checkpoints beside models, optimizers and the user's objects."""

from __future__ import annotations

from pathlib import Path

from heterofed.runs.state import Kept


class CheckpointPart:
    """Something of a run that is kept with it; each method may do nothing."""

    def note(self, kept: Kept) -> None:
        """Note what is to be kept: a checkpoint is about to be written."""

    def write_beside(self, folder: Path, prefix: str) -> None:
        """Write what goes with the models into the results folder, as `<prefix><name>`."""

    def leave(self) -> None:
        """Let go of what belongs to now: the run goes back to a checkpoint, or begins anew."""

    def take_up(self) -> None:
        """Begin with what was kept: the run is back at a checkpoint."""

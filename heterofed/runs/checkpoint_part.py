"""Defines the interface of further parts of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from heterofed.runs.state import Kept


class CheckpointPart:
    """A further part of a run's checkpoints. By default, each method does nothing."""

    def note(self, kept: Kept) -> None:
        """Store the state in `kept`, because a checkpoint will be written."""

    def write_beside(self, folder: Path, prefix: str) -> None:
        """Write files that belong to the models to the results folder, as `<prefix><name>`."""

    def leave(self) -> None:
        """Discard the current state, because the run rolls back to a checkpoint or starts again."""

    def take_up(self) -> None:
        """Load the stored state, because the run has rolled back to a checkpoint."""

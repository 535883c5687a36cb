"""Defines what a run tells its record, and does nothing of it."""

from __future__ import annotations

from heterofed.protocol.messages import Mark


class NoRecord:
    """The record of a run that is not recorded: every method does nothing."""

    def kept(self, mark: Mark, content: bytes) -> None:
        """Note that a checkpoint was written."""

    def went_back(self, mark: Mark, content: bytes) -> None:
        """Note that the run goes on from a checkpoint."""

    def close(self) -> None:
        """Close the file, because the connections end."""

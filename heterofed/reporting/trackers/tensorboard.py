"""Writes the curves of a run as TensorBoard event files in its results folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heterofed.events import TaskBegan
from heterofed.reporting.trackers.base import ScalarTracker, library


class TensorBoard(ScalarTracker):
    """Writes each round's numbers for TensorBoard. Needs the extra `tensorboard`.

    Args:
        folder: the folder of the event files, which gets a folder for each task and party; None
            means `tensorboard/` in the results folder. `tensorboard --logdir FOLDER` shows them.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__()
        library("tensorboard", "tensorboard")
        self._folder = None if folder is None else Path(folder)
        self._writer: Any = None
        self._place = Path()

    def begin(self, task: TaskBegan) -> None:
        """Open the event files of this run."""
        self._place = task.folder / "tensorboard"
        if self._folder is not None:
            self._place = self._folder / task.task_id / task.party
        self._open()

    def _open(self, **options: Any) -> None:
        self._close()
        writer = library("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(log_dir=str(self._place), **options)

    def rewind(self, step: int) -> None:
        """Make TensorBoard discard the rounds after `step`."""
        self._open(purge_step=step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write the numbers of a round to disk."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, error: str | None) -> None:
        """Close the event files."""
        if error is not None:
            self._writer.add_text("ended by", error)
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

"""Defines what modules that measure a run at the Host need to know of its scheduler."""

from __future__ import annotations

from typing import Any, Protocol

from heterofed.reporting.task_result import TaskResult


class HostRun(Protocol):
    """The public attributes of a Host that all of these modules use."""

    @property
    def infer_model(self) -> Any:
        """The model on top."""

    @property
    def feature_key(self) -> str:
        """The feature key of this party."""

    @property
    def parties(self) -> tuple[str, ...]:
        """The feature keys of all parties, in task order."""

    @property
    def test_ids(self) -> list[str]:
        """The ids that are not trained on, sorted."""

    @property
    def result(self) -> TaskResult:
        """The result of the run so far."""

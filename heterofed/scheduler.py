"""Names that every scheduler needs, at the import path that AlphaMed's scripts know."""

from __future__ import annotations

from heterofed.errors import ConfigError, TaskFailed
from heterofed.metrics import register_metrics
from heterofed.runs.data_check import DataChecker
from heterofed.runs.scheduler import Scheduler

__all__ = ["ConfigError", "DataChecker", "Scheduler", "TaskFailed", "register_metrics"]

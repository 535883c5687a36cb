"""Vertical split learning between organisations that hold different columns about the same people.

Public names are loaded when they are first used, so `import heterofed` is cheap and imports torch
only if a name that needs it is used. Importing the package has no side effects.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING

from heterofed._version import __version__

if sys.platform == "win32":  # files are opened by ways that Windows does not have
    raise ImportError("heterofed runs on Linux and macOS; on Windows install it within WSL 2")

if TYPE_CHECKING:
    from heterofed.compute.batch import Batch
    from heterofed.compute.frozen_weights import leave_out_frozen_weights
    from heterofed.errors import ConfigError, HeteroFedError, TaskAborted, TaskFailed
    from heterofed.hetero_nn import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
    from heterofed.metrics import register_metrics
    from heterofed.reporting.task_result import TaskResult
    from heterofed.runs.data_check import DataChecker
    from heterofed.runs.records.replay import replay
    from heterofed.simulation.fake_peer import fake_peer
    from heterofed.simulation.simulate import simulate, simulate_prediction

logger = logging.getLogger("heterofed")

__all__ = [
    "Batch",
    "ConfigError",
    "DataChecker",
    "HeteroFedError",
    "HeteroNNCollaboratorScheduler",
    "HeteroNNHostScheduler",
    "TaskAborted",
    "TaskFailed",
    "TaskResult",
    "__version__",
    "fake_peer",
    "leave_out_frozen_weights",
    "logger",
    "register_metrics",
    "replay",
    "simulate",
    "simulate_prediction",
]

_HOME = {
    "Batch": "heterofed.compute.batch",
    "ConfigError": "heterofed.errors",
    "DataChecker": "heterofed.runs.data_check",
    "HeteroFedError": "heterofed.errors",
    "HeteroNNCollaboratorScheduler": "heterofed.hetero_nn",
    "HeteroNNHostScheduler": "heterofed.hetero_nn",
    "TaskAborted": "heterofed.errors",
    "TaskFailed": "heterofed.errors",
    "TaskResult": "heterofed.reporting.results",
    "fake_peer": "heterofed.simulation.fake_peer",
    "leave_out_frozen_weights": "heterofed.compute.frozen_weights",
    "register_metrics": "heterofed.metrics",
    "replay": "heterofed.runs.records.replay",
    "simulate": "heterofed.simulation.simulate",
    "simulate_prediction": "heterofed.simulation.simulate",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""Creates trackers by name, for the command line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from heterofed.errors import ConfigError
from heterofed.events import Callback

TRACKERS = {
    "tensorboard": "TensorBoard",
    "mlflow": "MLflow",
    "wandb": "WeightsAndBiases",
    "prometheus": "Prometheus",
    "opentelemetry": "OpenTelemetry",
}
"""The class of each tracker, which is in the module of the same name."""


def tracker(name: str) -> Callback:
    """Make a tracker with its default settings.

    Args:
        name: one of `tensorboard`, `mlflow`, `wandb`, `prometheus` and `opentelemetry`.

    Raises:
        ConfigError: there is no such tracker, or its extra is not installed.
    """
    if name not in TRACKERS:
        raise ConfigError(f"tracker {name!r}: give one of {', '.join(TRACKERS)}")
    made: Callback = getattr(
        importlib.import_module(f"heterofed.reporting.trackers.{name}"), TRACKERS[name]
    )()
    return made


def trackers(names: Sequence[str]) -> list[Callback]:
    """Make several trackers.

    Raises:
        ConfigError: a name occurs twice, or `tracker` refuses it.
    """
    if len(set(names)) != len(names):
        raise ConfigError(f"--track {', '.join(names)}: name each tracker once")
    return [tracker(name) for name in names]

"""Loads the weights of a finished run into the models of a prediction."""

from __future__ import annotations

from typing import Any

from heterofed.hetero_nn.half import Half
from heterofed.runs.artifacts import Trained, load_beside, load_weights


def load_models(trained: Trained, half: Half[Any]) -> None:
    """Load the weights of a run into the models of a half and into its other modules.

    Raises:
        ConfigError: the weights are missing, or belong to another model.
    """
    for name in half.models.saved:
        model = half.models.made(name)
        if model is not None:
            load_weights(trained, name, model)
    load_beside(trained, half.owner)

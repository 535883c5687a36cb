"""The weights of a finished run, in the models that the hooks make for a prediction."""

from __future__ import annotations

from typing import Any

from heterofed.hetero_nn.half import Half
from heterofed.runs.artifacts import Trained, load_beside, load_weights


def load_models(trained: Trained, half: Half[Any]) -> None:
    """Give a half the weights that the run left, also to modules that stand beside its models.

    Raises:
        ConfigError: they are not there, or of another model.
    """
    for name in half.models.saved:
        model = half.models.made(name)
        if model is not None:
            load_weights(trained, name, model)
    load_beside(trained, half.owner)

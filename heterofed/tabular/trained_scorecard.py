"""Reads the scorecard of a trained model: the points of the Host's own columns."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import torch

from heterofed.errors import ConfigError
from heterofed.tabular.models import Half, Top
from heterofed.tabular.prepare import WOE
from heterofed.tabular.scorecard import Evidence, Scorecard, build_scorecard


def scorecard_of(
    folder: str | Path, *, models: Literal["best", "last"] = "best", **scale: Any
) -> Scorecard:
    """Return the points of the Host's columns in a trained scorecard.

    The model must have been trained with `prepare=[WOE()]` and `model="logistic"`. A partner's
    columns change a row's score by minus `factor` times the output of the partner's half for the
    row (by plus, if good is the positive class); this output is not known here.

    Args:
        folder: the results folder of the run at the Host.
        models: the models to read: those of the best round, or of the last.
        scale: `base_score`, `base_odds`, `pdo` and `good` of
            `heterofed.tabular.scorecard.build_scorecard`.

    Raises:
        ConfigError: the folder has no such model, or one of another kind.
    """
    half, top = Half(), Top()
    half.load_state_dict(_weights(folder, models, "feature_model"))
    top.load_state_dict(_weights(folder, models, "infer_model"))
    linear = None if half.wide is None else half.wide.dense
    if half.plan is None or half.plan.model != "logistic" or linear is None:
        raise ConfigError(f"{folder} holds no logistic model of numbers: give model='logistic'")
    preparation = half.plan.preparation
    found = _evidence(preparation.steps)
    if list(map(WOE.input_of, found)) != list(preparation.shape.dense):
        raise ConfigError(
            f"{folder}: not all inputs of the model are weights of evidence; give prepare=[WOE()]"
        )
    weights = linear.weight.detach().double().flatten().tolist()
    by_column = dict(zip(found, weights, strict=True))
    return build_scorecard(found, by_column, float(top.bias.values.detach()[0]), **scale)


def _weights(folder: str | Path, models: str, name: str) -> dict[str, Any]:
    path = Path(folder) / f"{'best_' if models == 'best' else ''}{name}.pt"
    try:
        loaded: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__})") from None
    return loaded


def _evidence(steps: Any) -> dict[str, Evidence]:
    return {
        name: each
        for step in steps
        if isinstance(step, WOE)
        for name, each in step.evidence.items()
    }

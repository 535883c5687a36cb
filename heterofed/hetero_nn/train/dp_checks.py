"""Checks that the guarantee of DP-SGD holds in a run, with its plan and its models."""

from __future__ import annotations

import logging

from torch import nn

from heterofed.errors import ConfigError
from heterofed.privacy.dpsgd import DPSGD, check_rows_apart
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")


def check_private(
    run: Run, weights: DPSGD | None, models: list[nn.Module | None], *, trains: bool = True
) -> None:
    """Refuse DP-SGD if its guarantee would not hold.

    Args:
        run: the run, whose parties are connected.
        weights: the DP-SGD of this party; other parties may use it if the plan has a loss
            reduction.
        models: the models of this party, or None.
        trains: whether this party has trainable weights.

    Raises:
        ConfigError: the plan has another loss reduction or none, or a model mixes rows.
    """
    plan = run.plan
    if plan.loss_reduction is not None:
        for model in models:
            if model is not None:
                check_rows_apart(model, "a task with a loss_reduction (for DP-SGD)")
    if weights is None:
        if plan.loss_reduction is not None and trains:
            _mention(
                run,
                "others may train by DP-SGD here (the plan has a loss_reduction), and this party"
                " trains without: their eps_weights does not hold for what it learns",
            )
        return
    if not weights.others:
        _mention(
            run,
            "eps_weights counts the noise of this party alone: name that of all others that train"
            " in DPSGD(others=...); without theirs it does not hold",
        )
    if plan.loss_reduction != weights.loss_reduction:
        raise ConfigError(
            f"weights_defence takes the Host's loss for a {weights.loss_reduction} over the rows of"
            f" a batch, the plan says {plan.loss_reduction or 'nothing'}: give the Host"
            " loss_reduction='mean' or 'sum', and every DPSGD the same"
        )
    if plan.max_staleness != 0:
        raise ConfigError(
            "weights_defence steps once per batch, right after its backward pass; set the Host's"
            " max_staleness=0"
        )
    if weights.poisson and plan.checkpoint_batches:
        raise ConfigError(
            "DPSGD(poisson=True) draws from all train ids, and checkpoint_batches gives a part of"
            " them"
            " at a time: take one of the two"
        )


def _mention(run: Run, what: str) -> None:
    """Log a warning once per run."""
    if what not in run.state.told:
        run.state.told.add(what)
        logger.warning("%s", what)

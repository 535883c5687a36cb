"""Loads the weights of a finished run into the models of a prediction."""

from __future__ import annotations

from typing import Any

from heterofed.errors import ConfigError, OtherRunError
from heterofed.hetero_nn.half import Half
from heterofed.protocol.messages import PredictPlan, ServePlan
from heterofed.runs.artifacts import Trained, load_beside, load_weights, read_trained


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


def check_same_run(plan: PredictPlan | ServePlan, trained: Trained, host: str, party: str) -> None:
    """Check that a Host's models are of the same run as those of this party.

    Args:
        plan: what the Host asks for.
        trained: the finished run of this party.
        host: the feature key of the Host.
        party: the feature key of this party.

    Raises:
        OtherRunError: they are of another run.
    """
    if (plan.run, plan.rounds) != (trained.run, trained.rounds):
        raise OtherRunError(
            f"the models of {host} are of another run ({plan.rounds} rounds) than those in"
            f" {trained.folder} ({trained.rounds} rounds); bring back those of one run",
            party=party,
        )


def asked_models(
    plan: PredictPlan | ServePlan, trained: Trained, half: Half[Any], host: str
) -> Trained:
    """Load the models of a finished run that a Host asks for, and return the run with these.

    Args:
        plan: what the Host asks for.
        trained: the finished run of this party, with the models whose weights the half has.
        half: the half of this party.
        host: the feature key of the Host.

    Raises:
        OtherRunError: this party lacks the models.
    """
    if plan.models == trained.which:
        return trained
    asked = read_trained(trained.folder, plan.models)
    try:
        load_models(asked, half)
    # The Host made this choice, so the Collaborator continues to serve.
    except ConfigError as error:
        raise OtherRunError(
            f"{host} asks for the {plan.models} models: {error}; ask for the others",
            party=half.run.party.name,
        ) from error
    return asked

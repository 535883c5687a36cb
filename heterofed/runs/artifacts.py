"""Reads what a finished run left at a party: its identity and its models."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from heterofed.compute.wrappers import state_for
from heterofed.errors import ConfigError
from heterofed.files import own_folder
from heterofed.protocol.plan import Fusion, PartyName, RoleSites
from heterofed.reporting.results import SUMMARY
from heterofed.runs.extra_modules import EXTRA, load_extras
from heterofed.runs.run import Run

Which = Literal["last", "best"]


class _Summary(msgspec.Struct):
    run: str = ""
    rounds: int = 0
    best_round: int = 0
    fusion: Fusion = "separate"
    sites: dict[PartyName, list[PartyName]] = {}


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run, as its results folder describes it.

    Attributes:
        folder: the results folder.
        run: the 16 bytes that identify the run at every party.
        rounds: the number of trained rounds.
        best_round: the round whose models `mark_best` kept; 0 if there is none.
        fusion: whether the Host got each Collaborator's features or only their sum.
        which: whether the last or the best models are used.
        roles: the sites of each role that has some.
    """

    folder: Path
    run: bytes
    rounds: int
    best_round: int
    fusion: Fusion
    which: Which
    roles: tuple[RoleSites, ...] = ()

    def parties_of(self, key: str) -> tuple[str, ...]:
        """Return the feature keys of those whose features have a key in projections: the sites of
        a role, or the one Collaborator.
        """
        return next((each.parties for each in self.roles if each.role == key), (key,))

    def path(self, name: str) -> Path:
        """Return the path of a model's file, or of another file that is also kept for the best
        round.
        """
        prefix = "best_" if self.which == "best" else ""
        return self.folder / f"{prefix}{name}"


def read_trained(folder: Path, which: Which = "last") -> Trained:
    """Return the finished run of a results folder.

    Raises:
        ConfigError: no run has ended successfully there.
    """
    if which not in ("last", "best"):
        raise ConfigError(f"models={which!r}: give 'last' or 'best'")
    try:
        found = msgspec.json.decode((folder / SUMMARY).read_bytes(), type=_Summary)
        run = bytes.fromhex(found.run)
    except (OSError, ValueError, msgspec.MsgspecError):
        raise ConfigError(
            f"{folder} holds no run that has ended well; train first, with the same task id, name"
            " and results_dir"
        ) from None
    if len(run) != 16 or found.rounds < 1:
        raise ConfigError(
            f"{folder / SUMMARY} is of a task that trained no model; give the task of a training"
        )
    roles = tuple(RoleSites(role, tuple(parties)) for role, parties in found.sites.items())
    return Trained(folder, run, found.rounds, found.best_round, found.fusion, which, roles)


def trained_here(run: Run, which: Which = "last") -> Trained:
    """Return the finished run whose results folder contains that of this run.

    Raises:
        ConfigError: no run has ended successfully there, or the folder is a link or belongs to
            another user, who could replace the model.
    """
    folder = run.result.folder.parent
    if folder.is_dir():
        own_folder(folder)
    return read_trained(folder, which)


def read_weights(trained: Trained, name: str) -> Any:
    """Return the content of `<name>.pt`, which `torch.save` wrote.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    path = trained.path(f"{name}.pt")
    if not path.exists() and trained.which == "best":
        raise ConfigError(f"{path} is not there; call self.mark_best() in test, or use the last")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}); restore it from a copy, or train"
            " again"
        ) from None
    return state


def load_weights(trained: Trained, name: str, model: nn.Module) -> None:
    """Load the weights of the run into a model.

    Raises:
        ConfigError: the weights are missing, or belong to another model.
    """
    state = read_weights(trained, name)
    try:
        model.load_state_dict(state_for(model, state))
    except (RuntimeError, AttributeError) as error:
        lines = str(error).splitlines()
        raise ConfigError(
            f"{trained.path(name + '.pt')} is of another model than make_{name} makes:"
            f" {lines[-1]}; make the model of the training"
        ) from None


def load_beside(trained: Trained, owner: object) -> None:
    """Load the trained state of the modules that a scheduler holds beside its models.

    Raises:
        ConfigError: the scheduler holds another module in the same place, or the file is damaged.
    """
    if trained.path(f"{EXTRA}.pt").exists():
        load_extras(owner, read_weights(trained, EXTRA))

"""Defines the state of a run in memory as typed fields, and the part that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from heterofed.compute.pace import MOST_CHOSEN

if TYPE_CHECKING:
    from heterofed.privacy.dpsgd import Sampling
    from heterofed.privacy.findings import Leak


@dataclass(slots=True)
class Kept:
    """The part of a run's own state that a checkpoint keeps, beside models, optimizers and user
    objects.

    All of it is plain values and tensors, because a checkpoint holds nothing else.

    Attributes:
        best_round: the round that `mark_best` marked last; 0 if there is none.
        best_digest: the digest of the files that hold the weights of that round.
        hyperparameters: the class of each optimizer and the settings of its groups, as its hook
            made them; None before the first checkpoint.
        staleness: how many steps the forward passes run ahead; None if it is not chosen yet.
        measured_from: the batch of this round, or of the next one, at which the next measurement
            begins that chooses the staleness; None if none is due.
        most_staleness: the largest staleness that may be chosen.
        best_loss: the lowest mean loss of a round, and its standard error.
        last_loss: the mean loss of the last round.
        recorded: the results of `train_a_batch` for each batch of the current round.
        means: the sums of the Collaborators' features in the current round, at the Host.
        private_steps: the number of DP-SGD steps that the current weights have made.
        defences: what the defences of this party have learnt from the batches so far, and the rows
            that wait to be measured.
        signature: a description of the inputs of this party's half.
        averaged: the state of a horizontal task that is not in a model of this party: the weights
            of all parties and the state of the Host's step, at the Host.
        links: the digests of the messages with each other party, for the receipt.
        sites: which site has each train id and each test id, by role, at the Host; the first
            weights of all sites, at a site.
    """

    best_round: int = 0
    best_digest: str = ""
    hyperparameters: dict[str, Any] | None = None
    staleness: int | None = None
    measured_from: int | None = 0
    most_staleness: int = MOST_CHOSEN
    best_loss: tuple[float, float] | None = None
    last_loss: float | None = None
    recorded: list[dict[str, float]] = field(default_factory=list)
    means: dict[str, Any] = field(default_factory=dict)
    private_steps: int = 0
    defences: dict[str, Any] = field(default_factory=dict)
    signature: dict[str, Any] = field(default_factory=dict)
    averaged: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    sites: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class RunState:
    """The state of a run in memory, which is replaced when the run starts again.

    Attributes:
        own_ids: the number of this party's ids and their keyed digest; None before they are loaded.
        train_ids, test_ids: the ids of each part, sorted; empty before the split. They are packed
            if the class splits positions (`split_places`).
        is_best: whether `mark_best` was called in the current round.
        sampled_round, sampling: the last round for which Poisson batches were drawn, and the drawn
            batches.
        most_drawn: how often the most frequent row was drawn, for the next batch that is sent, by
            kind of pass.
        leaks: the worst finding of the leak report about each party.
        new_leaks: all findings since the last checkpoint, until the end of the next round.
        told: the warnings that are given once in a run and were given.
        site_of: which site has each id that is common to all parties, by role, as the position of
            the site in the plan; at the Host from the intersection until the split.
        foretold_staleness: the staleness that a record says will be chosen; None in other runs.
        kept: the state that checkpoints keep.
    """

    own_ids: tuple[int, bytes] | None = None
    train_ids: Sequence[str] = field(default_factory=list)
    test_ids: Sequence[str] = field(default_factory=list)
    is_best: bool = False
    sampled_round: int = 0
    sampling: Sampling | None = None
    most_drawn: dict[str, int] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)
    new_leaks: list[Leak] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    foretold_staleness: int | None = None
    site_of: dict[str, dict[str, int]] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)

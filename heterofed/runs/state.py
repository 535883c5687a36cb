"""What one run holds in memory, by name and type, and the part of it that a checkpoint keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heterofed.privacy.dpsgd import Sampling
    from heterofed.privacy.findings import Leak


@dataclass(slots=True)
class Kept:
    """What a checkpoint keeps of a run itself, beside models, optimizers and the user's objects.

    All of it is plain values and tensors: a checkpoint holds nothing else.

    Attributes:
        best_round: the round that `mark_best` marked last; 0: none.
        best_digest: of the files that hold the weights of that round.
        hyperparameters: the class of each optimizer and the settings of its groups, as its hook
            made them; None before there is a checkpoint.
        staleness: how many steps the forwards run ahead; None where that is not chosen yet.
        recorded: what `train_a_batch` returned for each batch of the round that is under way.
        means: sums of the Collaborators' features in the round that is under way, at the Host.
        private_steps: steps of DP-SGD that the weights at hand have made.
        signature: what this party's half is fed.
    """

    best_round: int = 0
    best_digest: str = ""
    hyperparameters: dict[str, Any] | None = None
    staleness: int | None = None
    recorded: list[dict[str, float]] = field(default_factory=list)
    means: dict[str, Any] = field(default_factory=dict)
    private_steps: int = 0
    signature: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class RunState:
    """What a run holds from its beginning on; made anew where the run begins anew.

    Attributes:
        own_ids: how many ids this party has, and their keyed digest; None before they are loaded.
        train_ids, test_ids: sorted; empty before the split.
        is_best: whether `mark_best` was called in the round that is under way.
        sampled_round, sampling: the last round that Poisson batches were drawn for, and how.
        most_drawn: how often one row was drawn, for the next batch to leave, by kind of pass.
        leaks: what the leak report has found.
        told: warnings that are given once in a run.
        kept: what checkpoints keep.
    """

    own_ids: tuple[int, bytes] | None = None
    train_ids: list[str] = field(default_factory=list)
    test_ids: list[str] = field(default_factory=list)
    is_best: bool = False
    sampled_round: int = 0
    sampling: Sampling | None = None
    most_drawn: dict[str, int] = field(default_factory=dict)
    leaks: list[Leak] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    kept: Kept = field(default_factory=Kept)

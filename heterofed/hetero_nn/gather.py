"""One batch of every party at the Host: received, checked to be the same rows, made tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from heterofed.errors import BatchCountError, RowCountError
from heterofed.party import Party
from heterofed.peers import Mail, Peer
from heterofed.protocol.messages import EndOfFeatures, Features
from heterofed.tensors import Layout, check_finite, named, restore, unpack
from heterofed.training import Batch, device_of, rows_of


@dataclass(slots=True)
class Received:
    """Features of one batch of one Collaborator."""

    peer: Peer
    layout: Layout
    tensors: dict[str, Tensor]


@dataclass(slots=True)
class JointBatch:
    """The same rows at all parties: the Host's own batch and what the others sent."""

    mine: Batch
    theirs: list[Received]

    def projection(self, host: str) -> dict[str, Any]:
        """Features by feature key: the Host's first, unless label-only, then in task order."""
        own = {} if self.mine.features is None else {host: self.mine.features}
        return own | {each.peer.name: restore(each.layout, each.tensors) for each in self.theirs}


def joint_batches(
    party: Party, own: Iterator[Batch], hook: str, model: nn.Module
) -> Iterator[JointBatch]:
    """The Host's own batches beside those of all Collaborators, in step.

    Args:
        party: the Host.
        own: the Host's own batches.
        hook: where they come from, for messages.
        model: whose device a label-only Host's batches go to.

    Raises:
        BatchCountError, RowCountError: naming the party and both counts, before the batch is used.
        NonFiniteError: a party sent NaN or infinity.
    """
    for number in itertools.count():
        mine = next(own, None)  # before waiting: the others compute theirs at the same time
        mails = {
            peer.name: party.take(peer, Features, EndOfFeatures) for peer in party.peers.values()
        }
        _check_counts(party, mine, mails, number)
        if mine is None:
            party.batch = None
            return
        rows = rows_of(mine, hook)
        features = {} if mine.features is None else named(mine.features, hook)[1]
        check_finite(features, f"what {hook} yielded", party.name)
        device = device_of(features, model)
        theirs = []
        for peer in party.peers.values():
            message = mails[peer.name].of(Features)
            if message.rows != rows:
                raise RowCountError(
                    f"batch {number} of round {party.round} has {message.rows} rows at"
                    f" {peer.name} and {rows} at {party.name}; use the same batch size everywhere",
                    party=peer.name,
                    numbers=(message.rows, rows),
                )
            tensors = unpack(message.tensors, mails[peer.name].payload, peer.name, device)
            check_finite(tensors, "the features", peer.name)
            theirs.append(Received(peer, message.layout, tensors))
        yield JointBatch(mine, theirs)


def _check_counts(party: Party, mine: Batch | None, mails: dict[str, Mail], number: int) -> None:
    """Whether all parties have a batch of this number, or none has."""
    for name, mail in mails.items():
        ended = isinstance(mail.message, EndOfFeatures)
        if ended == (mine is None):
            continue
        theirs, ours = (number, number + 1) if ended else (number + 1, number)
        more = party.name if ended else name
        raise BatchCountError(
            f"round {party.round} has {theirs} batches at {name} and {ours} at {party.name}"
            f" ({more} has at least that many); use the same batch size, and treat the last batch"
            " alike",
            party=name,
            numbers=(theirs, ours),
        )

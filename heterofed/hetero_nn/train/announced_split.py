"""Announces the Host's split: the part of each common id, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from heterofed.compute.alignment import pack_parts, unpack_parts
from heterofed.errors import IdError
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.protocol.messages import SplitParts

IDS_AT_ONCE = 1 << 20
"""The most ids of one message, which take 256 KiB."""


def announce_split(
    party: Party,
    common: Iterable[str],
    train: Sequence[str],
    test: Sequence[str],
    known_to: Callable[[str, Sequence[str]], Sequence[str]] = lambda _party, ids: ids,
) -> None:
    """At the Host: tell every Collaborator which common ids are train and test ids.

    Args:
        party: the Host.
        common: the common ids.
        train: the train ids.
        test: the test ids.
        known_to: returns those of the common ids that a Collaborator has.

    Raises:
        IdError: `split_dataset` returned ids that are not common to all parties.
    """
    ordered = sorted(common)
    if not set(ordered).issuperset((*train, *test)):
        raise IdError(
            "announce_split: split_dataset returned ids that are not in id_intersection; return ids"
            " of it alone, since the others are told which of these are in which part"
        )
    for peer in party.peers.values():
        theirs = known_to(peer.name, ordered)
        for start in range(0, len(theirs), IDS_AT_ONCE):
            some = theirs[start : start + IDS_AT_ONCE]
            party.post(peer, SplitParts(len(some)), [pack_parts(some, train, test)])


def announced_split(party: Party, host: Peer, common: Iterable[str]) -> tuple[list[str], list[str]]:
    """At a Collaborator: return the train and test ids that the Host announces."""
    ordered = sorted(common)
    train: list[str] = []
    test: list[str] = []
    told = 0
    while told < len(ordered):
        mail = party.take(host, SplitParts)
        some = ordered[told : told + mail.of(SplitParts).ids]
        some_train, some_test = unpack_parts(some, bytes(mail.payload))
        train += some_train
        test += some_test
        told += len(some)
    return train, test

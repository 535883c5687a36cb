"""How the common ids are split into train and test ids, and compared between the parties."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from heterofed.compute.alignment import SortedIdSet, check_split, keyed_digest
from heterofed.errors import SplitMismatchError
from heterofed.hetero_nn.half import Half
from heterofed.messaging.peer import Peer
from heterofed.protocol.messages import SplitAccepted, SplitPlan

logger = logging.getLogger("heterofed")


def split(half: Half[Any], common: Iterable[str]) -> SplitPlan:
    """Split the common ids; gives the digests by which the parties compare their splits.

    Raises:
        SplitError: the hook gave something that is no split.
    """
    run, ids = half.run, SortedIdSet(common)
    train, test = check_split(half.hooks.call("split_dataset", ids))
    if not ids.issuperset(train) or not ids.issuperset(test):
        logger.info("split_dataset returned names that are not ids of the intersection")
    if half.settings.weights_defence is not None:
        half.settings.weights_defence.take_rows(len(train))
    if twice := len(set(train) & set(test)):
        logger.warning(
            "%d of the %d test ids are train ids too: the test is of rows that were trained on",
            twice,
            len(test),
        )
    run.result.ids = len(ids)
    run.state.train_ids, run.state.test_ids = train, test
    half.signature.begin_anew()
    half.signature.compare_columns()
    secret = run.maybe_agreement.secret if run.maybe_agreement else b""
    return SplitPlan(
        keyed_digest(secret, "train", train),
        keyed_digest(secret, "test", test),
        len(train),
        len(test),
    )


def split_as_host(
    half: Half[Any], common: Iterable[str], keep: Callable[[], None] = lambda: None
) -> None:
    """Have every Collaborator split as the Host does; `keep` is called once all have."""
    party = half.run.party
    with party.in_phase("split"):
        party.broadcast(split(half, common))
        for peer in party.peers.values():
            party.take(peer, SplitAccepted)
        keep()


def split_as_collaborator(
    half: Half[Any], host: Peer, common: Iterable[str], keep: Callable[[], None] = lambda: None
) -> None:
    """Split as the Host does; `keep` is called before that is told to it.

    Raises:
        SplitMismatchError: this party's split is another one.
    """
    party = half.run.party
    with party.in_phase("split"):
        theirs = party.take(host, SplitPlan).of(SplitPlan)
        mine = split(half, common)
        if mine != theirs:
            raise SplitMismatchError(
                f"split_dataset gave {mine.train_count} train and {mine.test_count} test ids at"
                f" {party.name}, {theirs.train_count} and {theirs.test_count} at {host.name},"
                " or others of the same number; use the same function at every party"
            )
        keep()
        party.post(host, SplitAccepted())

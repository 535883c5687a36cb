"""Splits the common ids into train and test ids, and compares the splits of the parties."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from heterofed.compute.alignment import SortedIdSet, check_places, check_split, keyed_digest
from heterofed.compute.packed_ids import PackedIds
from heterofed.errors import SplitMismatchError
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.sites.relay import SumRelay
from heterofed.hetero_nn.sites.rows_at_host import RowsOfSites
from heterofed.hetero_nn.train.announced_split import announce_split, announced_split
from heterofed.messaging.peer import Peer
from heterofed.protocol.messages import SplitAccepted, SplitPlan
from heterofed.runs.term_limits import too_much

logger = logging.getLogger("heterofed")


Parts = tuple[Sequence[str], Sequence[str]]
"""The train ids and the test ids."""


def split(half: Half[Any], common: Iterable[str], announced: Parts | None = None) -> SplitPlan:
    """Split the common ids, and return the digests by which the parties compare their splits.

    Args:
        half: the half of this party, whose run gets the train and test ids.
        common: the ids that all parties have.
        announced: the split that the Host announced; with None, this party's hook is called.

    Raises:
        SplitError: the result of the hook is not a split.
    """
    run = half.run
    train: Sequence[str]
    test: Sequence[str]
    packed = None if announced or run.plan.sites else PackedIds.in_order(common)
    places = None if packed is None else half.hooks.call("split_places", packed)
    if packed is None or places is None:
        count, (train, test) = _split_by_names(half, common, announced)
    else:
        count = len(packed)
        train, test = map(packed.take, check_places(places, count))
        used = len(train) + len(test)
        too_much(run, "the number of ids in the split", "intersection", used, least=True)
    if half.settings.weights_defence is not None:
        half.settings.weights_defence.take_rows(len(train))
    run.result.ids = count
    run.result.train_rows, run.result.test_rows = len(train), len(test)
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


def _split_by_names(
    half: Half[Any], common: Iterable[str], announced: Parts | None
) -> tuple[int, Parts]:
    """Return the number of the common ids, and the parts that a hook or the Host chose."""
    run, ids = half.run, SortedIdSet(common)
    is_site = run.plan.sites_with(run.party.name) is not None
    given = announced or half.hooks.call("split_dataset", ids)
    train, test = check_split(given, may_be_empty=is_site)
    if not ids.issuperset(train) or not ids.issuperset(test):
        logger.info("split_dataset returned names that are not ids of the intersection")
    if twice := len(set(train) & set(test)):
        logger.warning(
            "%d of the %d test ids are train ids too: the test is of rows that were trained on",
            twice,
            len(test),
        )
    used = len({*train, *test})
    too_much(run, "the number of ids in the split", "intersection", used, least=True)
    return len(ids), (train, test)


def split_as_host(
    half: Half[Any],
    common: Iterable[str],
    sites: RowsOfSites | None,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Check that all Collaborators split as the Host does, and then call `keep`.

    Args:
        half: the half of the Host.
        common: the common ids.
        sites: knows which site has each row, if roles have sites.
        keep: called after all Collaborators have a checkpoint of the split.
    """
    party, state = half.run.party, half.run.state
    with party.in_phase("split"):
        digests = split(half, common)
        if sites is not None:
            sites.divide()
            announce_split(party, common, state.train_ids, state.test_ids, sites.common_of)
            for peer in party.peers.values():
                party.post(peer, sites.digests(peer.name))
            sites.forget_common()
            SumRelay(party, half.run.plan).begin()
        else:
            if half.run.plan.announced_split:
                announce_split(party, common, state.train_ids, state.test_ids)
            party.broadcast(digests)
        for peer in party.peers.values():
            party.take(peer, SplitAccepted)
        keep()


def split_as_collaborator(
    half: Half[Any], host: Peer, common: Iterable[str], keep: Callable[[], None] = lambda: None
) -> None:
    """Split as the Host does; `keep` is called before the Host is told.

    Raises:
        SplitMismatchError: this party's split differs from the Host's.
    """
    party = half.run.party
    with party.in_phase("split"):
        announces = half.run.plan.announced_split
        announced = announced_split(party, host, common) if announces else None
        theirs = party.take(host, SplitPlan).of(SplitPlan)
        mine = split(half, common, announced)
        if mine != theirs:
            raise SplitMismatchError(
                f"split_dataset gave {mine.train_count} train and {mine.test_count} test ids at"
                f" {party.name}, {theirs.train_count} and {theirs.test_count} at {host.name},"
                " or others of the same number; use the same function at every party"
            )
        keep()
        party.post(host, SplitAccepted())

"""Runs the PSI phase at the Host, which has its ids signed by every Collaborator.

The cryptography is in `psi`. This module, and `request` for one Collaborator, send its bytes in
messages.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psi
from heterofed.compute.packed_ids import PackedIds
from heterofed.errors import EmptyIntersectionError
from heterofed.intersection.divided import Divided
from heterofed.intersection.executors import opened_executor
from heterofed.intersection.ids import check_count, files_named, own_ids, picked, tell
from heterofed.intersection.keys import Further, by_keys
from heterofed.intersection.request import Request
from heterofed.protocol.plan import RoleSites
from heterofed.runs.run import Run
from heterofed.runs.term_limits import check_enough


def intersect_as_host(run: Run, ids: Iterable[str], further: Further | None = None) -> PackedIds:
    """The ids that every party has, by each key in the order of its ids; see `common_as_host` and
    `by_keys`.
    """
    first = own_ids(ids)

    def intersect(some: Iterable[str]) -> PackedIds:
        own = own_ids(some)
        return picked(own, common_as_host(run, own))

    common = by_keys(run, first, further, intersect)
    if not common:
        raise _nothing(run, first)
    check_enough(run, len(common))
    return common


def _nothing(run: Run, ids: psi.OwnIds) -> EmptyIntersectionError:
    return EmptyIntersectionError(
        f"{run.party.name} has {len(ids)} ids and none of them is common to all parties;"
        " compare how the parties write their ids (spaces, case, leading zeros)"
    )


def common_as_host(run: Run, ids: psi.OwnIds) -> array[int]:
    """Find the ids that every party has, and return their positions in `ids` in ascending order.

    Raises:
        PSIFailedError: a check failed, or there are more ids than the plan allows. The error names
            the party.
        EmptyIntersectionError: no id is common to all parties, and the plan has no further key.
        CheckpointError: a file that the intersection needs cannot be written or read.
    """
    party = run.party
    check_count(run, len(ids))
    total = len(ids) * len(party.peers)
    with party.in_phase("psi", total=total, unit="ids"), _signed(run, ids) as requests:
        plan = run.plan
        divided = Divided(plan.sites, plan.sites_overlap, len(ids), _found(run, requests))
        common = divided.common
        sizes = [len(ids), *(request.peer_count for request in requests)]
        tell(run, len(common), len(ids), min(sizes))
        if not common and run.plan.id_keys == 1:
            raise _nothing(run, ids)
        if run.plan.id_keys == 1:
            check_enough(run, len(common))  # before the others learn which ones they are
        divided.check()
        for request in requests:
            request.claim(divided.having(request.name))
    run.state.site_of = divided.site_of(ids.pick(common)) if run.plan.sites else {}
    return common


def match_by_keys(run: Run, ids: Iterable[str], further: Further) -> dict[str, set[str]]:
    """At the Host: return the ids that all parties have by any key of the plan, by feature key.

    Nothing is kept for later, and an empty intersection is no error. See `by_keys`.
    """

    def intersect(some: Iterable[str]) -> PackedIds:
        found = match_each(run, some, only_common=True)
        return PackedIds(sorted(next(iter(found.values()))) if found else [])

    common = set(by_keys(run, ids, further, intersect))
    return dict.fromkeys(run.party.peers, common)


def match_each(
    run: Run, ids: Iterable[str], *, only_common: bool, roles: Sequence[RoleSites] = ()
) -> dict[str, set[str]]:
    """Return, at the Host, which of `ids` each Collaborator has, by feature key; see
    `positions_of_each`.
    """
    own = own_ids(ids)
    found = positions_of_each(run, own, only_common=only_common, roles=roles)
    return {name: set(own.pick(positions)) for name, positions in found.items()}


def positions_of_each(
    run: Run, own: psi.OwnIds, *, only_common: bool, roles: Sequence[RoleSites] = ()
) -> dict[str, array[int]]:
    """Return, at the Host, the positions of the ids that each Collaborator has, in ascending order
    and by feature key.

    Args:
        run: this run.
        own: the ids of this party.
        only_common: whether the Collaborators learn only the ids that all parties have. Otherwise
            each of them learns which of its own ids are in `ids`.
        roles: the sites of each role that has some; an id is common if one site of each has it.

    Raises:
        SitesOverlapError: two sites have one id, and the plan does not say who may have it.
        PSIFailedError: a check failed, or there are more ids than the plan allows; it names the
            party.
        CheckpointError: a file that the intersection needs cannot be written or read.
    """
    party = run.party
    check_count(run, len(own))
    total = len(own) * len(party.peers)
    with party.in_phase("psi", total=total, unit="ids"), _signed(run, own, kept=False) as requests:
        found = {request.name: request.matches for request in requests}
        divided = Divided(roles, run.plan.sites_overlap, len(own), found)
        claimed = divided.having if only_common else divided.own
        found = {name: claimed(name) for name in found}
        for request in requests:
            request.claim(found[request.name])
    return found


@contextmanager
def _signed(run: Run, ids: psi.OwnIds, *, kept: bool = True) -> Iterator[list[Request]]:
    """Have every Collaborator sign `ids`, and receive its tags."""
    peers = run.party.peers.values()
    with files_named(), opened_executor(run) as executor, ExitStack() as stack:
        requests = [
            stack.enter_context(Request(run, peer, ids, executor, kept=kept)) for peer in peers
        ]
        again = all(request.has_store for request in requests)
        for request in requests:
            request.announce(again=again)
        done = sum(request.answered for request in requests)
        while any(not request.signed for request in requests):
            for request in requests:
                request.ask()
            for request in requests:
                done += request.take_signed()
            run.party.progress(done)
        for request in requests:
            request.take_tags()
        yield requests


def _found(run: Run, requests: Sequence[Request]) -> dict[str, array[int]]:
    """Return the positions of the own ids that each Collaborator has, or of those that all have, if
    nobody may learn more.
    """
    if run.plan.psi_parties == "pairwise":
        return {each.name: each.matches for each in requests}
    common = psi.common_positions([each.decoded for each in requests])
    return {each.name: common for each in requests}

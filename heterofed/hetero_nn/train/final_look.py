"""Evaluates the best models once more after the last round, if the plan says so (`final_rows`).

Each Collaborator sends any number of batches of the same test rows. The first batch is as it is. In
the others something of the Collaborator's own is changed, such as the values of one column, which
are permuted over the rows. The Host tells each Collaborator what it found for its batches, and
nothing about those of others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from heterofed.compute.alignment import some_ids
from heterofed.compute.features import FeatureBatch
from heterofed.compute.streams import generators_kept
from heterofed.compute.tensors import check_finite, unpack
from heterofed.errors import RowCountError
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.predict.models import load_models
from heterofed.hetero_nn.train.collaborator_loop import CollaboratorLoop
from heterofed.hetero_nn.train.feature_sender import FeatureFeed
from heterofed.hetero_nn.train.own_batches import LOOKS
from heterofed.messaging.peer import Mail, Peer
from heterofed.protocol import messages as msg
from heterofed.protocol.messages import MAX_FINDINGS
from heterofed.runs.artifacts import Trained, Which
from heterofed.runs.run import Run

WHAT = "the final evaluation of the best models"


def final_ids(run: Run) -> list[str]:
    """Return the test ids of the evaluation, sorted; they are the same at every party."""
    return some_ids(run.state.test_ids, seed=run.plan.seed, most=run.plan.final_rows)


def look_as_host(half: Half[Any]) -> None:
    """Take each Collaborator's batches, and tell it what was found for them.

    Raises:
        RowCountError, RowOrderError: a batch has other rows.
    """
    run, party, ids = half.run, half.run.party, final_ids(half.run)
    with _best_models(half), _looking(half):
        party.broadcast(msg.BeginTest(run.round))
        going = list(party.peers.values())
        for number in range(MAX_FINDINGS + 2):  # the session refuses more batches
            if not (going := [peer for peer in going if _took(half, peer, number, ids)]):
                break
            party.progress(number + 1)
        found: Mapping[str, Any] = {}
        with run.harmless(WHAT):
            found = half.hooks.seeded("end_final_look")
        for peer in party.peers.values():
            party.post(peer, msg.Findings(_plain(found.get(peer.name, ()))))


def look_as_collaborator(half: Half[Any], loop: CollaboratorLoop, host: Peer) -> None:
    """Send what `iterate_final_feature` yields, and pass on what the Host has found."""
    run, party = half.run, half.run.party
    with _best_models(half), _looking(half):
        feed = FeatureFeed(party, host)
        for _ in loop.sending(feed, LOOKS, final_ids(run), most=MAX_FINDINGS + 1):
            pass
        feed.end()
        feed.settle()
    values = party.take(host, msg.Findings).of(msg.Findings).values
    with run.harmless(WHAT):
        half.hooks.call("take_findings", list(values))


def _took(half: Half[Any], peer: Peer, number: int, ids: list[str]) -> bool:
    """Take one batch; return whether there was one."""
    party = half.run.party
    mail = party.take(peer, msg.Features, msg.EndOfFeatures)
    if isinstance(mail.message, msg.EndOfFeatures):
        return False
    features = _received(half, peer, mail, number, ids)
    with half.run.harmless(WHAT):
        half.hooks.seeded("final_look", peer.name, number, features.arranged())
    party.post(peer, msg.BatchDone(party.round, number, stepped=False))
    return True


def _received(half: Half[Any], peer: Peer, mail: Mail, number: int, ids: list[str]) -> FeatureBatch:
    party, message = half.run.party, mail.of(msg.Features)
    if message.rows != len(ids):
        raise RowCountError(
            f"{peer.name} sent {message.rows} of {len(ids)} rows; let its iterate_final_feature"
            " yield all rows in each batch",
            party=peer.name,
            numbers=(message.rows, len(ids)),
        )
    mine = half.order.proof(ids, number, len(ids), LOOKS)
    half.order.compare(mine, message.ids, peer.name, number)
    with party.encoding(peer, "received"):
        coding = peer.session.feature_coding
        tensors = unpack(message.tensors, mail.payload, peer.name, coding=coding)
        check_finite(tensors, "the features", peer.name)
    return FeatureBatch(message.layout, tensors)


def _plain(values: Any) -> tuple[float, ...]:
    return tuple(float(each) if math.isfinite(each) else math.nan for each in values)


@contextmanager
def _looking(half: Half[Any]) -> Iterator[None]:
    party, run = half.run.party, half.run
    with (
        party.in_phase("test", round_number=run.round, unit="columns"),
        generators_kept(),
        half.evaluating(),
    ):
        yield


@contextmanager
def _best_models(half: Half[Any]) -> Iterator[None]:
    """Use the models of the best round, if there is one, in place of the last ones within the
    block.

    The last ones must be in the results folder already.
    """
    if not half.run.state.kept.best_round:
        yield
        return
    load_models(_here(half.run, "best"), half)
    try:
        yield
    finally:
        load_models(_here(half.run, "last"), half)


def _here(run: Run, which: Which) -> Trained:
    result = run.result
    best = run.state.kept.best_round
    return Trained(result.folder, run.agreement.run, run.round, best, run.plan.fusion, which)

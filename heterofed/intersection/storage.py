"""What intersections leave on disk, and where: counts that only grow, and what later ones reuse.

A Collaborator keeps its tags, a Host the results, each for one peer and task. Where neither set has
changed, a later intersection signs nothing and tests no guess, so it counts nothing: who makes the
parties meet again and again cannot use up what another one may have.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psi
from heterofed.files import heterofed_home, private_folder
from heterofed.messaging.peer import Peer
from heterofed.runs.run import Run

KEPT_DAYS = 90
"""After so many days without use, what could be reused is removed."""

TAGS = "ids to be tested here"


def signed_for(run: Run, host: Peer) -> psi.Budget:
    """The values that this party, a Collaborator, has signed for the Host."""
    # A name that the connection does not prove is the Host's own word: it may change any day.
    task = run.account_of_ids or run.task_id
    return psi.Budget(_folder(run, "budgets"), peer=host.channel.party or "", task=task)


def tested_by(run: Run, peer: Peer) -> psi.Budget:
    """The ids of a Collaborator, real ones or made up, that this party, the Host, has matched."""
    name = peer.channel.party or ""
    return psi.Budget(_folder(run, "budgets"), peer=name, task=run.task_id, counts=TAGS)


def kept_tags(run: Run, host: Peer) -> psi.KeptKey:
    """What a Collaborator goes on from with this Host."""
    kept = psi.KeptKey(_kept(run), peer=host.name, task=_account(run, host))
    if run.resume == "never" and not run.simulated:  # a simulation has what it was given
        kept.discard()
    return kept


def kept_results(run: Run, peer: Peer) -> psi.Resume:
    """What a Host goes on from with this Collaborator."""
    kept = psi.Resume(_kept(run), peer=peer.name, task=_account(run, peer))
    if run.resume == "never" and not run.simulated:  # a simulation has what it was given
        kept.discard()
    return kept


def _folder(run: Run, name: str) -> Path:
    return private_folder(run.ledger or heterofed_home(), name)


def _kept(run: Run) -> Path:
    """Where files that may be reused lie; those that nobody has used for long go."""
    folder, oldest = _folder(run, "intersections"), time.time() - KEPT_DAYS * 86_400
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink()
    return folder


def _account(run: Run, peer: Peer) -> str:
    # What was found with a peer whose name is proven is counted, and kept, apart from what was
    # found with one that only says that name.
    proof = "proven" if peer.channel.party else ""
    key = f"\0key {run.id_key}" if run.id_key else ""
    return f"{run.task_id}\0{run.party.name}\0{proof}{key}"

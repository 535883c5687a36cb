"""Determines which files intersections keep: counts that only grow, and results for reuse.

A Collaborator keeps its tags and a Host keeps the results, each for one peer and task. If neither
set has changed, a later intersection signs nothing and tests no guess, so nothing is counted.
Therefore nobody can use up another party's limit by making the parties connect again and again.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psi
from heterofed.files import heterofed_home, private_folder
from heterofed.messaging.peer import Peer
from heterofed.runs.run import Run
from psi.storage.files import DRAFT

KEPT_DAYS = 90
"""Files for reuse are removed after this many days without use."""

TAGS = "ids to be tested here"

TERMS = "max_ids of the terms"


def signed_for(run: Run, host: Peer) -> psi.Budget:
    """Return the count of values that this Collaborator has signed for the Host."""
    # If the connection does not prove the Host's name, the Host can change it at any time.
    task = run.account_of_ids or run.task_id
    return psi.Budget(_folder(run, "budgets"), peer=host.channel.party or "", task=task)


def allowed_to(run: Run, most: int, setting: str) -> tuple[int, str]:
    """Return the most ids that this Collaborator answers in all, and the name of what limits them.

    Args:
        run: this run; the terms of its task hold for every purpose.
        most: the most ids by a setting of this party.
        setting: the name of the setting.
    """
    agreed = run.plan.limits.max_ids
    return (most, setting) if agreed is None or most <= agreed else (agreed, TERMS)


def tested_by(run: Run, peer: Peer) -> psi.Budget:
    """Return the count of a Collaborator's ids, real or invented, that this Host has matched."""
    name = peer.channel.party or ""
    return psi.Budget(_folder(run, "budgets"), peer=name, task=run.task_id, counts=TAGS)


def kept_tags(run: Run, host: Peer) -> psi.KeptKey:
    """Return the tags that a Collaborator keeps for this Host."""
    kept = psi.KeptKey(_kept(run), peer=host.name, task=_account(run, host))
    # A simulation uses the folder that it was given.
    if run.resume == "never" and not run.simulated:
        kept.discard()
    return kept


def kept_results(run: Run, peer: Peer) -> psi.Resume:
    """Return the results that a Host keeps for this Collaborator."""
    kept = psi.Resume(_kept(run), peer=peer.name, task=_account(run, peer))
    # A simulation uses the folder that it was given.
    if run.resume == "never" and not run.simulated:
        kept.discard()
    return kept


def _folder(run: Run, name: str) -> Path:
    return private_folder(run.ledger or heterofed_home(), name)


def _kept(run: Run) -> Path:
    return folder_for_reuse(run, "intersections")


def folder_for_reuse(run: Run, name: str) -> Path:
    """Return a folder of files for reuse, after removing what was not used for long: files after
    `KEPT_DAYS`, and what a killed process had not finished after a day.
    """
    folder, now = _folder(run, name), time.time()
    for path in folder.iterdir():
        days = 1 if path.suffix == DRAFT else KEPT_DAYS
        with contextlib.suppress(OSError):  # another process removed it, or it is no file of ours
            if path.lstat().st_mtime < now - days * 86_400:
                path.unlink()
    return folder


def _account(run: Run, peer: Peer) -> str:
    # Counts and results of a peer with a proven name are separate from those of a peer that only
    # claims the name.
    proof = "proven" if peer.channel.party else ""
    key = f"\0key {run.id_key}" if run.id_key else ""
    return f"{run.task_id}\0{run.party.name}\0{proof}{key}"

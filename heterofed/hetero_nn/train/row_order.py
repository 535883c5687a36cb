"""Proves that the rows of a batch have the same ids in the same order at all parties.

Each party's hook yields the ids that it read with its rows. A keyed digest of them is sent with the
features, and the Host compares it with the digest of its own rows. Ids are never sent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from heterofed.compute.alignment import keyed_digest
from heterofed.compute.plain import are_plain
from heterofed.errors import FeatureError, RowOrderError
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")


class RowOrder:
    """The row order of one run, at one party.

    Args:
        run: the run, whose parties are connected; its secret is the key of the digests.
        owner: this party's scheduler, which is searched for data loaders that shuffle.
    """

    def __init__(self, run: Run, owner: object) -> None:
        self._run = run
        self._owner = owner
        self._warned = False

    def proof(self, ids: object, number: int, rows: int, where: str) -> bytes | None:
        """Return the digest of a batch's ids; without ids, return None and log one warning per run.

        Args:
            ids: one id per row, as loaded from the data.
            number: the number of the batch.
            rows: the number of rows of the batch.
            where: the name of the hook for errors.

        Raises:
            FeatureError: the ids are not one string per row.
        """
        if ids is None:
            self.unproven()
            return None
        if isinstance(ids, str | bytes) or not isinstance(ids, Sequence):
            raise FeatureError(
                f"{where}: ids are a {type(ids).__name__}, not a list of str; give a list of str"
            )
        plain = are_plain(ids) or all(isinstance(each, str) for each in ids)
        if len(ids) != rows or not plain:
            raise FeatureError(
                f"{where}: there are {len(ids)} ids for {rows} rows; give one id (str) per row"
            )
        purpose = f"rows {self._run.party.phase} {self._run.party.round} {number}"
        return keyed_digest(self._run.agreement.secret, purpose, ids)

    def unproven(self) -> None:
        """Warn once per run that this party's rows come without ids."""
        self._warn(self._run.party.name, shuffling_loaders(self._owner))

    def compare(self, mine: bytes | None, theirs: bytes | None, peer: str, number: int) -> None:
        """At the Host: refuse a batch that has other rows at `peer`, before it is used.

        Raises:
            RowOrderError: the rows differ. The message names party, round and batch.
        """
        if mine is None:
            return
        if theirs is None:
            self._warn(peer, [])
        elif mine != theirs:
            party = self._run.party
            raise RowOrderError(
                f"batch {number} of round {party.round} has other rows at {peer} than at"
                f" {party.name}, or in another order; read rows in the order of the ids that"
                " the hook is given, and do not shuffle or sort them",
                party=peer,
                batch=number,
            )

    def _warn(self, party: str, loaders: Sequence[str]) -> None:
        if self._warned:
            return
        self._warned = True
        if loaders:
            logger.warning(
                "row order not verified, and %s shuffles by itself: its rows are of other people"
                " than the other parties'; read rows in the order of the ids that the hook is given"
                " (heterofed.data.IndexedDataset does), and yield Batch(..., ids=...)",
                ", ".join(f"self.{name}" for name in loaders),
            )
        else:
            logger.warning(
                "row order not verified: %s yields no ids; yield a Batch with ids=..., the ids as"
                " loaded from the data beside the rows",
                party,
            )


def shuffling_loaders(owner: object) -> list[str]:
    """Return the names of attributes that are data loaders with their own random order."""
    attributes: dict[str, Any] = vars(owner)
    return [
        name
        for name, value in attributes.items()
        if isinstance(value, DataLoader) and (_draws(value.sampler) or _draws(value.batch_sampler))
    ]


def _draws(sampler: object) -> bool:
    """Return whether a sampler, or the one within a batch sampler, draws its order at random."""
    drawing = RandomSampler | SubsetRandomSampler | WeightedRandomSampler
    return isinstance(sampler, drawing) or isinstance(getattr(sampler, "sampler", None), drawing)

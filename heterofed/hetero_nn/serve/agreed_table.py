"""Keeps which rows two parties agreed on, so that they come back without another intersection."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import psi
from heterofed.compute.alignment import keyed_digest
from heterofed.compute.packed_ids import PackedIds
from heterofed.files import put_in_place, read, writing
from heterofed.hetero_nn.predict.quota import today
from heterofed.intersection.ids import own_ids
from heterofed.protocol.messages import Mark
from heterofed.protocol.plan import Plan
from heterofed.rendezvous.agreement import Agreement, Earlier
from heterofed.runs.artifacts import Trained
from heterofed.runs.run import Run

Rows = np.ndarray[Any, np.dtype[np.int64]]

TABLE = "table.msgpack"
"""The name of the file in the folder `serving`."""

HELD_IDS, MOST_BUCKETS = 131_072, 32
"""The most ids whose records an intersection holds in memory, unless they make more buckets than
this, each of which is an open file.
"""

AGREED = Mark(0)
"""The mark by which parties tell each other that they hold the table of a run."""


class AgreedTable(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an intersection for a standing link.

    Attributes:
        day: the day (UTC) of the intersection; the table is used on this day.
        plan, run, secret: the agreement of the parties, which they go on with.
        own: the digest of this party's sorted ids, keyed with `secret`.
        places: the positions among them of the ids in common, ascending, 4 bytes each
            (little-endian), by the party that has them too. No id is written.
    """

    day: str
    plan: Plan
    run: bytes
    secret: bytes
    own: bytes
    places: dict[str, bytes]

    def rows(self, party: str) -> Rows:
        """Return the positions of the ids that another party has too."""
        return np.frombuffer(self.places[party], "<u4").astype(np.int64)

    @property
    def earlier(self) -> Earlier:
        """The form of this table in which parties compare what they hold."""
        return Earlier(Agreement(self.plan, self.run, self.secret), (AGREED,))


def to_intersect(ids: PackedIds) -> psi.OwnIds:
    """Return ids for an intersection that is kept in files if they are many.

    A process that serves lives for long, and should not be as large as its start was.

    Raises:
        IdError: there is no id.
    """
    return own_ids(psi.OwnIds(ids, bucket_ids=max(HELD_IDS, len(ids) // MOST_BUCKETS)))


def keep(run: Run, mine: Sequence[str], found: Mapping[str, Rows]) -> None:
    """Write the table of a run: the positions of the ids in common, by the other party.

    Raises:
        ResultsError: it cannot be written.
    """
    met = run.agreement
    own = keyed_digest(met.secret, "own ids", mine)
    places = {name: each.astype("<u4").tobytes() for name, each in found.items()}
    table = AgreedTable(
        day=today(), plan=met.plan, run=met.run, secret=met.secret, own=own, places=places
    )
    path = run.result.folder / TABLE
    with writing(path):
        put_in_place(path, lambda file: file.write(msgspec.msgpack.encode(table)))


def kept(folder: Path, mine: Sequence[str]) -> AgreedTable | None:
    """Return the table of today if this party's ids are unchanged."""
    try:
        table = msgspec.msgpack.decode(read(folder / TABLE), type=AgreedTable)
        rows = [table.rows(name) for name in table.places]
    except (OSError, msgspec.MsgspecError, ValueError):  # it is not there, or was damaged
        return None
    same = table.own == keyed_digest(table.secret, "own ids", mine)
    same &= all(each < len(mine) for places in rows for each in places[-1:])
    return table if same and table.day == today() else None


def discard(folder: Path) -> None:
    """Forget the table."""
    with contextlib.suppress(OSError):
        (folder / TABLE).unlink()


def half_digest(trained: Trained, names: Sequence[str]) -> bytes:
    """Return the digest of this party's half of the model, 32 bytes, over its files.

    Args:
        trained: the finished run.
        names: the names of its models; those without a file have no weights.
    """
    digest = hashlib.sha256(trained.run)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            content = trained.path(f"{name}.pt").read_bytes()
            digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
    return digest.digest()


def joint_version(*halves: bytes) -> bytes:
    """Return the version of a model from the digests of its halves, the Host's first."""
    return hashlib.sha256(b"heterofed model\0" + b"".join(halves)).digest()

"""Defines what a file of a record holds: its beginning, a checkpoint, and messages in order."""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass

import msgspec

from heterofed._version import __version__
from heterofed.errors import RecordError
from heterofed.protocol.codec import Buffer
from heterofed.protocol.messages import Mark
from heterofed.protocol.states import Role
from heterofed.runs.checkpoint_store import RunRecord, decoded
from heterofed.runs.records.program import Program

FORMAT = 1

SENT, CAME, END = 0, 1, 2
"""The kinds of entries after the checkpoint; the last one stands where the next file begins."""

_HEAD = struct.Struct("<BHI")


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a file.

    Attributes:
        number: the number of the file in its record, from 1.
        launch: random bytes of the connection of all parties in which it was written.
        mark: the mark of the checkpoint with which it begins.
        role: the role of this party.
        task, party: the id of the task, and the feature key of this party.
        record: the record of the run, with its seed and plan.
        mask_keys: the public keys of the Collaborators' masks.
        mask_secrets: the secrets that this party shares with other Collaborators.
        sum_key: the key of the sums of this party's role, once the sites had it.
        summed: the parties whose role had a sum over its sites before, in the same connection.
        evidence, counts: what the ledger had of the limits of the terms, by name.
        trainable: whether each Collaborator got gradients.
        simulated: whether all parties were in one process.
        program: what launched the task.
        versions: the versions with which it was written.
        format: the version of this format.
    """

    number: int
    launch: bytes
    mark: Mark
    role: Role
    task: str
    party: str
    record: RunRecord
    mask_keys: tuple[bytes, ...]
    mask_secrets: dict[str, bytes]
    trainable: dict[str, bool]
    simulated: bool
    program: Program
    versions: dict[str, str]
    sum_key: bytes = b""
    summed: tuple[str, ...] = ()
    evidence: dict[str, bytes] = {}
    counts: dict[str, int] = {}
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Entry:
    """One message between this party and another one.

    Attributes:
        came: whether the other party sent it.
        peer: the other party.
        header, payload: the message as it was sent.
    """

    came: bool
    peer: str
    header: bytes
    payload: bytes


def entry_parts(
    kind: int, peer: str = "", header: Buffer = b"", *payload: Buffer
) -> tuple[Buffer, ...]:
    """Return the buffers of which an entry consists."""
    name = peer.encode()
    return _HEAD.pack(kind, len(name), len(header)), name, header, *payload


def read_entry(piece: bytes) -> Entry | None:
    """Return the entry that a piece holds; None for the last one."""
    kind, name, header = _HEAD.unpack_from(piece)
    begins = _HEAD.size + name
    if kind == END:
        return None
    ends = begins + header
    return Entry(
        kind == CAME, piece[_HEAD.size : begins].decode(), piece[begins:ends], piece[ends:]
    )


def read_beginning(piece: bytes) -> Beginning:
    """Return the beginning that a piece holds.

    Raises:
        RecordError: it is one of another version.
    """
    try:
        found = decoded(piece, Beginning)
    except msgspec.MsgspecError:
        found = None
    if found is None or found.format != FORMAT:
        raise RecordError(
            "the record was written by another version of heterofed; install that one to replay it"
        )
    return found


def versions() -> dict[str, str]:
    """Return the versions that decide about the last bits of what is computed."""
    import torch

    return {
        "heterofed": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }

"""Runs the OPRF's arithmetic through an executor, chunk by chunk, and checks what comes back.

Of each chunk the length is checked, every point must be canonical, and one id, drawn at random, is
computed here too. So a worker with other code or a broken library is noticed within a few chunks. A
worker that lies about single ids is not noticed: the executor belongs to this party. An error that
would blame the peer is raised only if it occurs here as well.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from psi.ecdh import oprf
from psi.ecdh.group import HASH_BYTES, ORDER, POINT_BYTES, find_group
from psi.errors import PeerError
from psi.executors.frames import pack, unpack
from psi.hashing import TAG_BYTES
from psi.workers import Workers

_PAIR = 2 * TAG_BYTES


class Arithmetic(Protocol):
    """The functions of `psi.ecdh.oprf`, computed there or through an executor."""

    def blind(self, labels: oprf.Labels, ids: Sequence[str], random: bytes) -> tuple[bytes, bytes]:
        """See `oprf.blind`."""

    def evaluate(self, key: bytes, values: bytes) -> bytes:
        """See `oprf.evaluate`."""

    def finish(
        self, labels: oprf.Labels, ids: Sequence[str], unblinding: bytes, signed: bytes
    ) -> bytes:
        """See `oprf.finish`."""

    def own(self, labels: oprf.Labels, key: bytes, ids: Sequence[str]) -> bytes:
        """See `oprf.own`."""


def arithmetic(workers: Workers) -> Arithmetic:
    """Return the functions as they are, or those that go through the executor of `workers`."""
    return Elsewhere(workers) if workers.pooled else oprf


class Elsewhere:
    """Sends each chunk to the executor; the results are those of `psi.ecdh.oprf`."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def blind(self, labels: oprf.Labels, ids: Sequence[str], random: bytes) -> tuple[bytes, bytes]:
        """See `oprf.blind`."""
        got = self._workers.call(blind, labels.point, labels.of_ids, _packed(ids), random)
        middle, at = len(ids) * POINT_BYTES, secrets.randbelow(len(ids))
        values, unblinding = got[:middle], got[middle:]
        value, scalar = oprf.blind(labels, [ids[at]], _piece(random, at, HASH_BYTES))
        self._require(
            len(got) == 2 * middle
            and _are_points(values)
            and _are_scalars(unblinding)
            and _piece(values, at, POINT_BYTES) == value
            and _piece(unblinding, at, POINT_BYTES) == scalar
        )
        return values, unblinding

    def evaluate(self, key: bytes, values: bytes) -> bytes:
        """See `oprf.evaluate`."""

        def here(start: int, stop: int) -> bytes:
            return oprf.evaluate(key, values[start * POINT_BYTES : stop * POINT_BYTES])

        count = len(values) // POINT_BYTES
        got = self._checked(here, count, POINT_BYTES, oprf.evaluate, key, values)
        self._require(_are_points(got))
        return got

    def finish(
        self, labels: oprf.Labels, ids: Sequence[str], unblinding: bytes, signed: bytes
    ) -> bytes:
        """See `oprf.finish`."""

        def here(start: int, stop: int) -> bytes:
            part = slice(start * POINT_BYTES, stop * POINT_BYTES)
            return oprf.finish(labels, ids[start:stop], unblinding[part], signed[part])

        parts = labels.point, _packed(ids), unblinding, signed
        return self._checked(here, len(ids), _PAIR, finish, *parts)

    def own(self, labels: oprf.Labels, key: bytes, ids: Sequence[str]) -> bytes:
        """See `oprf.own`."""

        def here(start: int, stop: int) -> bytes:
            return oprf.own(labels, key, ids[start:stop])

        parts = labels.point, labels.of_ids, key, _packed(ids)
        return self._checked(here, len(ids), _PAIR, own, *parts)

    def _checked(
        self,
        here: Callable[[int, int], bytes],
        count: int,
        width: int,
        work: Callable[..., bytes],
        *parts: bytes,
    ) -> bytes:
        """Return what a worker computed, after one of its `count` results was computed here too.

        Args:
            here: computes the results from a first to before a last number in this process.
            count: the number of results.
            width: the bytes of one result.
            work: the function for the worker.
            parts: its arguments.
        """
        try:
            got = self._workers.call(work, *parts)
        except PeerError:
            got = here(0, count)  # raises the same error if the peer is to blame
            raise self._workers.wrong() from None
        at = secrets.randbelow(count)
        self._require(len(got) == count * width and _piece(got, at, width) == here(at, at + 1))
        return got

    def _require(self, fine: bool) -> None:
        if not fine:
            raise self._workers.wrong()


def blind(point: bytes, of_ids: bytes, ids: bytes, random: bytes) -> bytes:
    """Return the values and then the unblinding scalars; this function runs in the worker."""
    return b"".join(oprf.blind(oprf.Labels(point, of_ids), _unpacked(ids), random))


def finish(point: bytes, ids: bytes, unblinding: bytes, signed: bytes) -> bytes:
    """See `oprf.finish`; this function runs in the worker."""
    return oprf.finish(oprf.Labels(point, b""), _unpacked(ids), unblinding, signed)


def own(point: bytes, of_ids: bytes, key: bytes, ids: bytes) -> bytes:
    """See `oprf.own`; this function runs in the worker."""
    return oprf.own(oprf.Labels(point, of_ids), key, _unpacked(ids))


def _packed(ids: Sequence[str]) -> bytes:
    return pack([text.encode() for text in ids])


def _unpacked(ids: bytes) -> list[str]:
    return [text.decode() for text in unpack(ids)]


def _piece(data: bytes, at: int, width: int) -> bytes:
    return data[at * width : (at + 1) * width]


def _are_points(values: bytes) -> bool:
    is_point = find_group().is_point
    return all(is_point(values[at : at + POINT_BYTES]) for at in range(0, len(values), POINT_BYTES))


def _are_scalars(values: bytes) -> bool:
    return all(
        0 < int.from_bytes(values[at : at + POINT_BYTES], "little") < ORDER
        for at in range(0, len(values), POINT_BYTES)
    )

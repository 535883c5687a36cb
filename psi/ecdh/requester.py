"""Implements the requester of the ECDH protocol, which blinds points and unblinds the products.

`psi.requesting` has the order of calls, and `psi.ecdh.oprf` the arithmetic. Each id is blinded by
its own uniform scalar, which is used once, so the values on the wire are uniform whatever the ids
are. Unlike RSA signatures, the answers cannot be verified. A signer that multiplies some values by
another scalar loses those matches, and the claimed matches would then tell it at which positions
they were. Therefore ids are sent in a random order, so that a position says nothing about an id.
Without `resume` the order is drawn anew for each run. With `resume` it comes from the seed in the
file of results, and stays the same for the same key and ids.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Callable, Iterable
from typing import Unpack

from psi.arithmetic import RandomBytes
from psi.ecdh import oprf
from psi.ecdh.elsewhere import arithmetic
from psi.ecdh.group import HASH_BYTES, POINT_BYTES, find_group
from psi.errors import SignatureError
from psi.requesting import OnItsWay, Requester
from psi.settings import RequesterSettings
from psi.storage.spill import cut
from psi.workers import rows_of

_DRAWN = 8192  # random numbers that are read from the system at once
Shuffle = Callable[["array[int]"], None]


class ECDHRequester(Requester[bytes]):
    """The requester in one run with one signer.

    Args:
        ids: the ids of this party: unique strings, from any iterable.
        public_key: the signer's public key. The constructor raises `KeyRefusedError` if it is
            invalid.
        peer_count: the number of ids that the signer announced.
        domain: `psi.domain(task, run)`; both parties must give the same.
        common: the arguments of `psi.requesting.Requester`.

    Tests use the private arguments to set the source of random bytes and the order.
    """

    def __init__(
        self,
        ids: Iterable[str],
        public_key: bytes,
        peer_count: int,
        *,
        domain: bytes,
        _random: RandomBytes = secrets.token_bytes,
        _shuffle: Shuffle | None = None,
        **common: Unpack[RequesterSettings],
    ) -> None:
        self._random = _random
        self._shuffle = _shuffle
        super().__init__(ids, public_key, peer_count, domain=domain, **common)
        self._oprf = arithmetic(self._workers)

    def _read_key(self, public_key: bytes, domain: bytes) -> int:
        self._labels = oprf.read_key(public_key, domain)
        self.backend = find_group().backend
        return POINT_BYTES

    def _order(self, positions: array[int], random: RandomBytes) -> None:
        if self._shuffle is not None:
            self._shuffle(positions)
        else:
            shuffle(positions, random)

    def _blind(self, ids: list[str], random: RandomBytes) -> tuple[bytes, bytes]:
        drawn = random(len(ids) * HASH_BYTES)

        def part(rows: range) -> tuple[bytes, bytes]:
            some = rows_of(rows, ids), rows_of(rows, drawn, HASH_BYTES)
            return self._oprf.blind(self._labels, *some)

        parts = self._workers.spread(part, range(len(ids)))
        return b"".join(values for values, _ in parts), b"".join(secret for _, secret in parts)

    def _unblind(self, sent: OnItsWay[bytes], signed: bytes) -> bytes:
        if len(set(cut(signed, POINT_BYTES))) != len(sent.ids):
            raise SignatureError("a signed value came twice")

        def part(rows: range) -> bytes:
            return self._oprf.finish(
                self._labels,
                rows_of(rows, sent.ids),
                rows_of(rows, sent.secret, POINT_BYTES),
                rows_of(rows, signed, POINT_BYTES),
            )

        return b"".join(self._workers.spread(part, range(len(sent.ids))))


def shuffle(positions: array[int], random: RandomBytes = secrets.token_bytes) -> None:
    """Put positions into a random order (Fisher and Yates).

    Each draw scales 64 random bits to the range, which is within 2^-40 of uniform for 10^7
    positions. The standard library's shuffle makes one system call per draw and is five times
    slower.
    """
    at = len(positions)
    while at > 1:
        for drawn in array("Q", random(8 * min(at - 1, _DRAWN))):
            chosen = drawn * at >> 64
            at -= 1
            positions[at], positions[chosen] = positions[chosen], positions[at]

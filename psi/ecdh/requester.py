"""The ECDH protocol's requester: blinds points, unblinds the products.

The flow is `psi.requesting`, the function `psi.ecdh.oprf`. Each id gets a scalar of its own,
uniform and used once, so that what is sent is uniform whatever the ids. Answers cannot be verified
here as RSA's can: a signer that multiplies some values by another scalar loses those matches, and
would learn from the claims in which position a match was asked. So ids are sent in an order drawn
for this run alone, and a position means nothing.
"""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Unpack

from psi.arithmetic import RandomBytes
from psi.ecdh import oprf
from psi.ecdh.group import HASH_BYTES, POINT_BYTES, find_group
from psi.errors import SignatureError
from psi.requesting import OnItsWay, Requester
from psi.settings import RequesterSettings
from psi.storage.spill import cut

_DRAWN = 8192  # random numbers taken from the system at a time
Shuffle = Callable[["array[int]"], None]


class ECDHRequester(Requester[bytes]):
    """One run with one signer.

    Args:
        ids: this party's ids: unique strings, from any iterable.
        public_key: the signer's blob; `KeyRefusedError` if it does not fit.
        peer_count: how many ids the signer announced.
        domain: `psi.domain(task, run)`, the same at both parties.
        common: see `psi.requesting.Requester`.

    The private arguments are for tests: a source of random bytes, and another order.
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
        drawn = cut(random(len(ids) * HASH_BYTES), HASH_BYTES)

        def part(rows: Sequence[tuple[str, bytes]]) -> tuple[bytes, bytes]:
            ids, drawn = zip(*rows, strict=True)
            return self._workers.call(oprf.blind, self._labels, ids, b"".join(drawn))

        parts = self._workers.spread(part, list(zip(ids, drawn, strict=True)))
        return b"".join(values for values, _ in parts), b"".join(secret for _, secret in parts)

    def _unblind(self, sent: OnItsWay[bytes], signed: bytes) -> bytes:
        values = cut(signed, POINT_BYTES)
        if len(set(values)) != len(values):
            raise SignatureError("a signed value came twice")
        rows = list(zip(sent.ids, cut(sent.secret, POINT_BYTES), values, strict=True))

        def part(rows: Sequence[tuple[str, bytes, bytes]]) -> bytes:
            ids, secret, values = zip(*rows, strict=True)
            return self._workers.call(
                oprf.finish, self._labels, ids, b"".join(secret), b"".join(values)
            )

        return b"".join(self._workers.spread(part, rows))


def shuffle(positions: array[int], random: RandomBytes = secrets.token_bytes) -> None:
    """Put positions into a random order (Fisher and Yates).

    Each draw is 64 bits scaled to the range, so within 2^-40 of uniform for 10^7 positions. The
    standard library's shuffle does the same with a call of the system per draw, five times slower.
    """
    at = len(positions)
    while at > 1:
        for drawn in array("Q", random(8 * min(at - 1, _DRAWN))):
            chosen = drawn * at >> 64
            at -= 1
            positions[at], positions[chosen] = positions[chosen], positions[at]

"""The CPU that the arithmetic of an ECDH intersection takes by itself, with the library in use."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from psi.ecdh.group import HASH_BYTES, find_group
from psi.ecdh.oprf import make_key

SAMPLE = 4000
"""Points that are multiplied, and maps that are computed; this takes a quarter of a second."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The CPU of one operation.

    Attributes:
        multiply: the seconds of a multiplication.
        to_point: the seconds of a map of a hash to a point.
    """

    multiply: float
    to_point: float

    def seconds(self, ids: int, peer_ids: int) -> float:
        """Return the CPU of both parties for the least number of operations.

        An id of the requester takes three multiplications and a map, and one of the signer takes
        one of each.
        """
        multiplications, maps = 3 * ids + peer_ids, ids + peer_ids
        return multiplications * self.multiply + maps * self.to_point


def measured_floor() -> Floor:
    """Return what the operations take now, by the CPU of this thread."""
    group, hashes = find_group(), secrets.token_bytes(SAMPLE * HASH_BYTES)
    points, key = group.from_hashes(hashes), make_key()
    return Floor(
        multiply=_each(lambda: group.multiply(key, points)),
        to_point=_each(lambda: group.from_hashes(hashes)),
    )


def _each(work: Callable[[], object]) -> float:
    before = time.thread_time()
    work()
    return (time.thread_time() - before) / SAMPLE

"""The ECDH protocol's requester: blinds points, unblinds the products.

The flow is `psi.requesting`, the function `psi.oprf`. Each id gets a scalar of its own, uniform
and used once, so that what is sent is uniform whatever the ids. Answers cannot be verified here
as RSA's can: a signer that multiplies some values by another scalar loses those matches, and
would learn from the claims in which position a match was asked. So ids are sent in an order
drawn for this object alone, and a position means nothing.
"""

from __future__ import annotations

import os
import random
import secrets
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor

from psi import oprf
from psi.arithmetic import RandomBytes
from psi.errors import SignatureError
from psi.group import HASH_BYTES, POINT_BYTES
from psi.records import BUCKET_IDS, cut
from psi.requesting import OnItsWay, Requester
from psi.resume import Resume

Shuffle = Callable[["array[int]"], None]


class ECDHRequester(Requester[bytes]):
    """One run with one signer.

    Args:
        ids: this party's ids: unique strings, from any iterable.
        public_key: the signer's blob; `KeyRefusedError` if it does not fit.
        peer_count: how many ids the signer announced.
        domain: `psi.domain(task, run)`, the same at both parties.
        workers: threads, or calls of the executor at once; None for one per usable core.
        executor: does the multiplications elsewhere; ids and blindings travel to it.
        chunk_ids: ids per chunk, cut to what fits in 1 MiB.
        max_peer_ids: the most ids the signer may announce, since their tags take room here.
        bucket_ids: more ids than this are kept in files instead of in memory.
        scratch: the folder for those files; None for the system's.
        resume: keeps results on disk, so that an interrupted run continues.

    The private arguments are for tests: a source of random bytes, and another order.
    """

    def __init__(
        self,
        ids: Iterable[str],
        public_key: bytes,
        peer_count: int,
        *,
        domain: bytes,
        workers: int | None = None,
        executor: Executor | None = None,
        chunk_ids: int = 2048,
        max_peer_ids: int = 100_000_000,
        bucket_ids: int = BUCKET_IDS,
        scratch: str | os.PathLike[str] | None = None,
        resume: Resume | None = None,
        _random: RandomBytes = secrets.token_bytes,
        _shuffle: Shuffle | None = None,
    ) -> None:
        self._random = _random
        self._shuffle: Shuffle = _shuffle or random.SystemRandom().shuffle
        super().__init__(
            ids,
            public_key,
            peer_count,
            domain=domain,
            workers=workers,
            executor=executor,
            chunk_ids=chunk_ids,
            max_peer_ids=max_peer_ids,
            bucket_ids=bucket_ids,
            scratch=scratch,
            resume=resume,
        )

    def _read_key(self, public_key: bytes, domain: bytes) -> int:
        self._labels = oprf.read_key(public_key, domain)
        return POINT_BYTES

    def _order(self, positions: array[int]) -> None:
        self._shuffle(positions)

    def _blind(self, ids: list[str]) -> tuple[bytes, bytes]:
        def part(ids: Sequence[str]) -> tuple[bytes, bytes]:
            drawn = self._random(len(ids) * HASH_BYTES)
            return self._workers.call(oprf.blind, self._labels, ids, drawn)

        parts = self._workers.spread(part, ids)
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

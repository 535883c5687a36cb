"""Implements the signer of the ECDH protocol, which multiplies by the secret scalar of one run.

`psi.signing` has the order of calls, and `psi.ecdh.oprf` the arithmetic. The signer refuses
encodings that are not canonical, the identity (ristretto255 has no other element of small order),
and values that come twice. With honest blinding, a repeat has a probability below 2^-250 per pair.
With more than `bucket_ids` values, a repeat is found just before the tags are sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Unpack

from psi.ecdh import oprf
from psi.ecdh.elsewhere import arithmetic
from psi.ecdh.group import POINT_BYTES, find_group
from psi.errors import StateError, ValueRefusedError
from psi.settings import SignerSettings
from psi.signing import Signer
from psi.storage.spill import Distinct, cut
from psi.workers import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class ECDHSigner(Signer):
    """The signer in one run with one requester.

    Args:
        ids: the ids of this party: unique strings, from any iterable.
        domain: `psi.domain(task, run)`; both parties must give the same.
        common: the arguments of `psi.signing.Signer`.

    Tests use the private argument to set the secret scalar.
    """

    def __init__(
        self,
        ids: Iterable[str],
        *,
        domain: bytes,
        _key: bytes | None = None,
        **common: Unpack[SignerSettings],
    ) -> None:
        super().__init__(ids, [b"ecdh", domain], **common)
        self._secret: bytes | None = None
        self._seen: Distinct | None = None
        self._oprf = arithmetic(self._workers)
        self._blob = self._kept_public
        if self._blob:
            self.backend = "kept tags"
            return
        former = self._former_key
        key = former or (oprf.make_key() if _key is None else _key)
        self._secret = key
        self.backend = find_group().backend
        point = find_group().base(key)
        self._labels = oprf.Labels.of(domain, point)
        self._blob = oprf.encode_key(domain, point)
        if former is None:
            self._keep_key(key, self._blob)

    def public_key(self) -> bytes:
        """Return the public point and a check value of the domain, 52 bytes in all."""
        return self._blob

    def begin(self, count: int, done: int = 0) -> None:
        """See `Signer.begin`."""
        super().begin(count, done)
        self._seen = Distinct(count, self._scratch)

    def tags(self) -> Iterator[bytes]:
        """See `Signer.tags`."""
        if self._seen is not None and self._seen.repeated():
            raise ValueRefusedError("a value to sign came twice")
        return super().tags()

    def close(self) -> None:
        """See `Signer.close`."""
        super().close()
        self._seen = None

    def _check(self, blinded: bytes, *, again: bool) -> int:
        if len(blinded) % POINT_BYTES:
            raise ValueRefusedError(
                f"a chunk has {len(blinded)} bytes; each value has {POINT_BYTES}"
            )
        # Half of each encoding is compared: among 10^7 honest values, two agree with probability
        # 2^-80.
        values = [value[:16] for value in cut(blinded, POINT_BYTES)]
        if self._seen is not None and not again and not self._seen.add(values):
            raise ValueRefusedError("a value to sign came twice")
        return len(blinded) // POINT_BYTES

    def _sign(self, blinded: bytes) -> bytes:
        key = self._key()

        def part(rows: range) -> bytes:
            return self._oprf.evaluate(key, rows_of(rows, blinded, POINT_BYTES))

        return b"".join(self._workers.spread(part, range(len(blinded) // POINT_BYTES)))

    def _pairs_of(self, ids: list[str]) -> bytes:
        return self._oprf.own(self._labels, self._key(), ids)

    def _key(self) -> bytes:
        if self._secret is None:
            raise StateError("the signer was closed")
        return self._secret

    def _forget(self) -> None:
        self._secret = None  # Python cannot overwrite it in memory

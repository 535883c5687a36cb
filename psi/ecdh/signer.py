"""The ECDH protocol's signer: multiplies by the secret scalar of one run.

The flow is `psi.signing`, the function `psi.ecdh.oprf`. Refused: encodings that are not canonical,
the identity (ristretto255 has no other small-order element), values that come twice. With honest
blinding a repeat does not happen in 2^-250; past `bucket_ids` values it is found before the tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Unpack

from psi.ecdh import oprf
from psi.ecdh.group import POINT_BYTES, find_group
from psi.errors import StateError, ValueRefusedError
from psi.settings import SignerSettings
from psi.signing import Signer
from psi.storage.spill import Distinct, cut

if TYPE_CHECKING:
    from collections.abc import Iterator


class ECDHSigner(Signer):
    """One run with one requester.

    Args:
        ids: this party's ids: unique strings, from any iterable.
        domain: `psi.domain(task, run)`, the same at both parties.
        common: see `psi.signing.Signer`.

    The private argument is for tests: a ready scalar.
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
        """The public point and a check of the domain; 52 bytes."""
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
                f"a chunk of {len(blinded)} bytes; values have {POINT_BYTES} each"
            )
        # Half of an encoding stands for it: two honest ones share it with 2^-80 in 10^7 values.
        values = [value[:16] for value in cut(blinded, POINT_BYTES)]
        if self._seen is not None and not again and not self._seen.add(values):
            raise ValueRefusedError("a value to sign came twice")
        return len(blinded) // POINT_BYTES

    def _sign(self, blinded: bytes) -> bytes:
        key = self._key()

        def part(values: Sequence[bytes]) -> bytes:
            return self._workers.call(oprf.evaluate, key, b"".join(values))

        return b"".join(self._workers.spread(part, cut(blinded, POINT_BYTES)))

    def _pairs_of(self, ids: list[str]) -> bytes:
        return self._workers.call(oprf.own, self._labels, self._key(), ids)

    def _key(self) -> bytes:
        if self._secret is None:
            raise StateError("the signer was closed")
        return self._secret

    def _forget(self) -> None:
        self._secret = None  # Python cannot wipe it

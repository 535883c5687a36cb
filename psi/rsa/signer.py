"""Implements the signer of the protocol with RSA blind signatures.

The protocol is PSI by blind signatures (Chaum 1983; De Cristofaro and Tsudik 2010). `psi.signing`
has the order of calls, and this module adds what is specific to RSA. The values 1 and n-1 are not
refused, because their signatures are the values themselves and show nothing. A blinded value may
come twice, because it then only uses up one more of the announced number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Unpack

from gmpy2 import mpz

from psi.arithmetic import all_units, join, split
from psi.errors import FaultError, StateError, ValueRefusedError
from psi.hashing import RunHash
from psi.rsa.backends import open_backend
from psi.rsa.backends.encoding import from_der, to_der
from psi.rsa.keys import PublicKey, encode_key, make_key, sign_each, sign_own
from psi.settings import SignerSettings
from psi.signing import Signer
from psi.storage.spill import cut
from psi.workers import rows_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from psi.rsa.backends import Backend


class RSASigner(Signer):
    """The signer in one run with one requester.

    Args:
        ids: the ids of this party: unique strings, from any iterable.
        domain: `psi.domain(task, run)`; both parties must give the same.
        bits: the size of the modulus in bits.
        common: the arguments of `psi.signing.Signer`.

    Tests use the private arguments to set the key and the name of the backend.
    """

    def __init__(
        self,
        ids: Iterable[str],
        *,
        domain: bytes,
        bits: int = 2048,
        _key: RSAPrivateKey | None = None,
        _backend: str | None = None,
        **common: Unpack[SignerSettings],
    ) -> None:
        super().__init__(ids, [b"rsa", domain, bits.to_bytes(2, "big")], **common)
        self._secret: Backend | None = None
        self._blob = self._kept_public
        if self._blob:
            self.backend = "kept tags"
            return
        former = self._former_key
        key = from_der(former) if former else make_key(bits) if _key is None else _key
        self._key = PublicKey(mpz(key.public_key().public_numbers().n), key.key_size)
        self._hash = RunHash(domain, self._key.n)
        self._secret = open_backend(key, self._workers, _backend)
        self.backend = self._secret.name
        with self._blamed():
            self._blob = encode_key(self._key, self._hash, self._secret)
        if former is None:
            self._keep_key(to_der(key), self._blob)

    def public_key(self) -> bytes:
        """Return the public key with the proof that blinding under it hides ids; at most 5,130
        bytes.
        """
        return self._blob

    def _check(self, blinded: bytes, *, again: bool) -> int:  # noqa: ARG002
        key, width = self._key, self._key.width
        if len(blinded) % width:
            raise ValueRefusedError(f"a chunk has {len(blinded)} bytes; each value has {width}")
        values = split(blinded, width)
        if not all(0 < value < key.n for value in values):
            raise ValueRefusedError("a value to sign is not in [1, n)")
        if not all_units(values, key.n):
            raise ValueRefusedError("a value to sign shares a factor with n")
        return len(values)

    def _sign(self, blinded: bytes) -> bytes:
        key, backend = self._key, self._backend()

        def part(rows: range) -> bytes:
            with self._blamed():
                return sign_each(backend, rows_of(rows, blinded, key.width), key)

        return b"".join(self._workers.spread(part, range(len(blinded) // key.width)))

    def _pairs_of(self, ids: list[str]) -> bytes:
        width = self._key.width
        hashes = join((self._hash.of_id(text) for text in ids), width)
        with self._blamed():
            signatures = sign_own(self._backend(), hashes, self._key)
        tag_and_match = self._hash.tag_and_match
        return b"".join([part for s in cut(signatures, width) for part in tag_and_match(s)])

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Blame a worker of the executor for a wrong signature, if there is one."""
        try:
            yield
        except FaultError:
            if not self._workers.pooled:
                raise
            raise self._workers.wrong() from None

    def _backend(self) -> Backend:
        if self._secret is None:
            raise StateError("the key was removed, because the tags made with it were sent")
        return self._secret

    def _forget(self) -> None:
        # libcrypto overwrites its copies. Short-lived copies that Python made while the key was set
        # up are freed but cannot be overwritten.
        if self._secret is not None:
            self._secret.close()

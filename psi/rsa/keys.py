"""The key of one run: made by the signer, checked by the requester. Knows no ids.

Why a proof. The requester's protection is that r^e is uniform in Z_n*, so that H(id) * r^e says
nothing about H(id). That holds exactly if x -> x^e is a permutation of Z_n*. A signer who takes
a prime p with e | p-1 breaks it: the blinded value then shows which coset of the e-th powers
mod p the hash lies in, and ids can be guessed and checked.

The proof (Goldberg, Reyzin, Sagga, Baldimtsi: Efficient Noninteractive Certification of RSA
Moduli and Beyond, 2019): e-th roots of challenges hashed from n. If x -> x^e is no permutation
of Z_n*, its image is a proper subgroup, and as e is prime and every prime factor of n is larger
than e (hence p != e and only e | p-1 can be the reason), at most one unit in e = 65537 has a
root. How many challenges: the paper allows challenges that are not units, of which a share 1/p
lies in a factor p; then each passes a bad key with at most 1/p + (1 - 1/p)/e < 2^-15, so
ceil(128/15) = 9 give 128 bits. We also refuse a key whose challenges are not units, for which
eight would do ((1/65537)^8 < 2^-128); we keep the paper's nine: 2^-144 with our check.
"No prime factor up to e" is one gcd with the product of all those primes.

What the proof does not say: n may have factors a little larger than e. An id whose hash is a
multiple of such a factor could not be hidden, so the requester checks its hashes too.

The blob: "PSI1", bits of n (2 bytes), e (4 bytes), n, nine roots; numbers big-endian, n and the
roots in the width of n. At most 5,130 bytes for 4096 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmpy2 import mpz

from psi.arithmetic import all_units, has_factor_up_to, join, powers, product, split
from psi.errors import FaultError, KeyRefusedError
from psi.hashing import RunHash

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from psi.rsa.backends import Backend

E = 65537
MIN_BITS, MAX_BITS = 2048, 4096
CHALLENGES = 9
_MAGIC = b"PSI1"
_HEADER = len(_MAGIC) + 2 + 4


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A modulus; the exponent is always 65537."""

    n: mpz
    bits: int

    @property
    def width(self) -> int:
        """Bytes of one value on the wire."""
        return (self.bits + 7) // 8


def make_key(bits: int) -> RSAPrivateKey:
    """A fresh key of exactly `bits` bits."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    if not MIN_BITS <= bits <= MAX_BITS or bits % 8:
        raise ValueError(f"bits must be a multiple of 8 from {MIN_BITS} to {MAX_BITS}")
    return rsa.generate_private_key(public_exponent=E, key_size=bits)


def sign_each(backend: Backend, values: Sequence[mpz], key: PublicKey) -> list[mpz]:
    """x^d for values that leave this machine; each result was checked: s^e = x.

    A single CRT result that is right mod p and wrong mod q would let its receiver factor n.
    """
    signed = split(backend.power_d(join(values, key.width)), key.width)
    if powers(signed, E, key.n) != list(values):
        raise FaultError("a signature came out wrong; nothing was released")
    return signed


def sign_own(backend: Backend, values: Sequence[mpz], key: PublicKey) -> list[mpz]:
    """x^d for values that stay here and are only hashed; the product of all is checked.

    A slip here costs a match, not the key, so two multiplications per value are enough.
    """
    signed = split(backend.power_d(join(values, key.width)), key.width)
    if powers([product(signed, key.n)], E, key.n) != [product(values, key.n)]:
        raise FaultError("a signature of an own id came out wrong")
    return signed


def encode_key(key: PublicKey, run_hash: RunHash, backend: Backend) -> bytes:
    """The blob for the requester: the key and its proof."""
    challenges = [run_hash.challenge(number) for number in range(CHALLENGES)]
    roots = sign_each(backend, challenges, key)
    header = _MAGIC + key.bits.to_bytes(2, "big") + E.to_bytes(4, "big")
    return header + join([key.n, *roots], key.width)


def read_key(
    blob: bytes, domain: bytes, min_bits: int = MIN_BITS, max_bits: int = MAX_BITS
) -> tuple[PublicKey, RunHash]:
    """The key in a peer's blob and the hashes of its run, or `KeyRefusedError`."""
    if len(blob) < _HEADER or not blob.startswith(_MAGIC):
        raise KeyRefusedError("this is no RSA key of this protocol version")
    bits = int.from_bytes(blob[4:6], "big")
    if not min_bits <= bits <= max_bits:
        raise KeyRefusedError(f"the modulus has {bits} bits; allowed: {min_bits} to {max_bits}")
    if int.from_bytes(blob[6:_HEADER], "big") != E:
        raise KeyRefusedError(f"the exponent is not {E}")
    width = (bits + 7) // 8
    if len(blob) != _HEADER + (1 + CHALLENGES) * width:
        raise KeyRefusedError("the key and its proof have the wrong length")
    n, *roots = split(blob[_HEADER:], width)
    if n.bit_length() != bits:
        raise KeyRefusedError(f"the modulus has {n.bit_length()} bits, not the {bits} it announces")
    if n % 2 == 0:
        raise KeyRefusedError("the modulus is even")
    if has_factor_up_to(E, n):
        raise KeyRefusedError(f"the modulus has a prime factor of at most {E}")
    run_hash = RunHash(domain, n)
    challenges = [run_hash.challenge(number) for number in range(CHALLENGES)]
    if not all(0 < root < n for root in roots):
        raise KeyRefusedError("a root in the key's proof is out of range")
    if not all_units(challenges, n):
        raise KeyRefusedError("a challenge of the key's proof shares a factor with the modulus")
    if powers(roots, E, n) != challenges:
        raise KeyRefusedError("the key's proof does not hold (or the two domains differ)")
    return PublicKey(n, bits), run_hash

"""Makes the key of one run at the signer, and checks it at the requester. It knows no ids.

The key needs a proof for this reason. The requester is protected because r^e is uniform in Z_n*, so
that H(id) * r^e says nothing about H(id). This is true exactly if x -> x^e is a permutation of
Z_n*. A signer that chooses a prime p with e | p-1 breaks this: the blinded value then shows in
which coset of the e-th powers mod p the hash lies, and guessed ids can be checked.

The proof consists of e-th roots of challenges that are hashed from n (Goldberg, Reyzin, Sagga,
Baldimtsi: Efficient Noninteractive Certification of RSA Moduli and Beyond, 2019). If x -> x^e is no
permutation of Z_n*, its image is a proper subgroup. As e is prime and every prime factor of n is
larger than e (hence p != e, and only e | p-1 can be the reason), at most one unit in e = 65537 has
a root. The paper allows challenges that are not units, of which a share of 1/p lies in a factor p.
Then a bad key passes each challenge with a probability of at most 1/p + (1 - 1/p)/e < 2^-15, so
ceil(128/15) = 9 challenges give 128 bits. This module also refuses a key whose challenges are not
units, for which eight would be enough ((1/65537)^8 < 2^-128). It keeps the paper's nine, which give
2^-144 with this check. One gcd with the product of all primes up to e shows that n has no such
factor.

The proof does not exclude factors of n that are a little larger than e. An id whose hash is a
multiple of such a factor could not be hidden, so the requester checks its hashes too.

The encoded key consists of "PSI1", the bits of n (2 bytes), e (4 bytes), n, and nine roots. All
numbers are big-endian; n and the roots have as many bytes as n. With 4096 bits it has 5,130 bytes.
"""

from __future__ import annotations

import secrets
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
_GROUPS = 16


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The modulus of an RSA key, whose exponent is always 65537."""

    n: mpz
    bits: int

    @property
    def width(self) -> int:
        """The number of bytes of one value on the wire."""
        return (self.bits + 7) // 8


def make_key(bits: int) -> RSAPrivateKey:
    """Return a fresh key of exactly `bits` bits."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    if not MIN_BITS <= bits <= MAX_BITS or bits % 8:
        raise ValueError(f"bits must be a multiple of 8 from {MIN_BITS} to {MAX_BITS}")
    return rsa.generate_private_key(public_exponent=E, key_size=bits)


def sign_each(backend: Backend, values: bytes, key: PublicKey) -> bytes:
    """Return x^d for values that are sent to the peer, after checking that s^e = x holds for them.

    A result that is right mod p and wrong mod q would let its receiver factor n. What is checked
    are the products of groups: each value is put into one of `_GROUPS` groups at random, so that
    any single wrong result is noticed, and several that cancel each other with a probability of
    15/16 for each such set; nobody can choose them, because the backends blind every base. A check
    of each value would cost 17 multiplications in place of two.

    Raises:
        FaultError: a result is wrong.
    """
    signed = backend.power_d(values)
    at_random = secrets.token_bytes(len(values) // key.width)
    groups = [drawn % _GROUPS for drawn in at_random]
    products = [_products(split(each, key.width), groups, key.n) for each in (signed, values)]
    if powers(products[0], E, key.n) != products[1]:
        raise FaultError("a signature came out wrong; nothing was released")
    return signed


def sign_own(backend: Backend, values: bytes, key: PublicKey) -> bytes:
    """Return x^d for values that stay here and are only hashed, after checking their product.

    A wrong result here costs a match and not the key, so one group is enough.

    Raises:
        FaultError: a result is wrong.
    """
    signed = backend.power_d(values)
    products = [product(split(each, key.width), key.n) for each in (signed, values)]
    if powers(products[:1], E, key.n) != products[1:]:
        raise FaultError("a signature of an own id came out wrong")
    return signed


def _products(values: Sequence[mpz], groups: Sequence[int], n: mpz) -> list[mpz]:
    """Return the product mod n of the values of each group."""
    found = [mpz(1)] * _GROUPS
    for value, group in zip(values, groups, strict=True):
        found[group] = found[group] * value % n
    return found


def encode_key(key: PublicKey, run_hash: RunHash, backend: Backend) -> bytes:
    """Return the key and its proof, encoded for the requester."""
    challenges = [run_hash.challenge(number) for number in range(CHALLENGES)]
    roots = sign_each(backend, join(challenges, key.width), key)
    header = _MAGIC + key.bits.to_bytes(2, "big") + E.to_bytes(4, "big")
    return header + join([key.n], key.width) + roots


def read_key(
    blob: bytes, domain: bytes, min_bits: int = MIN_BITS, max_bits: int = MAX_BITS
) -> tuple[PublicKey, RunHash]:
    """Check a peer's encoded key, and return the key and the hashes of its run.

    Raises:
        KeyRefusedError: the key is malformed or has a size or factor that is not allowed, or its
            proof does not hold.
    """
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

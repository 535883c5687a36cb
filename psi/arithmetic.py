"""Computes mod n with public exponents, and encodes numbers in a fixed width.

This module knows no secret exponent; those are used in `psi.rsa.backends` only.

Nothing here needs to be constant-time. The exponent is always the public e, and each base is a
value that the peer sees anyway, a blinding factor r, or an unblinded signature s. The running time
of a modular multiplication of fresh uniform numbers tells a peer across a network nothing about an
id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import gmpy2
from gmpy2 import mpz

RandomBytes = Callable[[int], bytes]


def split(chunk: bytes, width: int) -> list[mpz]:
    """Return the big-endian numbers in `chunk`, each `width` bytes long.

    The length of `chunk` must be a multiple of `width`.
    """
    read = mpz.from_bytes
    return [read(chunk[at : at + width], "big") for at in range(0, len(chunk), width)]


def join(values: Iterable[mpz], width: int) -> bytes:
    """Return the numbers as one string of big-endian numbers of `width` bytes; inverts `split`."""
    return b"".join(value.to_bytes(width, "big") for value in values)


def powers(bases: Sequence[mpz], exponent: int, n: mpz) -> list[mpz]:
    """Return each base raised to a public exponent mod n. Other threads can run meanwhile."""
    with gmpy2.context(allow_release_gil=True):
        raised: list[mpz] = gmpy2.powmod_base_list(list(bases), exponent, n)
    return raised


def product(values: Iterable[mpz], n: mpz) -> mpz:
    """Return the product of the values mod n."""
    result = mpz(1)
    for value in values:
        result = result * value % n
    return result


def all_units(values: Iterable[mpz], n: mpz) -> bool:
    """Return whether every value is coprime to n, by one multiplication each and a single gcd."""
    return bool(gmpy2.gcd(product(values, n), n) == 1)


def inverses(values: Sequence[mpz], n: mpz) -> list[mpz]:
    """Return all inverses mod n by one inversion and three multiplications each.

    This is Montgomery's trick.

    Raises:
        ZeroDivisionError: a value is not coprime to n.
    """
    before = []
    running = mpz(1)
    for value in values:
        before.append(running)
        running = running * value % n
    running = gmpy2.invert(running, n)
    found = []
    for value, earlier in zip(reversed(values), reversed(before), strict=True):
        found.append(running * earlier % n)
        running = running * value % n
    found.reverse()
    return found


def random_units(count: int, n: mpz, random: RandomBytes) -> tuple[list[mpz], list[mpz]]:
    """Return `count` numbers that are uniform in Z_n*, and their inverses."""
    units = list(_below(n, count, random))
    while True:
        try:
            return units, inverses(units, n)
        except ZeroDivisionError:
            # This does not happen with an honest n. A peer's n may have factors just above the
            # bound that its proof covers; drawing those numbers again keeps the rest uniform in
            # Z_n*.
            units = [unit for unit in units if gmpy2.gcd(unit, n) == 1]
            units.extend(_below(n, count - len(units), random))


def _below(n: mpz, count: int, random: RandomBytes) -> Iterator[mpz]:
    """Yield `count` uniform numbers in [1, n). Draws outside this range are repeated."""
    bits = n.bit_length()
    width, mask = (bits + 7) // 8, (mpz(1) << bits) - 1
    missing = count
    while missing:
        for drawn in split(random(missing * width), width):
            value = drawn & mask
            if 0 < value < n:
                missing -= 1
                yield value


@cache
def _primorial(bound: int) -> mpz:
    return gmpy2.primorial(bound)


def has_factor_up_to(bound: int, n: mpz) -> bool:
    """Return whether a prime of at most `bound` divides n."""
    return bool(gmpy2.gcd(n, _primorial(bound)) != 1)

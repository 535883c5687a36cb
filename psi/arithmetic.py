"""Arithmetic mod n with public exponents, and values of fixed width. Knows no secret exponent.

Nothing here is constant-time and nothing needs to be: exponents are the public e, and the bases
are values the peer sees anyway, or r, or s after it was unblinded. The running time of a modular
multiplication on fresh uniform numbers tells a peer across a network nothing about an id.
Secret exponents live in `psi.rsa.backends`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import gmpy2
from gmpy2 import mpz

RandomBytes = Callable[[int], bytes]


def split(chunk: bytes, width: int) -> list[mpz]:
    """The fixed-width big-endian numbers in `chunk`, whose length is a multiple of `width`."""
    read = mpz.from_bytes
    return [read(chunk[at : at + width], "big") for at in range(0, len(chunk), width)]


def join(values: Iterable[mpz], width: int) -> bytes:
    """The opposite of `split`."""
    return b"".join(value.to_bytes(width, "big") for value in values)


def powers(bases: Sequence[mpz], exponent: int, n: mpz) -> list[mpz]:
    """Each base to a public exponent, mod n; other threads run meanwhile."""
    with gmpy2.context(allow_release_gil=True):
        raised: list[mpz] = gmpy2.powmod_base_list(list(bases), exponent, n)
    return raised


def product(values: Iterable[mpz], n: mpz) -> mpz:
    """The product mod n."""
    result = mpz(1)
    for value in values:
        result = result * value % n
    return result


def all_units(values: Iterable[mpz], n: mpz) -> bool:
    """Whether every value is coprime to n: one multiplication each and a single gcd."""
    return bool(gmpy2.gcd(product(values, n), n) == 1)


def inverses(values: Sequence[mpz], n: mpz) -> list[mpz]:
    """All inverses mod n for the price of one and three multiplications each (Montgomery's trick).

    Raises ZeroDivisionError where any value is not a unit.
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
    """`count` uniform members of the whole of Z_n*, with their inverses."""
    units = list(_below(n, count, random))
    while True:
        try:
            return units, inverses(units, n)
        except ZeroDivisionError:
            # Does not happen with an honest n. A peer's n may have factors just above the bound
            # its proof covers; drawing those numbers again keeps the rest uniform in Z_n*.
            units = [unit for unit in units if gmpy2.gcd(unit, n) == 1]
            units.extend(_below(n, count - len(units), random))


def _below(n: mpz, count: int, random: RandomBytes) -> Iterator[mpz]:
    """Uniform numbers in [1, n), by drawing again what falls outside."""
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
    """Whether any prime <= bound divides n."""
    return bool(gmpy2.gcd(n, _primorial(bound)) != 1)

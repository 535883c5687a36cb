"""Keys that a requester must refuse, each by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import gmpy2
import pytest

from psi import KeyRefusedError, RSARequester
from psi.hashing import RunHash
from psi.rsa.keys import CHALLENGES, E, read_key
from tests.psi import reference
from tests.psi.helpers import RUN, WIDTH, signer, weak_key

HEADER = 10


def blob(
    n: int, root: Callable[[int], int], bits: int | None = None, e: int = E, run: bytes = RUN
) -> bytes:
    """What a signer with this modulus would send; `root` makes the proof."""
    bits = n.bit_length() if bits is None else bits
    width = (bits + 7) // 8
    run_hash = RunHash(run, gmpy2.mpz(n))
    roots = [root(int(run_hash.challenge(i))) for i in range(CHALLENGES)]
    numbers = b"".join(int(value).to_bytes(width, "big") for value in [n, *roots])
    return b"PSI1" + bits.to_bytes(2, "big") + e.to_bytes(4, "big") + numbers


def honest_root(key: reference.Key) -> Callable[[int], int]:
    return lambda value: pow(value, key.d, key.n)


@cache
def prime_of(bits: int, step: int = 1) -> int:
    """A prime with its two top bits set, of the form k * step + 1 if a step is given."""
    found = 3 << (bits - 2)
    if step == 1:
        while (found := int(gmpy2.next_prime(found))) % E == 1:
            pass
        return found
    found += 1 - found % (2 * step)
    while not gmpy2.is_prime(found):
        found += 2 * step
    return found


def refused(sent: bytes, reason: str) -> None:
    with pytest.raises(KeyRefusedError, match=reason):
        RSARequester(["x"], sent, 1, domain=RUN)


def test_the_honest_key_passes() -> None:
    key, _ = read_key(blob(weak_key().n, honest_root(weak_key())), RUN)
    assert (key.bits, key.width) == (2048, 256)


@pytest.mark.parametrize("bits", [512, 1024, 2040, 4104, 8192])
def test_sizes(bits: int) -> None:
    refused(blob(1 << (bits - 1) | 1, lambda value: value), f"the modulus has {bits} bits; allowed")


def test_the_requester_may_ask_for_more_bits() -> None:
    with signer(["x"]) as signing, pytest.raises(KeyRefusedError, match="2048 bits; allowed"):
        RSARequester(["x"], signing.public_key(), 1, domain=RUN, min_bits=3072)


def test_size_that_the_modulus_does_not_have() -> None:
    refused(blob(weak_key().n >> 9, lambda value: value, bits=2048), "not the 2048 it announces")
    key = weak_key()
    refused(blob(key.n, honest_root(key), bits=2056), "has 2048 bits, not the 2056")


@pytest.mark.parametrize("e", [0, 1, 3, 65536, 65539, 2**32 - 1])
def test_another_exponent(e: int) -> None:
    refused(blob(weak_key().n, honest_root(weak_key()), e=e), "the exponent is not 65537")


def test_an_even_modulus() -> None:
    refused(blob(weak_key().n + 1, lambda value: value), "the modulus is even")


@pytest.mark.parametrize("factor", [3, 257, 65521, 65537])
def test_a_small_factor(factor: int) -> None:
    p = int(gmpy2.next_prime((1 << 2048) // factor - (1 << 2000)))
    key = reference.Key(factor, p)
    root = honest_root(key) if factor != E else lambda value: value
    refused(blob(key.n, root), "a prime factor of at most 65537")


def test_e_dividing_p_minus_one_has_no_proof() -> None:
    """The attack that the proof is there for, by a signer who does all it can."""
    p, q = prime_of(1024, step=E), prime_of(1024)
    assert (p - 1) % E == 0
    assert (p * q).bit_length() == 2048
    to_root_p, to_root_q = pow(E, -1, (p - 1) // E), pow(E, -1, q - 1)

    def best_root(value: int) -> int:
        of_p, of_q = pow(value, to_root_p, p), pow(value, to_root_q, q)
        return of_q + q * ((of_p - of_q) * pow(q, -1, p) % p)

    residue = pow(12345, E, p * q)  # where a root exists, it is found
    assert pow(best_root(residue), E, p * q) == residue
    refused(blob(p * q, best_root), "proof does not hold")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(CHALLENGES))
def test_one_forged_root(number: int) -> None:
    sent = bytearray(blob(weak_key().n, honest_root(weak_key())))
    sent[HEADER + (number + 2) * WIDTH - 1] ^= 1
    refused(bytes(sent), "proof does not hold")


@pytest.mark.parametrize("root", [0, weak_key().n, 2**2048 - 1], ids=["0", "n", "ones"])
def test_roots_out_of_range(root: int) -> None:
    refused(blob(weak_key().n, lambda _: root), "out of range")


@pytest.mark.parametrize("change", ["", "P", "XSI1", "cut", "longer", "half"])
def test_malformed_blobs(change: str) -> None:
    sent = blob(weak_key().n, honest_root(weak_key()))
    wrong = {
        "": b"",
        "P": b"P",
        "XSI1": b"X" + sent[1:],
        "cut": sent[:-1],
        "longer": sent + b"\0",
        "half": sent[: HEADER + WIDTH],
    }[change]
    refused(wrong, "no RSA key" if change in ("", "P", "XSI1") else "wrong length")


@cache
def just_above() -> reference.Key:
    """65539 is prime and larger than e: the gcd does not see it, and honest roots exist."""
    return reference.Key(65539, int(gmpy2.next_prime((1 << 2048) // 65539 - (1 << 2000))))


def test_a_factor_just_above_the_bound_does_not_betray_an_id() -> None:
    key = just_above()
    sent = blob(key.n, honest_root(key))
    run_hash = read_key(sent, RUN)[1]
    unlucky = next(text for i in range(10**6) if run_hash.of_id(text := str(i)) % 65539 == 0)
    with pytest.raises(KeyRefusedError, match="small factors"):
        next(RSARequester(["x", unlucky], sent, 1, domain=RUN).blinded())


def test_a_challenge_that_is_no_unit() -> None:
    key = just_above()
    n = gmpy2.mpz(key.n)
    unlucky = next(
        run
        for i in range(10**6)
        if any(
            RunHash(run := b"%d" % i, n).challenge(number) % 65539 == 0
            for number in range(CHALLENGES)
        )
    )
    with pytest.raises(KeyRefusedError, match=r"a challenge .* shares a factor"):
        read_key(blob(key.n, honest_root(key), run=unlucky), unlucky)

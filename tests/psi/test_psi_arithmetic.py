"""The number work below the protocol, and the two ways to the secret exponent."""

from __future__ import annotations

import threading

import gmpy2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from psi import arithmetic
from psi.errors import FaultError, StateError
from psi.hashing import RunHash
from psi.rsa.backends import open_here, openssl
from psi.workers import spread, usable_cores, worker_count
from tests.psi.helpers import RUN, WIDTH, shared_key, weak_key, wire

N = weak_key().n


def numbers(count: int) -> list[int]:
    run_hash = RunHash(RUN, gmpy2.mpz(N))
    return [int(run_hash.of_id(f"number {i}")) for i in range(count)]


@pytest.mark.slow
def test_backends_agree_byte_for_byte() -> None:
    values = [0, 1, 2, 3, N - 1, N - 2, weak_key().p, weak_key().q, 2**1024, *numbers(70)]
    expected = wire(*(pow(value, weak_key().d, N) for value in values))
    for name in ("openssl", "gmpy2"):
        backend = open_here(shared_key(), 2, name)
        assert backend.name == name
        assert backend.power_d(wire(*values)) == expected
        assert backend.power_d(b"") == b""
        backend.close()
        with pytest.raises(StateError):
            backend.power_d(wire(2))


def test_backends_agree_on_another_size() -> None:
    key = rsa.generate_private_key(65537, 2304)
    chunk = b"".join(value.to_bytes(288, "big") for value in numbers(3))
    assert open_here(key, 1, "openssl").power_d(chunk) == open_here(key, 1, "gmpy2").power_d(chunk)


def test_openssl_comes_first_and_gmpy2_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert open_here(shared_key(), 1).name == "openssl"
    monkeypatch.setattr(openssl, "find_library", lambda: None)
    assert open_here(shared_key(), 1).name == "gmpy2"
    with pytest.raises(ValueError, match="no PSI backend 'openssl'"):
        open_here(shared_key(), 1, "openssl")


def test_a_library_that_lacks_something_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "_candidates", lambda: iter(["no-such-file.so", gmpy2.__file__]))
    assert openssl.find_library.__wrapped__() is None


def test_openssl_refuses_what_is_out_of_range() -> None:
    with pytest.raises(FaultError):
        open_here(shared_key(), 1, "openssl").power_d(wire(N))


@pytest.mark.parametrize("name", ["openssl", "gmpy2"])
def test_more_callers_than_key_objects(name: str) -> None:
    backend = open_here(shared_key(), 2, name)
    values = numbers(8)
    expected = backend.power_d(wire(*values))
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(backend.power_d(wire(*values))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 6


def test_split_and_join() -> None:
    assert arithmetic.join(arithmetic.split(wire(1, 2, N), WIDTH), WIDTH) == wire(1, 2, N)


def test_inverses() -> None:
    n = gmpy2.mpz(N)
    for count in (0, 1, 2, 33):
        values = [gmpy2.mpz(value) for value in numbers(count)]
        found = arithmetic.inverses(values, n)
        assert all(v * i % n == 1 for v, i in zip(values, found, strict=True))
    with pytest.raises(ZeroDivisionError):
        arithmetic.inverses([gmpy2.mpz(2), gmpy2.mpz(weak_key().p)], n)


def test_random_units_are_drawn_again_until_they_fit() -> None:
    """n = 3 * 5 * 7 as a stand-in: draws of 0, >= n, and multiples of a factor are skipped."""
    n = gmpy2.mpz(105)
    draws = iter([0, 105, 127, 3, 8, 70, 2, 255, 11])

    def source(count: int) -> bytes:
        return bytes(next(draws) for _ in range(count))

    units, inverses = arithmetic.random_units(3, n, source)
    assert [int(unit) for unit in units] == [8, 2, 11]
    assert all(u * i % n == 1 for u, i in zip(units, inverses, strict=True))


def test_random_units_are_uniform_in_all_of_the_group() -> None:
    import secrets

    n = gmpy2.mpz(35)
    units, _ = arithmetic.random_units(24_000, n, secrets.token_bytes)
    counts = {int(value): 0 for value in range(35) if gmpy2.gcd(value, 35) == 1}
    for unit in units:
        counts[int(unit)] += 1
    assert len(counts) == 24
    assert all(800 < count < 1200 for count in counts.values())  # 1000 each, 6 sigma


def test_small_factors() -> None:
    assert arithmetic.has_factor_up_to(65537, gmpy2.mpz(65537 * 65539))
    assert not arithmetic.has_factor_up_to(65537, gmpy2.mpz(65539) ** 2)


def test_spread_keeps_the_order_and_brings_exceptions_out() -> None:
    for workers in (1, 2, 3, 7):
        for count in (0, 1, 15, 16, 48, 100):
            parts = spread(list, range(count), workers)
            assert [item for part in parts for item in part] == list(range(count))
            assert len(parts) <= workers
    with pytest.raises(ZeroDivisionError):
        spread(lambda part: 1 // (99 - part[-1]), range(100), 3)
    assert worker_count(None) == usable_cores() >= 1


def test_hash_is_spread_over_the_whole_modulus() -> None:
    high = sum(value > N // 2 for value in numbers(400))
    assert 120 < high < 280  # 200, 8 sigma

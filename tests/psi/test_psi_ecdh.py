"""The ECDH protocol: honest runs, bytes like the reference's, and what a bad peer may send."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import psi
from psi import (
    BudgetError,
    CountError,
    KeyRefusedError,
    ProofError,
    SignatureError,
    StateError,
    ValueRefusedError,
)
from psi.ecdh.group import ORDER, POINT_BYTES, Group, PointRefusedError, find_group, scalar
from psi.ecdh.requester import shuffle
from tests.psi import reference_ecdh as reference
from tests.psi.ecdh_helpers import KEY, pieces, requester, signer
from tests.psi.helpers import RUN, exchange

ZERO = bytes(32)
# RFC 9496, appendix A.3: not canonical, negative, no square root, negative x*y, y = 0.
BAD = [
    "00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "f3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371",
    "3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "00" * 32,
]
BAD_POINTS = [bytes.fromhex(each) for each in BAD]


def point(number: int) -> bytes:
    return find_group().base(scalar(number))


@pytest.mark.parametrize("library", ["system", "rbcl"])
def test_both_libraries_do_what_the_rfc_says(library: str) -> None:
    try:
        group = find_group(library)
    except OSError as error:
        pytest.skip(str(error))
    assert reference.GENERATOR is not None
    for number in (1, 2, 3, KEY, ORDER - 1):
        expected = reference.encode(reference.times(number, reference.GENERATOR))
        assert group.base(scalar(number)) == expected
        assert group.multiply(scalar(number), point(1) + point(1)) == expected * 2
    hashes = hashlib.shake_256(b"hashes").digest(64 * 20)
    expected_points = [reference.from_hash(hashes[at : at + 64]) for at in range(0, 64 * 20, 64)]
    points = b"".join(map(reference.encode, expected_points))
    assert group.from_hashes(hashes) == points
    scalars = [1 + i * KEY % (ORDER - 1) for i in range(20)]
    assert group.multiply(b"".join(map(scalar, scalars)), points) == b"".join(
        reference.encode(reference.times(k, each))
        for k, each in zip(scalars, expected_points, strict=True)
    )
    for bad in BAD_POINTS:
        assert not group.is_point(bad)
        assert bad == ZERO or reference.decode(bad) is None
        with pytest.raises(PointRefusedError):
            group.multiply(scalar(3), point(1) + bad)
    assert group.from_hashes(b"") == group.multiply(scalar(3), b"") == b""
    with pytest.raises(ValueError):
        group.base(ZERO)


def test_no_library_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        pass

    monkeypatch.setattr("psi.ecdh.group._system", Old)
    with pytest.raises(OSError, match="needs libsodium"):
        find_group.__wrapped__("system")
    assert isinstance(find_group.__wrapped__(), Group)  # the bundled one


def test_same_bytes_as_the_reference() -> None:
    cases = [
        (["ann", "bob", "cyd"], ["eve", "cyd", "ann", "dan"]),
        (["", " ", "é", "e\u0301", "\U0001f600"], ["e\u0301", "", "x"]),
        ([], ["x"]),
        (["x"], []),
    ]
    for number, (a, b) in enumerate(cases):
        stream = hashlib.shake_256(b"r%d" % number).digest(64 * 8)
        expected = reference.play(KEY, RUN, a, b, stream)
        with signer(b) as signing:
            asking = requester(
                a, signing, _random=lambda n, s=stream: s[:n], _shuffle=lambda positions: None
            )
            outcome = exchange(asking, signing)
            assert signing.public_key() == expected["key"]
        for part in ("blinded", "signed", "tags", "proofs"):
            assert b"".join(getattr(outcome, part)) == expected[part], part
        assert outcome.intersection == expected["intersection"]


def test_values_that_are_not_signed() -> None:
    for bad in BAD_POINTS:
        with signer(["x"]) as signing:
            signing.begin(2)
            with pytest.raises(ValueRefusedError, match="no element of the group"):
                signing.sign(point(1) + bad)


@pytest.mark.parametrize("bucket_ids", [100, 1_000_000])
def test_a_value_that_comes_twice(bucket_ids: int) -> None:
    with signer(["x"], bucket_ids=bucket_ids) as signing:
        signing.begin(300)
        with pytest.raises(ValueRefusedError, match="twice"):
            signing.sign(point(1) * 2)
    with signer(["x"], bucket_ids=bucket_ids) as signing:
        signing.begin(2)
        signing.sign(point(1))
        with pytest.raises(ValueRefusedError, match="twice"):
            signing.sign(point(1))
            signing.tags()  # on disk, repeats in different chunks are found here


@pytest.mark.parametrize("size", [0, 1, 31, 33, 95])
def test_truncated_and_too_long_chunks(size: int) -> None:
    with signer(["x"]) as signing:
        asking = requester(["a", "b"], signing)
        signing.begin(4)
        with pytest.raises(ValueRefusedError):
            signing.sign(b"\1" * size)
        list(asking.blinded())
        with pytest.raises(ValueRefusedError if size else CountError):
            asking.unblind(b"\1" * size)


def test_wrong_counts() -> None:
    with signer(["x", "y"]) as signing:
        asking = requester(["a", "b"], signing)
        with pytest.raises(StateError):
            signing.sign(point(1))
        with pytest.raises(CountError):
            signing.begin(-1)
        signing.begin(2)
        with pytest.raises(CountError):
            signing.sign(point(1) + point(2) + point(3))
        with pytest.raises(StateError):
            signing.tags()
        (chunk,) = asking.blinded()
        signed = signing.sign(chunk)
        with pytest.raises(CountError):
            asking.unblind(signed[:POINT_BYTES])
        asking.unblind(signed)
        with pytest.raises(CountError):  # the chunk comes twice
            asking.unblind(signed)
        (tags,) = signing.tags()
        with pytest.raises(CountError):
            asking.add_tags(tags[:16], last=True)
        with pytest.raises(ValueRefusedError, match="twice"):
            asking.add_tags(tags[:16] * 2)
        with pytest.raises(CountError):
            asking.add_tags(tags + bytes(16))
    with signer(["x"], max_peer_ids=3) as signing, pytest.raises(BudgetError):
        signing.begin(4)


def test_answers_that_are_no_elements() -> None:
    for bad in BAD_POINTS:
        with signer(["x"]) as signing:
            asking = requester(["a", "b"], signing)
            list(asking.blinded())
            with pytest.raises(SignatureError, match="no element of the group"):
                asking.unblind(point(1) + bad)
            with pytest.raises(SignatureError, match="twice"):
                asking.unblind(point(1) * 2)


def test_a_signer_with_one_wrong_value_costs_that_match_and_no_other() -> None:
    """The documented limit: RSA would notice, ECDH loses the match."""
    with signer(["a", "b", "c"]) as signing:
        asking = requester(["c", "b", "a"], signing, _shuffle=lambda positions: None)
        signing.begin(3)
        (chunk,) = asking.blinded()
        signed = signing.sign(chunk)
        asking.unblind(point(5) + signed[POINT_BYTES:])
        for tags in signing.tags():
            asking.add_tags(tags)
        assert asking.intersection() == ["b", "a"]


def test_surplus_and_unknown_match_proofs() -> None:
    def ready() -> tuple[psi.ECDHSigner, bytes]:
        holder = signer(["a", "b", "c"])
        other = requester(["b", "a"], holder)
        holder.begin(2)
        for chunk in other.blinded():
            other.unblind(holder.sign(chunk))
        for chunk in holder.tags():
            other.add_tags(chunk)
        (proofs,) = other.proofs(other.intersection())
        return holder, proofs

    _, proofs = ready()
    for wrong in (proofs + bytes(16), proofs[:16] * 2, proofs[:16] + proofs):
        holder, _ = ready()
        with pytest.raises(ProofError):
            holder.matched(wrong, last=True)
    holder, proofs = ready()
    assert holder.matched(proofs[:16], last=False) is None
    with pytest.raises(ProofError, match="twice"):
        holder.matched(proofs[:16], last=True)


@pytest.mark.parametrize("bad", BAD_POINTS)
def test_keys_that_are_refused(bad: bytes) -> None:
    with signer(["x"]) as signing:
        blob = signing.public_key()
    assert len(blob) == 52
    with pytest.raises(KeyRefusedError, match="no element"):
        psi.ECDHRequester(["x"], blob[:4] + bad + blob[36:], 1, domain=RUN)


def test_keys_of_another_protocol_or_run() -> None:
    with signer(["x"]) as signing:
        blob = signing.public_key()
    for wrong in (b"", blob[:-1], blob + b"\0", b"PSI1" + blob[4:]):
        with pytest.raises(KeyRefusedError, match="no ECDH key"):
            psi.ECDHRequester(["x"], wrong, 1, domain=RUN)
    with pytest.raises(KeyRefusedError, match="domains differ"):
        psi.ECDHRequester(["x"], blob, 1, domain=psi.domain("task", "another"))
    with pytest.raises(KeyRefusedError):
        psi.RSARequester(["x"], blob, 1, domain=RUN)


def test_two_runs_give_unlinkable_traffic() -> None:
    ids = [str(i) for i in range(40)]

    def seen(**chosen: object) -> list[set[bytes]]:
        with signer(ids, **chosen) as signing:
            outcome = exchange(requester(ids, signing, domain=chosen["domain"]), signing)
        wide = [set(pieces(part, 32)) for part in (outcome.blinded, outcome.signed)]
        return wide + [set(pieces(part, 16)) for part in (outcome.tags, outcome.proofs)]

    # A fresh key is enough, and so is another run id under one key.
    first, again = seen(domain=RUN), seen(domain=psi.domain("task", "2"))
    fresh = seen(domain=RUN, _key=None)
    assert all(len(values) == 40 for values in first)
    for other in (again, fresh):
        assert all(not one & two for one, two in zip(first, other, strict=True))


def test_the_order_is_uniform_over_all_orders() -> None:
    seen = Counter[tuple[int, ...]]()
    for _ in range(6000):
        positions = array("Q", range(4))
        shuffle(positions)
        seen[tuple(positions)] += 1
    assert len(seen) == 24
    # Chi-squared with 23 degrees of freedom: above 80 once in 10^7 runs.
    assert sum((each - 250) ** 2 / 250 for each in seen.values()) < 80
    many = array("Q", range(20_000))
    shuffle(many)
    assert sorted(many) == list(range(20_000)) != list(many)
    shuffle(array("Q"))


def test_ids_are_asked_in_an_order_of_their_own() -> None:
    ids = [str(i) for i in range(64)]
    with signer(ids) as signing:
        orders = [list(requester(ids, signing)._todo) for _ in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(64))


def test_calls_after_close() -> None:
    signing = signer([str(i) for i in range(20_000)])
    signing.precompute()
    signing.begin(1)
    signing.close()
    signing.close()
    for call in (signing.precompute, signing.tags, lambda: signing.sign(point(1))):
        with pytest.raises(StateError, match="closed"):
            call()
    with pytest.raises(StateError, match="closed"):
        signing._key()


class Counting(Executor):
    """Threads, and a count of calls."""

    def __init__(self) -> None:
        self.pool, self.calls = ThreadPoolExecutor(2), 0

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        return self.pool.submit(work, *args, **kwargs)


@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
def test_any_executor_does_the_work(protocol: psi.Protocol) -> None:
    pool = Counting()
    whole_run(protocol, pool)
    assert pool.calls >= 3
    pool.pool.shutdown()


def whole_run(protocol: psi.Protocol, pool: Executor) -> None:
    ids = [str(i) for i in range(200)]
    chosen: dict[str, Any] = {"domain": RUN, "executor": pool, "workers": 2}
    with psi.signer(protocol, ids[100:], **chosen) as signing:
        signing.precompute()
        key = signing.public_key()
        with psi.requester(protocol, ids, key, signing.count, **chosen) as asking:
            signing.begin(asking.count)
            for chunk in asking.blinded():
                asking.unblind(signing.sign(chunk))
            for chunk in signing.tags():
                asking.add_tags(chunk)
            assert asking.intersection() == ids[100:]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
def test_processes_do_the_work(protocol: psi.Protocol) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        whole_run(protocol, pool)


@pytest.mark.slow
def test_a_dask_cluster_does_the_work() -> None:
    dask: Any = pytest.importorskip("distributed")
    with (
        dask.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        dask.Client(cluster) as client,
    ):
        whole_run("rsa", client.get_executor())
        whole_run("ecdh", client.get_executor())


@pytest.mark.parametrize("protocol", ["dh", ""])
def test_unknown_protocols(protocol: Any) -> None:
    with pytest.raises(ValueError, match="no protocol"):
        psi.signer(protocol, [], domain=RUN)
    with pytest.raises(ValueError, match="no protocol"):
        psi.requester(protocol, [], b"", 0, domain=RUN)


def test_in_one_process() -> None:
    assert psi.intersect(["ann", "bob", "cyd"], ["cyd", "eve", "bob"], protocol="ecdh") == [
        "bob",
        "cyd",
    ]

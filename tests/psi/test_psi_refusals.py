"""What a hostile or broken peer may send: each refused by the right name, nothing asserted."""

from __future__ import annotations

import pytest

from psi import CountError, ProofError, SignatureError, ValueRefusedError
from psi.errors import FaultError, PSIError
from tests.psi.helpers import WIDTH, exchange, ready_to_match, requester, signer, weak_key, wire

N = weak_key().n


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0, "not in"),
        (N, "not in"),
        (N + 1, "not in"),
        (2 ** (8 * WIDTH) - 1, "not in"),
        (weak_key().p, "shares a factor"),
        (weak_key().p * 3, "shares a factor"),
    ],
    ids=["0", "n", "n+1", "ones", "p", "3p"],
)
def test_peer_values_0_n_too_large_or_not_coprime_are_not_signed(value: int, reason: str) -> None:
    with signer(["x"]) as signing:
        signing.begin(2)
        with pytest.raises(ValueRefusedError, match=reason):
            signing.sign(wire(2, value))
        assert len(signing.sign(wire(2, 3))) == 2 * WIDTH  # a refused chunk counts for nothing


def test_peer_values_1_and_n_minus_1_sign_to_themselves() -> None:
    with signer(["x"]) as signing:
        signing.begin(2)
        assert signing.sign(wire(1, N - 1)) == wire(1, N - 1)


@pytest.mark.parametrize("size", [0, 1, WIDTH - 1, WIDTH + 1, 3 * WIDTH - 1])
def test_truncated_and_too_long_chunks(size: int) -> None:
    with signer(["x"]) as signing:
        asking = requester(["a", "b"], signing)
        signing.begin(4)
        with pytest.raises(ValueRefusedError):
            signing.sign(b"\1" * size)
        list(asking.blinded())
        with pytest.raises(ValueRefusedError if size else CountError):
            asking.unblind(b"\1" * size)


@pytest.mark.parametrize("size", [1, 15, 17])
def test_short_values_cut_short(size: int) -> None:
    other, holder = ready_to_match(["a"], ["b"])
    with pytest.raises(ValueRefusedError):
        other.add_tags(bytes(size))
    with pytest.raises(ValueRefusedError):
        holder.matched(bytes(size), last=True)


def test_more_values_than_announced() -> None:
    with signer(["x"]) as signing:
        with pytest.raises(CountError):
            signing.begin(-1)
        signing.begin(3)
        signing.sign(wire(2, 3))
        with pytest.raises(CountError, match="4 values to sign where 3 were announced"):
            signing.sign(wire(2, 3))
        signing.sign(wire(4))
        assert len(list(signing.tags())) == 1
        with pytest.raises(CountError):
            signing.sign(wire(5))


def test_wrong_counts_announced_by_the_peer() -> None:
    from psi import RSARequester
    from tests.psi.helpers import RUN

    with signer(["x"]) as signing:
        for count in (-1, 100_000_001):
            with pytest.raises(CountError):
                RSARequester(["x"], signing.public_key(), count, domain=RUN)


def test_a_chunk_twice_or_missing_or_swapped() -> None:
    signing = signer(["c"])
    signing.begin(8)
    for order in ([0, 0], [1]):
        asking = requester(["a", "b", "c", "d"], signing, chunk_ids=2)
        signed = [signing.sign(chunk) for chunk in asking.blinded()]
        with pytest.raises(SignatureError):
            for number in order:
                asking.unblind(signed[number])


def test_more_or_fewer_signed_values_than_asked() -> None:
    with signer(["c"]) as signing:
        asking = requester(["a", "b", "c"], signing, chunk_ids=2)
        signing.begin(3)
        chunks = list(asking.blinded())
        signed = [signing.sign(chunk) for chunk in chunks]
        with pytest.raises(CountError, match="1 signed values came as the answer to 2"):
            asking.unblind(signed[1])
        with pytest.raises(CountError):
            asking.unblind(signed[0] + signed[1])
        for chunk in signed:
            asking.unblind(chunk)
        with pytest.raises(CountError, match="none were outstanding"):
            asking.unblind(signed[0])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("place", [0, 19, 39])
@pytest.mark.parametrize("change", ["plus one", "negated", "another value"])
def test_a_signer_that_returns_one_wrong_value(place: int, change: str, workers: int) -> None:
    with signer(["c"]) as signing:
        asking = requester([str(i) for i in range(40)], signing, workers=workers)
        signing.begin(40)
        (chunk,) = asking.blinded()
        signed = bytearray(signing.sign(chunk))
        at = slice(place * WIDTH, (place + 1) * WIDTH)
        right = int.from_bytes(signed[at], "big")
        wrong = {"plus one": right + 1, "negated": N - right, "another value": 1}[change]
        signed[at] = wire(wrong)
        with pytest.raises(SignatureError):
            asking.unblind(bytes(signed))


@pytest.mark.parametrize("value", [0, N, 2 ** (8 * WIDTH) - 1], ids=["0", "n", "ones"])
def test_signed_values_out_of_range(value: int) -> None:
    with signer(["c"]) as signing:
        asking = requester(["a"], signing)
        list(asking.blinded())
        with pytest.raises(ValueRefusedError):
            asking.unblind(wire(value))


def test_repeated_and_surplus_and_missing_tags() -> None:
    with signer([str(i) for i in range(3)]) as signing:
        signing.begin(0)
        (tags,) = signing.tags()
        asking = requester([], signing)
        assert list(asking.blinded()) == []
        with pytest.raises(CountError):
            asking.add_tags(tags + bytes(16))
        with pytest.raises(CountError, match="2 tags came where 3 were announced"):
            asking.add_tags(tags[:32], last=True)
        asking.add_tags(tags[:32])
        with pytest.raises(ValueRefusedError):
            asking.add_tags(tags[:16])
    with signer(["1", "2"]) as signing, pytest.raises(ValueRefusedError):
        requester([], signing).add_tags(tags[:16] * 2)


def test_surplus_and_unknown_match_proofs() -> None:
    other, holder = ready_to_match(["a", "b"], ["b", "a", "c"])
    (proofs,) = other.proofs(["a", "b"])
    with pytest.raises(ProofError, match="not here"):
        holder.matched(bytes(16), last=False)
    with pytest.raises(ProofError, match="twice"):
        holder.matched(proofs[:16] * 2, last=True)


def test_a_tag_proves_no_match() -> None:
    _, holder = ready_to_match(["a"], ["b", "c"])
    replay = signer(["b", "c"])
    replay.begin(0)
    (tags,) = replay.tags()  # same key, same run: the very tags that holder sent
    with pytest.raises(ProofError, match="not here"):
        holder.matched(tags[:16], last=True)


def test_no_more_matches_than_ids_were_asked() -> None:
    # Two requesters of one key can pool what they know; the count still binds each.
    other, _ = ready_to_match(["a", "b"], ["a", "b"])
    _, holder = ready_to_match(["z"], ["a", "b"])
    (proofs,) = other.proofs(["a", "b"])
    with pytest.raises(ProofError, match="more matches are claimed than the 1"):
        holder.matched(proofs, last=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_faulty_signature_is_never_released(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signer(["c"], workers=workers) as signing:
        asking = requester([str(i) for i in range(40)], signing)
        signing.begin(40)
        right = signing._backend().power_d

        def slips(chunk: bytes) -> bytes:
            out = right(chunk)
            return out[:-1] + bytes([out[-1] ^ 1])

        monkeypatch.setattr(signing._backend(), "power_d", slips)
        with pytest.raises(FaultError):
            signing.sign(b"".join(asking.blinded()))


def test_no_message_holds_an_id() -> None:
    secret = "secret-id"
    seen: list[PSIError] = []
    with signer([secret]) as signing:
        asking = requester([secret], signing)
        signing.begin(1)
        (chunk,) = asking.blinded()
        for call in (
            lambda: signing.sign(wire(0)),
            lambda: signing.sign(chunk * 2),
            lambda: asking.unblind(wire(1)),
            lambda: asking.proofs([secret]),
            lambda: signing.matched(bytes(16), last=True),
        ):
            with pytest.raises(PSIError) as caught:
                call()
            seen.append(caught.value)
    other, _ = ready_to_match(["a"], ["a"])
    with pytest.raises(PSIError) as caught:
        other.proofs([secret])
    seen.append(caught.value)
    assert all(secret not in f"{error!r}{error.__context__!r}" for error in seen)


def test_an_honest_run_after_all_that() -> None:
    with signer(["b", "a"]) as signing:
        assert exchange(requester(["a", "c"], signing), signing).matched == ["a"]

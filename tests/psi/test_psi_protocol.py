"""Honest runs: the result is the intersection, whatever the ids, the chunks and the threads."""

from __future__ import annotations

import threading
import time

import pytest

import psi
from psi import IdsError, StateError
from psi.errors import FaultError
from tests.psi.helpers import RUN, WIDTH, exchange, ready_to_match, requester, signer


def test_in_one_process() -> None:
    assert psi.intersect(["ann", "bob", "cyd"], ["cyd", "eve", "bob"]) == ["bob", "cyd"]


def test_a_fresh_key_of_another_size() -> None:
    with signer(["x", "y"], _key=None, bits=2304) as signing:
        outcome = exchange(requester(["y", "z"], signing), signing)
    assert outcome.matched == ["y"]
    assert len(outcome.blinded[0]) == 2 * 2304 // 8


def test_messages_about_ids_name_positions_but_no_ids() -> None:
    with pytest.raises(IdsError) as caught:
        signer(["secret", "b", "secret", "c", "b", "secret"])
    assert str(caught.value) == "3 ids are repeated; positions (from 0): 2, 4, 5"
    with pytest.raises(IdsError) as caught:
        signer(["b", "secret\udc80"])
    assert str(caught.value) == "1 id is not encodable as UTF-8; positions (from 0): 1"
    assert caught.value.__context__ is None  # which would hold the id
    with pytest.raises(IdsError, match=r"12 ids .*: 1, 2, .*, 10, \.\.\.$"):
        signer(["x"] * 13)


def test_chunks_stay_under_one_mebibyte() -> None:
    ids = [str(i) for i in range(70_000)]
    with signer([]) as signing:
        chunks = requester(ids, signing, chunk_ids=10**9).blinded()
        assert len(next(chunks)) == 1 << 20
        assert len(next(requester(ids, signing).blinded())) == 2048 * WIDTH
    from psi.signing import packed
    from psi.storage.spill import Records, Scratch, in_order

    tags = [i.to_bytes(16, "big") for i in reversed(range(70_000))]
    records = Records(16, len(tags), Scratch(), in_order)
    records.add(tags)
    sizes = [len(chunk) for chunk in packed(records)]
    assert sizes == [1 << 20, 70_000 * 16 - (1 << 20)]


def test_two_runs_give_unlinkable_traffic() -> None:
    ids = [str(i) for i in range(40)]

    def pieces(run: bytes) -> list[set[bytes]]:
        with signer(ids, domain=run) as signing:
            outcome = exchange(requester(ids, signing, domain=run), signing)
        wide = [b"".join(outcome.blinded), b"".join(outcome.signed)]
        short = [b"".join(outcome.tags), b"".join(outcome.proofs)]
        cut = [{c[i : i + WIDTH] for i in range(0, len(c), WIDTH)} for c in wide]
        return cut + [{c[i : i + 16] for i in range(0, len(c), 16)} for c in short]

    # Even with one key and one set of ids: another run id is enough.
    first, second = pieces(psi.domain("task", "1")), pieces(psi.domain("task", "2"))
    assert all(len(values) == 40 for values in first)
    assert all(not one & other for one, other in zip(first, second, strict=True))
    # In the same run id blinding differs still; only what is a function of the ids does not.
    blinded, *_ = pieces(psi.domain("task", "1"))
    assert not blinded & first[0]


def test_domains_separate_runs_and_tasks() -> None:
    assert len({psi.domain(*pair) for pair in [("a", "bc"), ("ab", "c"), ("", "abc")]}) == 3
    with signer(["x"]) as signing, pytest.raises(psi.KeyRefusedError, match="domains differ"):
        requester(["x"], signing, domain=psi.domain("task", "another"))


def test_order_on_the_wire_is_that_of_the_hashes() -> None:
    ids = [str(i) for i in range(64)]
    with signer(ids) as signing:
        outcome = exchange(requester(ids, signing), signing)
    for chunk in (*outcome.tags, *outcome.proofs):
        cut = [chunk[i : i + 16] for i in range(0, len(chunk), 16)]
        assert cut == sorted(cut)


def test_only_a_part_of_the_intersection_is_proved() -> None:
    other, holder = ready_to_match(["a", "b", "c", "d"], ["d", "c", "b"])
    assert other.intersection() == ["b", "c", "d"]
    (chunk,) = other.proofs({"d", "b"})
    assert holder.matched(chunk, last=True) == ["d", "b"]
    assert list(other.proofs([])) == []
    with pytest.raises(IdsError, match="1 of 2 ids are not in the intersection"):
        other.proofs(["a", "b"])


def test_threads_and_chunks_in_flight() -> None:
    a, b = [str(i) for i in range(500)], [str(i) for i in range(250, 700)]
    with signer(b, workers=4) as signing:
        signing.precompute()
        asking = requester(a, signing, workers=3, chunk_ids=64)
        signing.begin(asking.count)
        answers: list[bytes] = []
        came = threading.Semaphore(0)

        def sign_all() -> None:
            for chunk in asking.blinded():
                answers.append(signing.sign(chunk))
                came.release()

        thread = threading.Thread(target=sign_all)
        thread.start()
        for number in range(8):
            assert came.acquire(timeout=30)
            asking.unblind(answers[number])
        thread.join()
        for chunk in signing.tags():
            asking.add_tags(chunk)
        assert signing.progress() == 450
        assert asking.intersection() == a[250:]


def test_own_tags_wait_while_the_peer_is_served() -> None:
    with signer([str(i) for i in range(200)]) as signing:
        with signing._own.step_aside():
            signing.precompute()
            time.sleep(0.05)
            assert signing.progress() == 0
        signing.begin(0)
        assert sum(map(len, signing.tags())) == 200 * 16
        assert signing.progress() == 200


def test_signing_for_the_peer_puts_the_own_tags_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    with signer(["x"]) as signing:
        signing.begin(1)
        seen: list[int] = []
        right = signing._backend().power_d

        def watch(chunk: bytes) -> bytes:
            seen.append(signing._own._aside)
            return right(chunk)

        monkeypatch.setattr(signing._backend(), "power_d", watch)
        signing.sign((2).to_bytes(WIDTH, "big"))
        list(signing.tags())
        assert seen == [1, 0]


def test_close_interrupts_the_background_and_refuses_everything_after() -> None:
    signing = signer([str(i) for i in range(20_000)])
    signing.precompute()
    signing.close()
    signing.close()
    for call in (
        lambda: signing.begin(1),
        lambda: signing.sign(b""),
        signing.tags,
        signing.precompute,
        lambda: signing.matched(b"", last=True),
    ):
        with pytest.raises(StateError, match="closed"):
            call()
    with pytest.raises(StateError, match="closed"):
        signing._backend().power_d(bytes(WIDTH))


def test_a_failure_in_the_background_comes_out_of_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    with signer(["x"]) as signing:
        right = signing._backend().power_d
        monkeypatch.setattr(signing._backend(), "power_d", lambda chunk: right(chunk)[:-1] + b"\0")
        signing.begin(0)
        with pytest.raises(FaultError):
            signing.tags()


def test_calls_out_of_order() -> None:
    with signer(["x"]) as signing:
        asking = requester(["x", "y"], signing)
        with pytest.raises(StateError):
            signing.sign(bytes(WIDTH))
        signing.begin(2)
        with pytest.raises(StateError):
            signing.begin(2)
        with pytest.raises(StateError):
            signing.tags()
        with pytest.raises(StateError):
            signing.matched(b"", last=True)
        with pytest.raises(StateError):
            asking.unblind(b"")
        (chunk,) = asking.blinded()
        with pytest.raises(StateError):
            asking.blinded()
        signed = signing.sign(chunk[:WIDTH])
        with pytest.raises(StateError, match="before all announced"):
            signing.tags()
        with pytest.raises(StateError):
            asking.intersection()
        asking.unblind(signed + signing.sign(chunk[WIDTH:]))
        with pytest.raises(StateError):
            asking.intersection()
        (tags,) = signing.tags()
        with pytest.raises(StateError):
            signing.tags()
        asking.add_tags(tags, last=True)
        assert asking.intersection() == ["x"]


@pytest.mark.parametrize("wrong", [{"bits": 1024}, {"bits": 2049}, {"workers": 0}, {"bits": 8192}])
def test_bad_settings(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        signer(["x"], **({"_key": None} | wrong))
    with signer([]) as signing, pytest.raises(ValueError):
        requester(["x"], signing, chunk_ids=0)


def test_run_domain_is_what_both_sides_use() -> None:
    assert psi.domain("task", "run") == RUN

"""Several signers: the requester learns the ids of all parties, and nothing of any two of them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import psi
from psi.ecdh.group import POINT_BYTES
from psi.multiparty.here import intersect_all, make_signers
from psi.multiparty.key_value_store import SEED_BYTES, decode, encode, size_for, slots_for
from psi.multiparty.requester import JointRequester, common_positions
from psi.multiparty.signer import JointSigner, pad_of
from psi.multiparty.zero_shares import ZeroShares


def names(numbers: set[int] | range) -> list[str]:
    return [f"id-{number}" for number in numbers]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sets(st.integers(0, 12), max_size=12), min_size=3, max_size=5))
def test_all_parties_find_what_all_have(sets: list[set[int]]) -> None:
    found = intersect_all(*map(names, sets))
    assert set(found) == set(names(set.intersection(*sets)))


def keys_and_values(count: int) -> tuple[list[bytes], list[int]]:
    keys = [secrets.token_bytes(16) for _ in range(count)]
    return keys, [secrets.randbits(128) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 300, 3000])
def test_a_store_has_its_values_and_random_ones_for_other_keys(count: int) -> None:
    keys, values = keys_and_values(count)
    encoding = encode(keys, values)
    assert len(encoding) == size_for(count)
    assert decode(encoding, count, keys) == values
    others, _ = keys_and_values(500)
    found = decode(encoding, count, others)
    assert len(set(found)) == len(found)
    assert not set(found) & set(values)
    assert decode(encoding, count, []) == []


def test_a_store_looks_the_same_whatever_its_keys_are() -> None:
    keys, values = keys_and_values(400)
    first, second = encode(keys, values), encode(keys, values)
    assert first[:SEED_BYTES] != second[:SEED_BYTES]
    slots = {first[at : at + 16] for at in range(SEED_BYTES, len(first), 16)}
    assert len(slots) == slots_for(400)
    assert not slots & {second[at : at + 16] for at in range(SEED_BYTES, len(second), 16)}
    assert chi_square(first[SEED_BYTES:]) < LIMIT


def test_a_store_refuses_repeated_keys_and_other_lengths() -> None:
    keys, values = keys_and_values(20)
    with pytest.raises(psi.FaultError, match="repeated"):
        encode([*keys, keys[0]], [*values, 1])
    encoding = encode(keys, values)
    for bad in (encoding[:-1], encoding + b"\0", b""):
        with pytest.raises(psi.CountError):
            decode(bad, 20, keys)


def pair_secrets(parties: int) -> list[dict[str, bytes]]:
    shared: list[dict[str, bytes]] = [{} for _ in range(parties)]
    for one, other in combinations(range(parties), 2):
        shared[one][str(other)] = shared[other][str(one)] = secrets.token_bytes(32)
    return shared


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_all_shares_of_an_id_add_up_to_zero_and_no_part_of_them_does(parties: int) -> None:
    shares = [ZeroShares(each, domain=b"run").of(["a", "b"]) for each in pair_secrets(parties)]
    for of_one_id in zip(*shares, strict=True):
        for size in range(1, parties + 1):
            for part in combinations(of_one_id, size):
                total = 0
                for share in part:
                    total ^= share
                assert (total == 0) == (size == parties)


def test_shares_of_two_runs_differ() -> None:
    one, _ = pair_secrets(2)
    assert ZeroShares(one, domain=b"1").of(["a"]) != ZeroShares(one, domain=b"2").of(["a"])
    for bad in ({}, {"b": b"short"}, {"b": b"x" * 32, "c": b"x" * 32}):
        with pytest.raises(ValueError, match="secret"):
            ZeroShares(bad, domain=b"run")


LIMIT = 600.0
"""A chi-square of 255 degrees of freedom exceeds this with a probability below 1e-29."""


def chi_square(data: bytes) -> float:
    """How far the bytes are from uniform, with 255 degrees of freedom."""
    expected = len(data) / 256
    return sum((data.count(bytes([value])) - expected) ** 2 / expected for value in range(256))


def as_bytes(numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(16, "little") for number in numbers)


def asked(ids: list[str], signer: JointSigner, number: int, run: str = "run") -> JointRequester:
    domain = psi.domain(run, str(number))
    asking = JointRequester(ids, signer.public_key(), signer.count, domain=domain, workers=1)
    signer.begin(asking.count)
    for chunk in asking.blinded():
        asking.unblind(signer.sign(chunk))
    return asking


class View:
    """What the requester of three parties sees, by where each of its ids is not common."""

    def __init__(self) -> None:
        self.held, self.missing, self.stores = b"", b"", b""
        self.partial = 0

    def add(self, own: list[str], sets: list[list[str]], *, zero: bool = False) -> None:
        """Run once. With `zero`, the signers leave the shares out, as a wrong protocol would."""
        requesters = []
        for number, signer in enumerate(make_signers("run", sets)):
            if zero:
                signer._shares = NoShares()  # type: ignore[assignment]
            asking = asked(own, signer, number)
            store = b"".join(signer.tags())
            asking.add_tags(store, last=True)
            self.stores += store
            requesters.append(asking)
        common = {own[at] for at in common_positions(requesters)}
        assert zero or common == set.intersection(set(own), *map(set, sets))
        for asking, ids in zip(requesters, sets, strict=True):
            shares = dict(zip(own, asking.shares(), strict=True))
            self.partial += sum(not share for share in shares.values())
            others = {each: share for each, share in shares.items() if each not in common}
            self.held += as_bytes([share for each, share in others.items() if each in ids])
            self.missing += as_bytes([share for each, share in others.items() if each not in ids])

    @property
    def suspicious(self) -> bool:
        """Whether a statistic tells ids that one signer has from those that it lacks."""
        parts = [each for each in (self.held, self.missing, self.stores) if each]
        return self.partial > 0 or any(chi_square(each) > LIMIT for each in parts)


class NoShares:
    def of(self, ids: Sequence[str]) -> list[int]:
        return [0] * len(ids)


@pytest.mark.slow
def test_what_the_requester_sees_does_not_depend_on_pairwise_overlaps() -> None:
    """Two worlds of the same sizes and the same common ids: in one, the requester shares 20 more
    ids with each signer; in the other none.

    Over many runs, all that it sees apart from the common ids has the same distribution in both,
    the uniform one. The pairwise protocol would show 20 more matches at a glance.
    """
    own, common = names(range(40)), names(range(5))
    worlds = {
        "overlaps": [names(range(25)), common + names(range(25, 45))],
        "none": [common + names(range(100, 120)), common + names(range(200, 220))],
    }
    views = {name: View() for name in worlds}
    for _ in range(30):
        for name, sets in worlds.items():
            views[name].add(own, sets)
    assert len(views["overlaps"].held) == 30 * (20 + 15) * 16
    assert views["none"].held == b""
    assert len(views["overlaps"].stores) == len(views["none"].stores)
    assert not any(view.suspicious for view in views.values())
    assert chi_square_of_two(*(view.stores for view in views.values())) < LIMIT


def chi_square_of_two(one: bytes, other: bytes) -> float:
    """How far two samples of bytes are from one distribution, with 255 degrees of freedom."""
    total = 0.0
    for value in range(256):
        first, second = one.count(bytes([value])), other.count(bytes([value]))
        total += (first - second) ** 2 / max(first + second, 1)
    return total


def test_the_statistic_finds_a_protocol_that_shows_overlaps() -> None:
    view = View()
    view.add(names(range(10)), [names(range(5)), names({0, 7})], zero=True)
    assert view.suspicious


def test_what_a_signer_sees_does_not_depend_on_the_requesters_ids() -> None:
    """A signer sees blinded values, which look the same for any ids, and at the end the result."""
    signer, _ = make_signers("run", [names(range(40)), names(range(40))])
    key, domain = signer.public_key(), psi.domain("run", "0")
    seen = []
    for own in (names(range(40)), names(range(100, 140))):
        blinded = b""
        for _ in range(10):
            asking = JointRequester(own, key, signer.count, domain=domain, workers=1)
            blinded += b"".join(asking.blinded())
        # The lowest and the highest bit of an encoding are 0, so only the bytes between count.
        inner = [blinded[at + 1 : at + 31] for at in range(0, len(blinded), POINT_BYTES)]
        assert len(set(inner)) == 400
        seen.append(b"".join(inner))
    assert all(chi_square(each) < LIMIT for each in seen)
    assert chi_square_of_two(*seen) < LIMIT


def test_what_colluding_parties_learn() -> None:
    """A requester that has the secrets of all signers but one sees its overlap with that one.

    Two signers whose secret it lacks stay hidden: of them it learns what both have.
    """
    sets = [names({1, 2, 3}), names({2, 3, 4}), names({3, 4, 5})]
    shared = pair_secrets(3)
    own = names(range(6))
    decoded = []
    for number, ids in enumerate(sets):
        shares = ZeroShares(shared[number], domain=b"run")
        signer = JointSigner(ids, domain=psi.domain("run", str(number)), shares=shares, workers=1)
        asking = asked(own, signer, number)
        asking.add_tags(b"".join(signer.tags()), last=True)
        decoded.append(asking.shares())
    # It colludes with signer 2, and so knows that signer's shares of any id.
    known = ZeroShares(shared[2], domain=b"run").of(own)
    both = [
        name
        for name, *three in zip(own, decoded[0], decoded[1], known, strict=True)
        if three[0] ^ three[1] ^ three[2] == 0
    ]
    assert both == names({2, 3})
    # The share of signer 0 alone has a secret with signer 1 in it, which it lacks.
    partly = ZeroShares({"2": shared[0]["2"]}, domain=b"run").of(own)
    assert all(one ^ part for one, part in zip(decoded[0], partly, strict=True))
    # With signer 1 as well it knows both secrets of signer 0.
    alone = ZeroShares(shared[0], domain=b"run").of(own)
    seen = [name for name, a, b in zip(own, decoded[0], alone, strict=True) if a == b]
    assert seen == names({1, 2, 3})


def test_hostile_stores_and_calls_out_of_order() -> None:
    own = names(range(5))
    first, second = make_signers("run", [own[:3], own[1:4]])
    asking = asked(own, first, 0)
    with pytest.raises(psi.StateError, match="common_positions"):
        asking.intersection()
    with pytest.raises(psi.StateError, match="shares"):
        asking.shares()
    store = b"".join(first.tags())
    with pytest.raises(psi.CountError, match="were expected"):
        asking.add_tags(store[:-1], last=True)
    for surplus in (b"\0\0", store):
        again = asked(own, next(iter(make_signers("run", [own[:3], own]))), 0)
        with pytest.raises(psi.CountError, match="were expected"):
            again.add_tags(store + surplus)
    with pytest.raises(psi.StateError, match="at least two"):
        common_positions([asking])
    other = asked(own, second, 1)
    other.add_tags(secrets.token_bytes(size_for(second.count)), last=True)  # a store of nothing
    whole = JointRequester(own, first.public_key(), 3, domain=psi.domain("run", "0"))
    with pytest.raises(psi.StateError):
        common_positions([whole, other])
    fewer = asked(own[:2], next(iter(make_signers("run", [own, own]))), 0)
    with pytest.raises(psi.StateError, match="same ids"):
        common_positions([other, fewer])
    with pytest.raises(psi.CountError, match="announced"):  # the store has left
        first.sign(bytes(POINT_BYTES))


def test_each_signer_learns_the_result_by_proofs() -> None:
    own = names(range(30))
    sets = [names(range(10, 40)), names(range(20, 50))[::-1]]
    signers = list(make_signers("run", sets))
    requesters = [asked(own, signer, number) for number, signer in enumerate(signers)]
    for signer, asking in zip(signers, requesters, strict=True):
        for chunk in signer.tags():
            asking.add_tags(chunk)
    common = common_positions(requesters)
    for signer, asking, ids in zip(signers, requesters, sets, strict=True):
        assert asking.intersection() == names(range(20, 30))
        for proofs in asking.proofs_at(common):
            signer.add_proofs(proofs)
        assert {ids[at] for at in signer.positions()} == set(names(range(20, 30)))
        with pytest.raises(psi.ProofError):
            signer.add_proofs(bytes(16))


def test_a_random_store_hides_every_match_and_makes_none() -> None:
    own = names(range(20))
    signers = list(make_signers("run", [own, own]))
    requesters = [asked(own, signer, number) for number, signer in enumerate(signers)]
    requesters[0].add_tags(b"".join(signers[0].tags()), last=True)
    requesters[1].add_tags(secrets.token_bytes(size_for(20)), last=True)
    assert list(common_positions(requesters)) == []


def test_pads_differ() -> None:
    pads = {pad_of(bytes([number]) * 16) for number in range(100)}
    assert len(pads) == 100
    assert max(pads) < 2**128


class Kept:
    """The parties of several runs of one task, which keep their state in a folder."""

    def __init__(self, folder: Path, sets: Sequence[list[str]]) -> None:
        self._folder, self._sets = folder, sets

    def run(
        self, *, again: bool = False, counted: int = 100
    ) -> tuple[list[bytes], list[list[int]]]:
        """Return the stores of a run, and what the requester's ids decode to."""
        shared = secrets.token_bytes(32)
        stores, decoded = [], []
        for number, ids in enumerate(self._sets[1:]):
            files: Any = {"peer": f"{number}", "task": "t"}
            budget = psi.Budget(self._folder / "signed", **files)
            kept = psi.KeptKey(self._folder / "signer", **files)
            run = psi.domain("t", f"{number}")
            shares = ZeroShares({"other": shared}, domain=b"t")
            resume = psi.Resume(self._folder / "requester", **files)
            tested = psi.Budget(self._folder / "tested", **files)
            with (
                JointSigner(ids, domain=run, shares=shares, budget=budget, kept=kept) as signer,
                JointRequester(
                    self._sets[0],
                    signer.public_key(),
                    signer.count,
                    domain=run,
                    resume=resume,
                    budget=tested,
                    max_peer_ids=counted,
                ) as asking,
            ):
                signer.begin(asking.count, asking.resumed)
                assert asking.complete or not again
                if again:
                    asking.repeat()
                    signer.repeat()
                for chunk in asking.blinded():
                    asking.unblind(signer.sign(chunk))
                store = b"".join(signer.tags())
                asking.add_tags(store, last=True)
                stores.append(store)
                decoded.append(asking.shares())
        return stores, decoded


def test_a_run_that_is_repeated_shows_nothing_more(tmp_path: Path) -> None:
    """The second signer lacks id-0, which the first has: a new store must not show that."""
    kept = Kept(tmp_path, [names(range(4)), names({0, 2, 3, 9}), names({1, 2, 3, 8})])
    first_stores, first = kept.run()
    same_stores, same = kept.run(again=True)
    assert (same_stores, same) == (first_stores, first)
    stores, fresh = kept.run()
    assert not set(stores) & set(first_stores)
    assert not {*fresh[0], *fresh[1]} & {*first[0], *first[1]}
    for one, other in (first, fresh):
        assert [a ^ b == 0 for a, b in zip(one, other, strict=True)] == [False, False, True, True]


def test_a_repeated_store_is_counted_once_and_another_one_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path, [names(range(4)), names(range(4)), names(range(4))])
    kept.run(counted=8)
    kept.run(again=True, counted=8)
    kept.run(counted=8)
    with pytest.raises(psi.LimitError):
        kept.run(counted=8)


def test_a_store_that_was_never_sent_is_not_repeated(tmp_path: Path) -> None:
    shares = ZeroShares({"other": secrets.token_bytes(32)}, domain=b"t")
    with JointSigner(["a"], domain=b"d", shares=shares) as signer:
        signer.begin(1)
        with pytest.raises(psi.ValueRefusedError, match="never sent"):
            signer.repeat()


def test_another_store_than_the_promised_one_is_refused(tmp_path: Path) -> None:
    kept = Kept(tmp_path, [names(range(4)), names(range(4)), names(range(4))])
    kept.run()
    for path in (tmp_path / "signer").glob("*.sent"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(psi.ValueRefusedError, match="other tags than before"):
        kept.run(again=True)
    for path in (tmp_path / "signer").glob("*.sent"):
        path.unlink()
    with pytest.raises(psi.FaultError, match="gone"):
        kept.run(again=True)

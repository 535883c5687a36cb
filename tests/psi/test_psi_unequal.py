"""A small set against a stored one: the same result, nothing without leave, nothing unchecked."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import psi
from benchmarks import psi_unequal as benchmark
from psi import Filter, FilterReceiver, SetAnswerer, SetAsker, StoredSet
from psi.storage.files import Draft
from psi.unequal.filter import Shape, chunks_of, write_filter
from psi.unequal.outputs import PART, check_of, name_of, own_outputs, public_of
from psi.unequal.wire import UNKNOWN, write_hello

DOMAIN = psi.domain("registry", "clinics")
MANY = [f"person {number}" for number in range(600)]
FEW = [f"person {number}" for number in range(590, 605)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry") / "set"
    StoredSet.create(folder, MANY, domain=DOMAIN, workers=1)
    return folder


@pytest.fixture
def stored(made: Path) -> StoredSet:
    found = StoredSet(made)
    found.allow("clinic", 10**6)
    return found


def shipped(stored: StoredSet, path: Path, **limits: float) -> Filter:
    with FilterReceiver(path, domain=DOMAIN, **limits) as receiver:  # type: ignore[arg-type]
        for chunk in stored.filter_chunks():
            receiver.add(chunk)
        return receiver.finish()


def asked(
    stored: StoredSet, peer_filter: Filter, ids: list[str], peer: str = "clinic"
) -> tuple[list[str], list[int]]:
    """A whole request: the common ids at the asker, and their positions at the owner."""
    asking = SetAsker(ids, peer_filter, domain=DOMAIN, workers=1, chunk_ids=8)
    with SetAnswerer(stored, peer=peer, workers=1) as owner, asking:
        owner.begin(asking.hello())
        for chunk in asking.blinded():
            asking.finalize(owner.evaluate(chunk))
        for proofs in asking.proofs():
            asking.confirm(owner.confirm(proofs))
        return asking.intersection(), list(owner.matched())


def test_both_learn_the_common_ids(stored: StoredSet, tmp_path: Path) -> None:
    peer_filter = shipped(stored, tmp_path / "filter")
    assert peer_filter.count == stored.count == len(MANY)
    assert asked(stored, peer_filter, FEW) == (FEW[:10], list(range(590, 600)))
    # The same again, from what is on disk at both parties.
    again = StoredSet(stored.filter_path.parents[1])
    assert asked(again, Filter(tmp_path / "filter"), FEW[::-1])[0] == FEW[9::-1]
    assert asked(again, peer_filter, ["nobody"]) == ([], [])


@pytest.mark.slow
def test_large_sets_pass_through_files(tmp_path: Path) -> None:
    steps: list[int] = []
    stored = StoredSet.create(
        tmp_path / "set", MANY, domain=DOMAIN, bucket_ids=50, progress=steps.append
    )
    stored.allow("clinic", 100)
    assert steps == [600]
    assert asked(stored, shipped(stored, tmp_path / "filter"), FEW)[0] == FEW[:10]


@settings(max_examples=20, deadline=None)
@given(
    st.sets(st.binary(min_size=PART, max_size=PART), max_size=40),
    st.sampled_from([1e-2, 1e-4, 1e-7, 1e-9]),
)
def test_a_filter_has_all_its_tags_and_few_others(tags: set[bytes], rate: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path, public = Path(folder) / "filter", public_of(b"\x01" + bytes(31))
        shape = Shape.of(len(tags), rate)
        assert shape.rate <= rate
        write_filter(path, shape, public, check_of(public, DOMAIN), sorted(tags))
        found = Filter(path)
        found.check_all()
        assert path.stat().st_size == shape.size
        assert all(tag in found for tag in tags)
        others = {sha256(bytes([number])).digest()[:PART] for number in range(200)} - tags
        assert sum(tag in found for tag in others) <= 200 * rate + 8
        assert "text" not in found
        found.close()


def test_a_coarse_filter_hits_as_often_as_it_says(tmp_path: Path) -> None:
    public = public_of(b"\x01" + bytes(31))
    tags = sorted(sha256(b"in %d" % number).digest()[:PART] for number in range(20_000))
    shape = Shape.of(len(tags), 0.01)
    write_filter(tmp_path / "filter", shape, public, check_of(public, DOMAIN), tags)
    found = Filter(tmp_path / "filter")
    hits = sum(sha256(b"out %d" % number).digest()[:PART] in found for number in range(20_000))
    expected = shape.rate * 20_000
    assert abs(hits - expected) < 6 * expected**0.5
    with pytest.raises(ValueError, match="at least"):
        Shape.of(10, 1e-12)
    with pytest.raises(ValueError, match="between"):
        Shape.of(10, 0)


def test_hits_that_are_none_are_not_confirmed(stored: StoredSet, tmp_path: Path) -> None:
    """A filter whose owner holds other ids: all of its hits come back unconfirmed."""
    with SetAnswerer(stored, peer="clinic") as owner:
        few = FEW[10:]
        asking = SetAsker(few, shipped(stored, tmp_path / "filter"), domain=DOMAIN)
        owner.begin(asking.hello())
        for chunk in asking.blinded():
            asking.finalize(owner.evaluate(chunk))
        assert asking.candidates() == []
        assert list(asking.proofs()) == []
        assert asking.intersection() == []
        proof = bytes(PART)
        assert owner.confirm(proof) == UNKNOWN
        with pytest.raises(psi.ProofError, match="twice"):
            owner.confirm(proof)
        with pytest.raises(psi.ProofError, match="more matches"):
            owner.confirm(b"".join(bytes([number]) * PART for number in range(1, 6)))
        for bad in (b"", b"short", bytes(PART) * 5000):
            with pytest.raises(psi.ProofError):
                owner.confirm(bad)


def test_nobody_may_ask_by_default(made: Path) -> None:
    stored = StoredSet(made)
    with pytest.raises(psi.NotAllowedError, match=r"StoredSet\.allow"):
        SetAnswerer(stored, peer="stranger")
    stored.allow("guest", 5)
    SetAnswerer(StoredSet(made), peer="guest").close()
    stored.allow("guest", 0)
    with pytest.raises(psi.NotAllowedError):
        SetAnswerer(StoredSet(made), peer="guest")
    with pytest.raises(ValueError, match="negative"):
        stored.allow("guest", -1)


def test_values_count_over_all_requests_and_before_they_are_evaluated(
    stored: StoredSet, tmp_path: Path
) -> None:
    stored.allow("small", 20)
    peer_filter = shipped(stored, tmp_path / "filter")
    assert asked(stored, peer_filter, FEW, "small")[0] == FEW[:10]
    assert stored.budget("small").spent() == 15
    with pytest.raises(psi.LimitError, match="15 of the 20"):
        asked(stored, peer_filter, FEW[:6], "small")
    with SetAnswerer(stored, peer="small") as owner, pytest.raises(psi.LimitError):
        owner.begin(write_hello(stored.name, 21))
    with SetAnswerer(stored, peer="small") as owner:
        owner.begin(write_hello(stored.name, 5))
        asking = SetAsker(FEW[:2], peer_filter, domain=DOMAIN)
        (chunk,) = asking.blinded()
        stored.budget("small").spend(4, 20)  # by another request, meanwhile
        with pytest.raises(psi.LimitError):
            owner.evaluate(chunk)
    assert stored.budget("small").spent() == 19
    assert asked(stored, peer_filter, FEW[:1], "small")[0] == FEW[:1]


def test_a_replaced_set_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    first = StoredSet.create(folder, MANY[:30], domain=DOMAIN, workers=1)
    first.allow("clinic", 100)
    old, old_name = shipped(first, tmp_path / "old"), first.name
    second = StoredSet.create(folder, MANY[:31], domain=DOMAIN, workers=1)
    assert second.replaced == [old_name]
    assert [each.name for each in folder.iterdir() if each.is_dir()] == [second.name]
    with pytest.raises(psi.StaleSetError, match=f"{old_name} was replaced by {second.name}"):
        asked(second, old, FEW)
    with (
        SetAnswerer(second, peer="clinic") as owner,
        pytest.raises(psi.StaleSetError, match="there is no set 00"),
    ):
        owner.begin(write_hello("00" * 8, 1))
    # No tag of one key is a tag of another, so the two filters do not show what was added.
    new = shipped(second, tmp_path / "new")
    first_bytes, second_bytes = old.path.read_bytes(), new.path.read_bytes()
    assert first_bytes[-32 - 30 * 4 : -32] != second_bytes[-32 - 31 * 4 : -32 - 4]
    assert asked(second, new, MANY[28:33])[0] == MANY[28:31]


def test_another_key_is_noticed(stored: StoredSet, tmp_path: Path) -> None:
    peer_filter = shipped(stored, tmp_path / "filter")
    other = StoredSet.create(tmp_path / "other", MANY[:5], domain=DOMAIN, workers=1)
    asking = SetAsker(FEW, peer_filter, domain=DOMAIN)
    other.allow("clinic", 100)
    with SetAnswerer(other, peer="clinic") as owner:
        owner.begin(write_hello(other.name, len(FEW)))
        (chunk,) = asking.blinded()
        answer = owner.evaluate(chunk)
    with pytest.raises(psi.SignatureError, match="proof"):
        asking.finalize(answer)


def test_hostile_values_are_refused_before_they_count(stored: StoredSet, tmp_path: Path) -> None:
    stored.allow("hostile", 50)
    asking = SetAsker(FEW, shipped(stored, tmp_path / "filter"), domain=DOMAIN)
    (chunk,) = asking.blinded()
    for bad in (b"", chunk[:-1], chunk[:32] * 2, bytes(32) * 5000):
        with SetAnswerer(stored, peer="hostile") as owner:
            owner.begin(asking.hello())
            with pytest.raises(psi.ValueRefusedError):
                owner.evaluate(bad)
    assert stored.budget("hostile").spent() == 0
    with SetAnswerer(stored, peer="hostile") as owner:
        for hello in (b"", b"x" * 16, asking.hello()[:-1], asking.hello() + b"\0"):
            with pytest.raises(psi.CountError):
                owner.begin(hello)
        owner.begin(write_hello(stored.name, 20))
        owner.evaluate(chunk)
        with pytest.raises(psi.ValueRefusedError, match="twice"):
            owner.evaluate(chunk[:32])
        more = SetAsker(MANY[:6], shipped(stored, tmp_path / "again"), domain=DOMAIN).blinded()
        with pytest.raises(psi.CountError, match="more values"):
            owner.evaluate(next(more))
        with pytest.raises(psi.ValueRefusedError, match="no element"):
            owner.evaluate(b"\xff" * 32)


def test_hostile_answers_are_refused(stored: StoredSet, tmp_path: Path) -> None:
    peer_filter = shipped(stored, tmp_path / "filter")
    for spoil in (lambda answer: answer[:-1], lambda answer: answer + b"\0", lambda answer: b""):
        asking = SetAsker(FEW, peer_filter, domain=DOMAIN)
        with SetAnswerer(stored, peer="clinic") as owner:
            owner.begin(asking.hello())
            (chunk,) = asking.blinded()
            with pytest.raises(psi.CountError):
                asking.finalize(spoil(owner.evaluate(chunk)))

    def with_hits() -> SetAsker:
        asking = SetAsker(FEW, peer_filter, domain=DOMAIN)
        with SetAnswerer(stored, peer="clinic") as owner:
            owner.begin(asking.hello())
            for chunk in asking.blinded():
                asking.finalize(owner.evaluate(chunk))
        return asking

    asking = with_hits()
    assert asking.candidates() == FEW[:10]
    (proofs,) = asking.proofs()
    with pytest.raises(psi.StateError):
        asking.intersection()
    with pytest.raises(psi.ProofError, match="bytes"):
        asking.confirm(proofs[:-1])
    asking = with_hits()
    (proofs,) = asking.proofs()
    with pytest.raises(psi.ProofError, match="does not prove"):
        asking.confirm(proofs)  # what was asked is no answer
    asking = with_hits()
    (proofs,) = asking.proofs()
    with pytest.raises(psi.ProofError, match="10 hits"):
        asking.confirm(bytes(len(proofs)))


def spoiled(good: bytes, at: int, new: bytes) -> bytes:
    """The bytes with some replaced, under a digest that fits."""
    body = good[:at] + new + good[at + len(new) : -32]
    return body + sha256(body).digest()


def test_a_hostile_filter_is_refused(stored: StoredSet, tmp_path: Path) -> None:
    good = stored.filter_path.read_bytes()
    directory, suffixes = 62, len(good) - 32 - 4 * len(MANY)
    low = max(good[suffixes : suffixes + 8], b"\xff" * 8)
    hostile = {
        "magic": b"XXXX" + good[4:],
        "suffix": spoiled(good, 4, b"\x01"),
        "wide": spoiled(good, 4, b"\x09"),
        "bits": spoiled(good, 5, b"\x28"),
        "buckets": spoiled(good, 5, b"\x08"),
        "count": spoiled(good, 6, (2**40).to_bytes(8, "big")),
        "less": spoiled(good, 6, (599).to_bytes(8, "big")),
        "key": spoiled(good, 14, b"\xff" * 32),
        "identity": spoiled(good, 14, bytes(32)),
        "domain": spoiled(good, 46, bytes(16)),
        "first": spoiled(good, directory, (1).to_bytes(8, "big")),
        "order": spoiled(good, directory + 8, (2**63).to_bytes(8, "big")),
        "unsorted": spoiled(good, suffixes, low),
        "digest": good[:-1] + bytes([good[-1] ^ 1]),
        "short": good[:-1],
        "long": good + b"\0",
        "empty": b"",
    }
    for what, sent in hostile.items():
        path = tmp_path / what
        receiver = FilterReceiver(path, domain=DOMAIN)
        with pytest.raises(psi.FilterRefusedError), receiver:
            for at in range(0, max(len(sent), 1), 100):
                receiver.add(sent[at : at + 100])
            receiver.finish()
        assert list(tmp_path.iterdir()) == [], what


def test_a_filter_has_as_many_buckets_as_its_ids_need(tmp_path: Path) -> None:
    public = public_of(b"\x01" + bytes(31))
    tags = sorted(sha256(b"in %d" % number).digest()[:PART] for number in range(600))
    write_filter(tmp_path / "made", Shape(600, 1, 4), public, check_of(public, DOMAIN), tags)
    with (
        FilterReceiver(tmp_path / "filter", domain=DOMAIN) as receiver,
        pytest.raises(psi.FilterRefusedError, match="fewer buckets"),
    ):
        receiver.add((tmp_path / "made").read_bytes())


def test_a_filter_with_all_tags_in_one_bucket_takes_no_memory(tmp_path: Path) -> None:
    """Each tag of a bucket becomes an object, so that one bucket of all would cost ten times it."""
    count, public = 1_000_000, public_of(b"\x01" + bytes(31))
    shape = Shape.of(count, 1e-7)
    path = tmp_path / "made"
    write_filter(path, shape, public, check_of(public, DOMAIN), [bytes(PART)] * count)
    with FilterReceiver(tmp_path / "filter", domain=DOMAIN) as receiver:
        for chunk in chunks_of(path):
            receiver.add(chunk)
        tracemalloc.start()
        try:
            with pytest.raises(psi.FilterRefusedError, match="more tags than its share"):
                receiver.finish()
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def test_limits_of_a_filter(stored: StoredSet, tmp_path: Path) -> None:
    with pytest.raises(psi.FilterRefusedError, match="600 ids; allowed: 599"):
        shipped(stored, tmp_path / "filter", max_peer_ids=599)
    with pytest.raises(psi.FilterRefusedError, match="hits"):
        shipped(stored, tmp_path / "filter", max_false_positive_rate=1e-9)
    good = shipped(stored, tmp_path / "filter")
    with pytest.raises(psi.FilterRefusedError, match="another domain"):
        SetAsker(FEW, good, domain=b"other")


def test_damaged_stores(stored: StoredSet, tmp_path: Path) -> None:
    with pytest.raises(psi.StoreError, match=r"StoredSet\.create"):
        StoredSet(tmp_path)
    folder = tmp_path / "set"
    mine = StoredSet.create(folder, MANY[:5], domain=DOMAIN, workers=1)
    mine.allow("clinic", 9)
    inside = folder / mine.name
    for name in ("key", "table"):
        kept = (inside / name).read_bytes()
        for content in (None, b"", kept[:-1], b"\x05" + kept[1:]):
            (inside / name).unlink(missing_ok=True)
            if content is not None:
                (inside / name).write_bytes(content)
            with pytest.raises(psi.StoreError):
                SetAnswerer(mine, peer="clinic")
        (inside / name).write_bytes(kept)
    for state in (
        "{",
        "[]",
        '{"name": "a"}',
        '{"name": "a", "count": 1, "check": "", "version": 9}',
    ):
        (folder / "set.json").write_text(state)
        with pytest.raises(psi.StoreError, match="again"):
            StoredSet(folder)


def test_an_interrupted_replacement_leaves_the_former_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    stored = StoredSet.create(folder, MANY[:5], domain=DOMAIN, workers=1)
    stored.allow("clinic", 100)

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StoredSet.create(folder, MANY, domain=DOMAIN, workers=1, progress=stop)
    assert StoredSet(folder).count == 5
    assert asked(stored, shipped(stored, tmp_path / "filter"), MANY[4:6])[0] == MANY[4:5]
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_ids_that_are_too_long_or_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psi.unequal.compute._BLOCK", 1)
    with pytest.raises(psi.IdsError, match="position"):
        StoredSet.create(tmp_path / "set", ["a", "b" * 70_000], domain=DOMAIN, workers=1)
    with pytest.raises(psi.IdsError, match="repeated"):
        StoredSet.create(tmp_path / "set", ["a", "a"], domain=DOMAIN, workers=1)
    # They are corrected, so there is nothing to go on from.
    assert StoredSet.create(tmp_path / "set", ["a", "b"], domain=DOMAIN, workers=1).count == 2


# A process that creates the set of `MANY` and is killed at a call of a step.
KILLED = """
import os, pkgutil, signal, sys
from unittest import mock

import psi

folder, step, call = sys.argv[1:]
real, calls = pkgutil.resolve_name(step), 0

def stop(*given, **named):
    global calls
    calls += 1
    if calls == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **named)

many = [f"person {number}" for number in range(600)]
with mock.patch("psi.unequal.compute._BLOCK", 100), mock.patch(step, new=stop):
    psi.StoredSet.create(
        folder, many, domain=psi.domain("registry", "clinics"), workers=1, bucket_ids=90
    )
"""


def kill(folder: Path, step: str, call: int) -> None:
    command = [sys.executable, "-c", KILLED, str(folder), step, str(call)]
    ended = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def contents(stored: StoredSet) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in stored.filter_path.parent.iterdir()}


@pytest.mark.parametrize(
    ("step", "call", "left"),
    [
        ("psi.storage.journal.Journal.append", 3, 500),
        ("psi.unequal.compute.write_table", 1, 0),
        ("psi.unequal.unfinished.Unfinished.discard", 1, 0),  # the set is already the current one
        *(
            pytest.param(*point, marks=pytest.mark.long)
            for point in (
                ("psi.storage.journal.Journal.append", 1, 600),  # before the key is on disk
                ("psi.storage.journal.Journal.append", 7, 100),
                ("psi.storage.files.Draft.overwrite", 1, 0),  # within the filter
                ("psi.unequal.store._write_state", 1, 0),
                ("psi.unequal.store._remove_sets", 2, 0),
            )
        ),
    ],
)
def test_a_killed_creation_goes_on_with_the_same_key(
    step: str, call: int, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    former = StoredSet.create(folder, MANY[:5], domain=DOMAIN, workers=1)
    former.allow("clinic", 100)
    name = former.name
    kill(folder, step, call)
    computed: list[int] = []

    def counted(key: bytes, domain: bytes, ids: list[str], first: int) -> bytes:
        computed.append(len(ids))
        return own_outputs(key, domain, ids, first)

    monkeypatch.setattr("psi.unequal.compute.own_outputs", counted)
    stored = StoredSet.create(folder, MANY, domain=DOMAIN, workers=1)
    assert sum(computed) == left
    assert (stored.count, stored.limits) == (600, {"clinic": 100})
    assert stored.replaced == [name]
    # An uninterrupted creation with this key gives the same bytes.
    monkeypatch.setattr("psi.unequal.unfinished.make_key", stored.key)
    whole = StoredSet.create(tmp_path / "whole", MANY, domain=DOMAIN, workers=1)
    assert contents(stored) == contents(whole)
    assert sorted(each.name for each in folder.iterdir()) == [stored.name, "set.json", "set.lock"]
    # Nothing is left to go on from, so the next set has a key of its own.
    monkeypatch.undo()
    name = stored.name
    assert StoredSet.create(folder, MANY[:5], domain=DOMAIN, workers=1).name != name


def test_a_creation_goes_on_only_with_the_same_ids(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    kill(folder, "psi.storage.journal.Journal.append", 4)
    others: list[tuple[list[str], bytes]] = [
        (MANY[:-1], DOMAIN),
        (MANY[::-1], DOMAIN),
        (MANY, psi.domain("another", "clinics")),
    ]
    for ids, domain in others:
        with pytest.raises(psi.ChangedIdsError, match="fresh=True"):
            StoredSet.create(folder, ids, domain=domain, workers=1)
    with pytest.raises(psi.StoreError, match="there is no stored set"):
        StoredSet(folder)
    stored = StoredSet.create(folder, MANY[:-1], domain=DOMAIN, workers=1, fresh=True)
    assert stored.count == 599


def test_a_full_disk_leaves_what_was_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills up within the outputs, and then within the table."""
    folder, real, full = tmp_path / "set", os.write, errno.ENOSPC

    def scarce(file: int, data: bytes) -> int:
        if os.fstat(file).st_size + len(data) > 20_000:
            real(file, data[:100])
            raise OSError(full, os.strerror(full))
        return real(file, data)

    monkeypatch.setattr("psi.unequal.compute._BLOCK", 100)
    monkeypatch.setattr("psi.storage.journal.os.write", scarce)
    with pytest.raises(OSError, match=r"No space left.*\.psi"):
        StoredSet.create(folder, MANY, domain=DOMAIN, workers=1)
    monkeypatch.setattr("psi.storage.journal.os.write", real)
    steps: list[int] = []

    def no_room(self: Draft, content: bytes) -> None:
        raise OSError(full, os.strerror(full), str(self.path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Draft, "write", no_room)
        StoredSet.create(folder, MANY, domain=DOMAIN, workers=1, progress=steps.append)
    assert steps == [100, 200, 300, 400, 500, 600]
    with pytest.raises(psi.StoreError, match="there is no stored set"):
        StoredSet(folder)
    stored = StoredSet.create(folder, MANY, domain=DOMAIN, workers=1)
    stored.allow("clinic", 100)
    assert asked(stored, shipped(stored, tmp_path / "filter"), FEW)[0] == FEW[:10]


def test_two_creations_at_once(tmp_path: Path) -> None:
    """The second one is refused, and the owner can change limits meanwhile."""
    folder = tmp_path / "set"
    stored = StoredSet.create(folder, MANY[:5], domain=DOMAIN, workers=1)

    def meanwhile(done: int) -> None:
        stored.allow("clinic", 7)
        with pytest.raises(psi.StoreError, match="another process"):
            StoredSet.create(folder, MANY, domain=DOMAIN, workers=1)

    again = StoredSet.create(folder, MANY[:6], domain=DOMAIN, workers=1, progress=meanwhile)
    assert again.limits == {"clinic": 7}


@pytest.mark.slow
def test_an_executor_computes_the_set_and_wrong_outputs_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(2) as executor:
        stored = StoredSet.create(tmp_path / "set", MANY, domain=DOMAIN, executor=executor)
        stored.allow("clinic", 100)
        assert asked(stored, shipped(stored, tmp_path / "filter"), FEW)[0] == FEW[:10]
        monkeypatch.setattr("psi.unequal.compute.outputs_of", wrong_outputs)
        with pytest.raises(psi.PSIError):
            StoredSet.create(tmp_path / "set", MANY, domain=DOMAIN, executor=executor)
    assert StoredSet(tmp_path / "set").name == stored.name


def wrong_outputs(key: bytes, domain: bytes, ids: bytes, first: bytes) -> bytes:
    return bytes(3 * PART * int.from_bytes(ids[:8], "little"))


def test_calls_out_of_order(stored: StoredSet, tmp_path: Path) -> None:
    asking = SetAsker(FEW, shipped(stored, tmp_path / "filter"), domain=DOMAIN)
    owner = SetAnswerer(stored, peer="clinic")
    with pytest.raises(ValueError, match="chunk_ids"):
        SetAsker(FEW, Filter(tmp_path / "filter"), domain=DOMAIN, chunk_ids=0)
    for early in (
        lambda: owner.evaluate(bytes(32)),
        lambda: owner.confirm(bytes(PART)),
        lambda: asking.finalize(b""),
        lambda: asking.confirm(b""),
        asking.candidates,
        asking.intersection,
        lambda: list(asking.proofs()),
    ):
        with pytest.raises(psi.StateError):
            early()
    owner.begin(asking.hello())
    with pytest.raises(psi.StateError):
        owner.begin(asking.hello())
    owner.close()
    owner.close()
    with pytest.raises(psi.StateError, match="closed"):
        owner.begin(asking.hello())


def test_names_of_sets_depend_on_the_key() -> None:
    names = {name_of(public_of(bytes([number]) + bytes(31))) for number in range(1, 20)}
    assert len(names) == 19
    assert {len(name) for name in names} == {16}


@pytest.mark.slow
def test_the_benchmark_measures_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["psi_unequal", "--small=30", "--large=500", "--json", f"--folder={tmp_path}"]
    monkeypatch.setattr(sys, "argv", sizes)
    benchmark.main()
    first = json.loads(capsys.readouterr().out)
    assert first["intersection"] == 15
    assert first["setup_s"] > 0
    assert first["bytes"]["filter"] == Shape.of(500, 1e-7).size
    benchmark.main()  # the set and its filter are there
    again = json.loads(capsys.readouterr().out)
    assert (again["setup_s"], again["ship_s"], again["intersection"]) == (None, None, 15)
    assert again["bytes"] == first["bytes"]


@pytest.mark.long
def test_the_benchmark_measures_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["psi_unequal", "--small=30", "--large=500", "--json", "--link", f"--folder={tmp_path}"]
    monkeypatch.setattr(sys, "argv", sizes)
    benchmark.main()
    first = json.loads(capsys.readouterr().out)
    assert first["intersection"] == 15
    assert first["link_setup_s"] > 0
    received = [first["link_bytes"][name]["received"] for name in ("first", "again")]
    assert received[0] - received[1] > Shape.of(500, 1e-7).size
    benchmark.main()  # the set is there, and lets itself be asked again
    again = json.loads(capsys.readouterr().out)
    assert (again["link_setup_s"], again["intersection"]) == (None, 15)

"""A signer whose key is kept: after a restart in the same run; if asked for, in later runs."""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from psi import (
    Budget,
    BudgetError,
    CountError,
    ExecutorError,
    KeptKey,
    LimitError,
    Resume,
    StateError,
    domain,
    requester,
)
from psi import signer as signer_of
from psi.signing import RESIGN_VALUES
from psi.storage.journal import Journal
from tests.psi import helpers

RUN = helpers.RUN
IDS = [f"id-{i}" for i in range(200)]
PROTOCOLS = pytest.mark.parametrize("protocol", ["rsa", "ecdh"])


def signer(protocol: Any, folder: Path, **settings: Any) -> Any:
    """A signer with a key of its own, which counts as the one who was there before, if any was."""
    chosen: dict[str, Any] = {
        "ids": IDS[100:],
        "domain": RUN,
        "budget": Budget(folder, peer="bank", task="t"),
        "kept": KeptKey(folder, peer="bank", task="t", reuse=settings.pop("reuse", False)),
        "workers": 1,
    }
    return signer_of(protocol, **(chosen | settings))


def asker(protocol: Any, of: Any, ids: list[str] = IDS, **settings: Any) -> Any:
    return requester(
        protocol, ids, of.public_key(), of.count, domain=RUN, workers=1, chunk_ids=50, **settings
    )


def resume(folder: Path) -> Resume:
    return Resume(folder, peer="shop", task="t")


def whole_run(asking: Any, signing: Any) -> list[bytes]:
    """An honest run from where it stands; gives the tags."""
    signing.begin(asking.count, asking.resumed)
    for chunk in asking.blinded():
        asking.unblind(signing.sign(chunk))
    tags = list(signing.tags())
    for chunk in tags:
        asking.add_tags(chunk)
    assert asking.intersection() == IDS[100:]
    proofs = b"".join(asking.proofs(IDS[100:]))
    assert signing.matched(proofs, last=True) == IDS[100:]
    return tags


def cut_tags(chunks: list[bytes]) -> list[bytes]:
    return [each[at : at + 16] for each in chunks for at in range(0, len(each), 16)]


def kept_file(folder: Path) -> Path:
    (path,) = folder.glob("*.psi")
    return path


# -- the same run, interrupted ---------------------------------------------------------------


@pytest.mark.slow
@PROTOCOLS
def test_both_parties_are_killed_and_continue(protocol: str, tmp_path: Path) -> None:
    here, there = tmp_path / "signer", tmp_path / "requester"
    signing = signer(protocol, here)
    asking = asker(protocol, signing, resume=resume(there))
    blob = signing.public_key()
    signing.begin(asking.count)
    chunks = asking.blinded()
    asking.unblind(signing.sign(next(chunks)))
    signing.sign(next(chunks))  # signed, and lost with the processes
    signing._own.wait()
    del signing, asking, chunks
    gc.collect()  # closes their files, as the end of a process does

    again = signer(protocol, here)
    assert again.public_key() == blob
    assert again.progress() == again.count  # the own tags were kept too
    then = asker(protocol, again, resume=resume(there))
    assert then.resumed == 50
    whole_run(then, again)
    assert again._budget.spent() == 200  # what was lost came again as it was


@pytest.mark.slow
@PROTOCOLS
def test_own_tags_that_a_crash_took_are_made_again(protocol: str, tmp_path: Path) -> None:
    with signer(protocol, tmp_path) as signing:
        signing._own.wait()
    path = kept_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])  # a torn frame: one slice of 64
    with signer(protocol, tmp_path) as again:
        assert 0 < again.progress() < again.count
        whole_run(asker(protocol, again), again)


def test_another_run_or_other_ids_get_another_key(tmp_path: Path) -> None:
    with signer("ecdh", tmp_path) as signing:
        blob, old = signing.public_key(), kept_file(tmp_path).read_bytes()
    for changed in (
        {"domain": domain("t", "other")},
        {"ids": IDS[101:]},
        {"ids": IDS[100:][::-1]},
    ):
        kept_file(tmp_path).write_bytes(old)
        with signer("ecdh", tmp_path, **changed) as other:
            assert other.public_key()[4:36] != blob[4:36]
            assert other.progress() == 0
        assert old[50:100] not in kept_file(tmp_path).read_bytes()  # the key is gone from disk


def test_the_key_on_disk_is_private_and_goes(tmp_path: Path) -> None:
    kept = KeptKey(tmp_path / "new", peer="bank", task="t")
    with signer("ecdh", tmp_path, kept=kept) as signing:
        blob = signing.public_key()
    path = kept_file(tmp_path / "new")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o640)  # now others may have read it
    kept = KeptKey(tmp_path / "new", peer="bank", task="t")
    with signer("ecdh", tmp_path, kept=kept) as other:
        assert other.public_key() != blob
    assert path.stat().st_mode & 0o777 == 0o600
    kept.discard()
    assert not list((tmp_path / "new").iterdir())


def test_nothing_is_signed_after_the_tags_left_even_by_a_restarted_signer(tmp_path: Path) -> None:
    signing = signer("ecdh", tmp_path)
    asking = asker("ecdh", signing, resume=resume(tmp_path / "r"))
    tags = whole_run(asking, signing)
    asking.close()
    signing.close()

    restarted = signer("ecdh", tmp_path)
    restarted.begin(201, 200)  # one more guess
    (point,) = asker("ecdh", restarted, ["guess"]).blinded()
    with pytest.raises(BudgetError, match="tags have left"):
        restarted.sign(point)
    restarted.close()

    honest = signer("ecdh", tmp_path)
    then = asker("ecdh", honest, resume=resume(tmp_path / "r"))
    assert then.resumed == 200
    assert whole_run(then, honest) == tags


def test_a_restarted_signer_signs_again_only_so_much(tmp_path: Path) -> None:
    budget = Budget(tmp_path, peer="bank", task="t")
    with signer("ecdh", tmp_path) as signing:
        signing.begin(50_000)
    budget.spend(20_000, 10**6)  # as if so many had been signed and the process killed
    for count, done in ((50_000, 20_001), (50_000, -1), (0, 1)):
        with signer("ecdh", tmp_path) as again, pytest.raises(CountError):
            again.begin(count, done)
    with signer("ecdh", tmp_path) as again, pytest.raises(BudgetError, match="sign again"):
        again.begin(50_000, 20_000 - RESIGN_VALUES - 1)
    with signer("ecdh", tmp_path) as again:
        again.begin(50_000, 20_000 - RESIGN_VALUES)


def test_what_is_done_needs_no_budget_again(tmp_path: Path) -> None:
    limit = {"max_peer_ids": 250}
    signing = signer("ecdh", tmp_path, **limit)
    asking = asker("ecdh", signing, resume=resume(tmp_path / "r"))
    signing.begin(asking.count)
    chunks = asking.blinded()
    for _ in range(3):
        asking.unblind(signing.sign(next(chunks)))
    asking.close()
    signing.close()
    with signer("ecdh", tmp_path, **limit) as other:  # who has lost its file asks other values
        other.begin(200)
        chunks = asker("ecdh", other).blinded()
        other.sign(next(chunks))
        other.sign(next(chunks))
        with pytest.raises(LimitError, match="250 of the 250"):
            other.sign(next(chunks))
    Budget(tmp_path, peer="bank", task="t")._write(150)
    again = signer("ecdh", tmp_path, **limit)
    whole_run(asker("ecdh", again, resume=resume(tmp_path / "r")), again)
    assert again._budget.spent() == 200


# -- across runs -----------------------------------------------------------------------------


@PROTOCOLS
def test_reuse_saves_the_signers_own_half(protocol: str, tmp_path: Path) -> None:
    with signer(protocol, tmp_path, reuse=True) as signing:
        first = whole_run(asker(protocol, signing), signing)
    with signer(protocol, tmp_path, reuse=True) as signing:
        assert signing.progress() == signing.count
        signing._pairs_of = None  # would be called for any own id
        assert whole_run(asker(protocol, signing), signing) == first  # the leak, as documented
        assert signing._budget.spent() == 400


def test_without_reuse_nothing_links_two_runs(tmp_path: Path) -> None:
    seen: list[bytes] = []
    for run in ("1", "2"):
        kept = KeptKey(tmp_path, peer="bank", task="t")
        same = {"domain": domain("t", run), "workers": 1}
        budget = Budget(tmp_path, peer="bank", task="t")
        with signer_of("ecdh", IDS, kept=kept, budget=budget, **same) as signing:
            signing.begin(0)
            seen += [signing.public_key(), *signing.tags()]
    cells = {each[at : at + 16] for each in seen for at in range(0, len(each), 16)}
    assert len(cells) == 2 * len(IDS) + 2 * 4  # nothing came twice


def test_reuse_is_for_one_peer(tmp_path: Path) -> None:
    blobs = set()
    for peer, task in (("bank", "t"), ("shop", "t"), ("bank", "u")):
        kept = KeptKey(tmp_path, peer=peer, task=task, reuse=True)
        with signer("ecdh", tmp_path, kept=kept) as signing:
            blobs.add(signing.public_key())
    assert len(blobs) == 3


def test_reuse_ends_when_own_ids_change(tmp_path: Path) -> None:
    with signer("ecdh", tmp_path, reuse=True) as signing:
        tags = whole_run(asker("ecdh", signing), signing)
    with signer("ecdh", tmp_path, reuse=True, ids=[*IDS[100:], "one more"]) as other:
        other.begin(0)
        assert not set(cut_tags(tags)) & set(cut_tags(list(other.tags())))


def test_reuse_counts_every_run_against_the_budget(tmp_path: Path) -> None:
    for _ in range(2):
        with signer("ecdh", tmp_path, reuse=True, max_peer_ids=450) as signing:
            whole_run(asker("ecdh", signing), signing)
    with (
        signer("ecdh", tmp_path, reuse=True, max_peer_ids=450) as signing,
        pytest.raises(BudgetError, match="400 of the 450"),
    ):
        signing.begin(200)


def test_a_reused_key_and_an_interrupted_requester(tmp_path: Path) -> None:
    signing = signer("ecdh", tmp_path, reuse=True)
    asking = asker("ecdh", signing, resume=resume(tmp_path / "r"))
    signing.begin(asking.count)
    asking.unblind(signing.sign(next(asking.blinded())))
    asking.close()
    signing.close()
    with signer("ecdh", tmp_path, reuse=True) as again:
        then = asker("ecdh", again, resume=resume(tmp_path / "r"))
        assert then.resumed == 50
        whole_run(then, again)


def test_a_kept_key_needs_a_budget_and_one_signer_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a budget"):
        signer("ecdh", tmp_path, budget=None)
    with signer("ecdh", tmp_path) as signing:
        with pytest.raises(StateError, match="another run"):
            signer("ecdh", tmp_path)
        assert signing.public_key()


# -- the file -----------------------------------------------------------------------------------


def test_threads_append_to_one_file(tmp_path: Path) -> None:
    """Own tags come from several threads while the main one writes counts."""
    journal, threads, each = Journal(tmp_path, "key", peer="p", task="t"), 8, 200
    assert not list(journal.open([b"bound"]))
    ready = threading.Barrier(threads)

    def append(name: int) -> None:
        ready.wait(60)
        for number in range(each):
            journal.append(b"%d %d %s" % (name, number, bytes(1000)), sync=False)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(append, range(threads)))
    finally:
        sys.setswitchinterval(before)
    journal.close()
    again = list(Journal(tmp_path, "key", peer="p", task="t").open([b"bound"]))
    assert len({*again}) == len(again) == threads * each


def test_a_full_disk_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path, "key", peer="p", task="t")
    assert not list(journal.open([]))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        journal.append(b"frame")
    assert caught.value.filename == str(journal.path)


class Dying(Executor):
    """Computes some chunks, and then takes no more."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if not self.left:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.left -= 1
        future: Future[Any] = Future()
        future.set_result(work(*args, **kwargs))
        return future


@PROTOCOLS
def test_a_requester_goes_on_after_its_executor_died(protocol: str, tmp_path: Path) -> None:
    with signer(protocol, tmp_path) as signing:
        first = asker(protocol, signing, resume=resume(tmp_path), executor=Dying(5))
        signing.begin(200)
        with pytest.raises(ExecutorError, match="takes no more work"):
            for chunk in first.blinded():
                first.unblind(signing.sign(chunk))  # the third answer finds nobody
        first.close()
        second = asker(protocol, signing, resume=resume(tmp_path))
        assert second.resumed == 100
        signing.resume(second.resumed)
        for chunk in second.blinded():
            second.unblind(signing.sign(chunk))
        for tags in signing.tags():
            second.add_tags(tags)
        assert second.intersection() == IDS[100:]
    assert Budget(tmp_path, peer="bank", task="t").spent() == 200


@PROTOCOLS
def test_a_signer_goes_on_after_its_executor_died(protocol: str, tmp_path: Path) -> None:
    proof = 1 if protocol == "rsa" else 0  # of the key
    first = signer(protocol, tmp_path, executor=Dying(2 + proof), key_leaves=True)
    asking = asker(protocol, first)
    first.begin(200)
    chunks = list(asking.blinded())
    for chunk in chunks[:2]:
        asking.unblind(first.sign(chunk))
    with pytest.raises(ExecutorError, match="takes no more work"):
        first.sign(chunks[2])
    first.close()
    with signer(protocol, tmp_path) as second:
        assert second.kept
        second.begin(200, 100)
        for chunk in chunks[2:]:
            asking.unblind(second.sign(chunk))
        for tags in second.tags():
            asking.add_tags(tags)
        assert asking.intersection() == IDS[100:]
    assert Budget(tmp_path, peer="bank", task="t").spent() == 200

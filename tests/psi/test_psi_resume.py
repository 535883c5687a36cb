"""An interrupted requester continues where it was, and a signer allows that only so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from psi import Budget, BudgetError, CountError, Resume, StateError
from psi.signing import RESIGN_VALUES
from tests.psi import ecdh_helpers as ecdh
from tests.psi import helpers as rsa

IDS = [str(i) for i in range(40)]


def kept(folder: Path) -> Resume:
    return Resume(folder, peer="shop", task="t")


def helper(protocol: str) -> Any:
    return ecdh if protocol == "ecdh" else rsa


def finish(asking: Any, signing: Any) -> list[str]:
    for chunk in asking.blinded():
        asking.unblind(signing.sign(chunk))
    for chunk in signing.tags():
        asking.add_tags(chunk)
    found: list[str] = asking.intersection()
    return found


@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
def test_a_restarted_requester_continues(protocol: str, tmp_path: Path) -> None:
    h = helper(protocol)
    budget = Budget(tmp_path / "b", peer="bank", task="t")
    with h.signer(IDS[20:], budget=budget) as signing:
        first = h.requester(IDS, signing, chunk_ids=10, resume=kept(tmp_path))
        signing.begin(first.count)
        chunks = first.blinded()
        first.unblind(signing.sign(next(chunks)))
        first.unblind(signing.sign(next(chunks)))
        lost = signing.sign(next(chunks))  # signed, but the requester ends before it hears
        with pytest.raises(StateError, match="another run"):
            h.requester(IDS, signing, resume=kept(tmp_path))
        del first, chunks  # as a killed process would leave it
        resume = kept(tmp_path)
        second = h.requester(IDS, signing, chunk_ids=10, resume=resume)
        assert second.resumed == 20
        signing.resume(second.resumed)
        assert signing.sign(next(second.blinded())) == lost  # the same to the last byte, once more
        second.close()
        signing.resume(second.resumed)
        third = h.requester(IDS, signing, chunk_ids=10, resume=kept(tmp_path))
        assert finish(third, signing) == IDS[20:]
        assert budget.spent() == 40  # and counts once
        resume.discard()
        assert not list(tmp_path.glob("*.psi"))


def test_the_file_is_private_and_holds_no_id(tmp_path: Path) -> None:
    with ecdh.signer(["secret-id-1"]) as signing:
        asking = ecdh.requester(["secret-id-1"], signing, resume=kept(tmp_path / "new"))
        signing.begin(1)
        assert finish(asking, signing) == ["secret-id-1"]
    (path,) = (tmp_path / "new").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"secret" not in path.read_bytes() + path.name.encode()


def interrupted(tmp_path: Path, signing: Any) -> Path:
    asking = ecdh.requester(IDS, signing, chunk_ids=10, resume=kept(tmp_path))
    signing.begin(40)
    chunks = asking.blinded()
    for _ in range(3):
        asking.unblind(signing.sign(next(chunks)))
    (path,) = tmp_path.glob("*.psi")
    return path


def test_results_belong_to_key_run_and_ids(tmp_path: Path) -> None:
    with ecdh.signer(IDS) as signing, ecdh.signer(IDS, _key=None) as other_key:
        path = interrupted(tmp_path, signing)
        data = path.read_bytes()
        assert ecdh.requester(IDS, signing, resume=kept(tmp_path)).resumed == 30
        for ids, of in ((IDS, other_key), (IDS[::-1], signing), (IDS[:-1], signing)):
            path.write_bytes(data)
            assert ecdh.requester(ids, of, resume=kept(tmp_path)).resumed == 0
            assert path.stat().st_size == 48  # begun anew
    other = Resume(tmp_path, peer="shop", task="u")
    assert other._journal.path != kept(tmp_path)._journal.path


@pytest.mark.parametrize("cut", [0, 1, 31, 47, 48, 60, 48 + 4 + 400, 48 + 420, 2 * 420 + 47, -1])
def test_torn_files_lose_only_what_is_torn(cut: int, tmp_path: Path) -> None:
    with ecdh.signer(IDS) as signing:
        path = interrupted(tmp_path, signing)
        data = path.read_bytes()
        assert len(data) == 48 + 3 * 420
        whole = max(0, len(data[:cut]) - 48) // 420
        path.write_bytes(data[:cut])
        asking = ecdh.requester(IDS, signing, resume=kept(tmp_path))
        assert asking.resumed == 10 * whole
        signing.resume(asking.resumed)
        assert finish(asking, signing) == IDS


@pytest.mark.parametrize("at", [5, 40, 48, 51, 52, 460, 48 + 421])
def test_changed_files_are_read_up_to_the_change(at: int, tmp_path: Path) -> None:
    with ecdh.signer(IDS) as signing:
        path = interrupted(tmp_path, signing)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
        expected = 10 * ((at - 48) // 420) if at >= 48 else 0
        asking = ecdh.requester(IDS, signing, resume=kept(tmp_path))
        assert asking.resumed == expected
        signing.resume(asking.resumed)
        assert finish(asking, signing) == IDS


def test_a_signer_signs_again_only_so_much() -> None:
    with ecdh.signer(["x"]) as signing:
        with pytest.raises(StateError):
            signing.resume(0)
        signing.begin(3 * RESIGN_VALUES)
        signing._signed_in_all = 2 * RESIGN_VALUES
        for wrong in (-1, 2 * RESIGN_VALUES + 1):
            with pytest.raises(CountError):
                signing.resume(wrong)
        with pytest.raises(BudgetError, match="to sign again"):
            signing.resume(RESIGN_VALUES - 1)
        signing.resume(RESIGN_VALUES + 10)
        signing._signed_in_all += 11
        with pytest.raises(BudgetError):
            signing.resume(RESIGN_VALUES + 10)
        signing.resume(RESIGN_VALUES + 11)


def test_no_more_is_signed_again_once_the_tags_are_out() -> None:
    with ecdh.signer(["x"]) as signing:
        signing.begin(0)
        list(signing.tags())
        with pytest.raises(StateError):
            signing.resume(0)


def test_use_out_of_order(tmp_path: Path) -> None:
    resume = kept(tmp_path)
    with pytest.raises(StateError):
        resume.append([])
    list(resume.open([b"x"], 40))
    with pytest.raises(StateError):
        list(resume.open([b"x"], 40))
    resume.close()
    resume.close()

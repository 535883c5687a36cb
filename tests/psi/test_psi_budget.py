"""Signed values are counted on disk, before they are signed, whatever the peer is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from psi import Budget, BudgetError, ValueRefusedError
from tests.psi.helpers import signer, wire


def test_counts_survive_restarts(tmp_path: Path) -> None:
    Budget(tmp_path / "new" / "folder", peer="p", task="t").spend(3, limit=5)
    again = Budget(tmp_path / "new" / "folder", peer="p", task="t")
    assert again.spent() == 3
    with pytest.raises(BudgetError, match="asks for 3 more signed values; 3 of the 5"):
        again.spend(3, limit=5)
    again.spend(2, limit=5)
    assert Budget(tmp_path / "new" / "folder", peer="p", task="t").spent() == 5


def test_peers_and_tasks_are_counted_apart_under_any_name(tmp_path: Path) -> None:
    names = ["", ".", "..", "../../x", "a/b", "a\0b", "x" * 5000, "\ud800", "CON", "ab", "a"]
    for number, name in enumerate(names):
        Budget(tmp_path, peer=name, task="b").spend(number, limit=100)
    for number, name in enumerate(names):
        assert Budget(tmp_path, peer=name, task="b").spent() == number
    assert Budget(tmp_path, peer="b", task="a").spent() == 0
    assert Budget(tmp_path, peer="", task="ab").spent() == 0
    assert all(path.parent == tmp_path for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"7", b"\xff\xfe", b'{"signed": 0}', b'{"signed": -5, "check": ""}'],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    budget = Budget(tmp_path, peer="p", task="t")
    budget.spend(3, limit=5)
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(content)
    for call in (budget.spent, lambda: budget.require(1, 5), lambda: budget.spend(1, 5)):
        with pytest.raises(BudgetError, match="cannot be read"):
            call()


def test_an_edited_or_borrowed_count_is_refused(tmp_path: Path) -> None:
    budget = Budget(tmp_path, peer="p", task="t")
    budget.spend(33, limit=50)
    (path,) = tmp_path.glob("*.json")
    right = path.read_text()
    path.write_text(right.replace("33", "3"))
    with pytest.raises(BudgetError):
        budget.spent()
    path.write_text(right)
    other = Budget(tmp_path, peer="q", task="t")
    other.spend(1, limit=50)
    (second,) = set(tmp_path.glob("*.json")) - {path}
    path.write_text(second.read_text())
    with pytest.raises(BudgetError):
        budget.spent()


def test_a_draft_left_by_a_crash_does_no_harm(tmp_path: Path) -> None:
    budget = Budget(tmp_path, peer="p", task="t")
    budget.spend(3, limit=9)
    (path,) = tmp_path.glob("*.json")
    path.with_suffix(".new").write_bytes(b"half a rec")
    assert budget.spent() == 3
    budget.spend(1, limit=9)
    assert budget.spent() == 4


def test_a_requester_over_budget_also_after_a_restart(tmp_path: Path) -> None:
    def fresh() -> Budget:
        return Budget(tmp_path, peer="host", task="t")

    with signer(["x"], budget=fresh(), max_peer_ids=5) as signing:
        signing.begin(5)
        signing.sign(wire(2, 3, 4))
    with signer(["x"], budget=fresh(), max_peer_ids=5) as signing:
        with pytest.raises(BudgetError):
            signing.begin(3)
        signing.begin(2)
        signing.sign(wire(2, 3))
    assert fresh().spent() == 5
    with signer(["x"], budget=fresh(), max_peer_ids=5) as signing:
        signing.begin(0)
        with pytest.raises(BudgetError):
            signer(["x"], budget=fresh(), max_peer_ids=5).begin(1)


def test_without_a_file_the_limit_holds_for_one_run() -> None:
    with signer(["x"], max_peer_ids=2) as signing:
        with pytest.raises(BudgetError, match="announced 3 ids; allowed: 2"):
            signing.begin(3)
        signing.begin(2)


def test_recorded_before_signed_and_nothing_recorded_for_refused_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(tmp_path, peer="host", task="t")
    with signer(["x"], budget=budget) as signing:
        signing.begin(4)
        with pytest.raises(ValueRefusedError):
            signing.sign(wire(0))
        assert budget.spent() == 0
        seen: list[int] = []
        right = signing._backend().power_d

        def watch(chunk: bytes) -> bytes:
            seen.append(budget.spent())
            return right(chunk)

        monkeypatch.setattr(signing._backend(), "power_d", watch)
        signing.sign(wire(2, 3))
        assert seen == [2]


def test_two_runs_at_once_share_one_count(tmp_path: Path) -> None:
    first = signer(["x"], budget=Budget(tmp_path, peer="h", task="t"), max_peer_ids=3)
    second = signer(["x"], budget=Budget(tmp_path, peer="h", task="t"), max_peer_ids=3)
    first.begin(3)
    second.begin(3)  # both could still have all of it
    first.sign(wire(2, 3))
    with pytest.raises(BudgetError):
        second.sign(wire(2, 3))
    second.sign(wire(2))
    assert Budget(tmp_path, peer="h", task="t").spent() == 3


def test_a_count_that_another_process_holds_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    budget = Budget(tmp_path, peer="h", task="t")
    budget.spend(1, limit=9)
    (lock,) = tmp_path.glob("*.lock")
    monkeypatch.setattr("psi.storage.budget._LOCK_SECONDS", 0.01)
    with FileLock(lock), pytest.raises(TimeoutError, match="another process has held") as caught:
        budget.spend(1, limit=9)
    assert caught.value.filename == str(lock)
    budget.spend(1, limit=9)
    assert budget.spent() == 2

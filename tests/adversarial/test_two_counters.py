"""Two processes of a party cannot both take the last of a limit."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heterofed.errors import LeakLimitError
from heterofed.hetero_nn.serve.row_quota import RowQuota
from heterofed.privacy.ledger import ReleaseLedger
from heterofed.runs.term_limits import BytesLimit, count_round


@pytest.mark.parametrize("measure", ["rounds", "bytes"])
def test_only_one_of_two_processes_takes_the_last(
    measure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ReleaseLedger(tmp_path, "task", "bank").close()
    both, counted = threading.Barrier(2), ReleaseLedger.counted

    def slow(self: ReleaseLedger, run: bytes, what: str) -> int:
        found = counted(self, run, what)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # both have read the count, unless one of them has to wait
        return found

    def take(_: int) -> bool:
        ledger = ReleaseLedger(tmp_path, "task", "bank")
        run: Any = SimpleNamespace(
            plan=SimpleNamespace(limits=SimpleNamespace(max_rounds=1, max_bytes=10)),
            opened_ledger=lambda: ledger,
            party=SimpleNamespace(name="bank"),
        )
        try:
            if measure == "rounds":
                count_round(run)
            else:
                BytesLimit(run, 10).leaves("peer", SimpleNamespace(), 10)  # type: ignore[arg-type]
        except LeakLimitError:
            return False
        finally:
            ledger.close()
        return True

    monkeypatch.setattr(ReleaseLedger, "counted", slow)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(take, range(2))) == [False, True]


@pytest.mark.parametrize("kept", [7, 100])
def test_processes_that_serve_share_the_rows_of_a_period(kept: int, tmp_path: Path) -> None:
    def quota() -> RowQuota:
        limits = {"minute": 900, "day": 1000}
        return RowQuota(tmp_path / "served.json", limits, lambda: clock[0])

    def serve(one: RowQuota) -> int:
        served = 0
        while not one.grant(kept):
            served += kept
        return served

    clock = [6e8]
    several = [quota() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        served = sum(pool.map(serve, several))
    assert 900 - 3 * (kept + 9) < served <= 900
    for each in several:
        each.close()
    served += serve(last := quota())
    assert 900 - kept < served <= 900
    clock[0] += 60
    served += serve(last)
    assert 1000 - kept < served <= 1000
    assert all(each.grant(kept) > 0 for each in several)
